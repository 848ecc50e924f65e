"""Prepared TFDS data sets as sources, our own and those of others."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from PIL import Image
from source_files import labels_of, write_folder

from hydranet_tf.data.sources import open_source
from hydranet_tf.io.tables import SourceError

REPOSITORY = Path(__file__).resolve().parents[2]
UTKFACE_LISTS = REPOSITORY / "datasets" / "utkface" / "splits"
# A data set of somebody else: no id, no race, gender in another order.
FOREIGN = """
import numpy as np, sys, tensorflow_datasets as tfds
class Strangers(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    CLASSES, AGE, KEY = ["male", "female"], 40, "image"
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            self.KEY: tfds.features.Image(shape=(8, 8, 3)), "age": np.int64,
            "gender": tfds.features.ClassLabel(names=self.CLASSES)}))
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(3):
            pixels = np.full((8, 8, 3), i, np.uint8)
            yield i, {self.KEY: pixels, "age": self.AGE + i, "gender": i - 1}
class Reversed(Strangers):
    CLASSES = ["female", "male"]
class Ancient(Strangers):
    AGE = 119
class Blind(Strangers):
    KEY = "photo"
for builder in (Strangers, Reversed, Ancient, Blind):
    builder(data_dir=sys.argv[1]).download_and_prepare()
"""


@pytest.fixture(scope="module")
def foreign_dir(tmp_path_factory) -> Path:
    """Prepared in another process, so that this one does not know the builder."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "strangers.py").write_text(FOREIGN)
    forks.run([folder / "strangers.py", folder], cwd=folder).check_returncode()
    return folder


def test_a_data_set_of_somebody_else(foreign_dir):
    examples = open_source("strangers", "train", data_dir=foreign_dir)

    assert sorted(examples.ids) == ["train/0", "train/1", "train/2"]
    assert examples.paths is None
    rows = sorted(labels_of(examples).values())
    assert rows == [(40, -1, -1), (41, 0, -1), (42, 1, -1)]
    for i in range(3):
        image = Image.open(io.BytesIO(examples.read(i)))
        shade = examples.labels["age"][i] - 40
        assert image.getpixel((0, 0)) == (shade, shade, shade)
    assert (
        open_source("strangers:1.0.0", "all", data_dir=foreign_dir).digest()
        == examples.digest()
    )


def test_data_dir_may_come_from_the_environment(foreign_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(foreign_dir))
    assert len(open_source("strangers", "train")) == 3


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ("strangers", "test", "no split 'test' in strangers/1.0.0; it has train"),
        ("strangers:7.0.0", "train", "holds no version 'strangers:7.0.0'"),
        ("reversed", "train", "classes of gender.*female.*expected.*male"),
        ("ancient", "train", "age must be from 0 to 120.*1 examples.*121"),
        ("blind", "train", "expected a feature 'image'.*found.*photo"),
    ],
)
def test_data_sets_that_would_give_wrong_labels(foreign_dir, data, split, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(data, split, data_dir=foreign_dir)


def test_a_prepared_name_goes_before_a_folder_of_that_name(
    foreign_dir, tmp_path, monkeypatch
):
    write_folder(tmp_path / "strangers")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("strangers", "all", data_dir=foreign_dir)) == 3
    assert len(open_source("./strangers", "all", data_dir=foreign_dir)) == 4


@pytest.mark.real_data
def test_the_real_folder_and_the_real_records_are_the_same(tmp_path, utkface_dir):
    (tmp_path / "UTKFace").symlink_to(utkface_dir.resolve())
    builder = REPOSITORY / "datasets" / "utkface" / "utkface_dataset_builder.py"
    command = [sys.executable, builder, f"--data_dir={tmp_path}"]
    subprocess.run([*command, f"--manual_dir={tmp_path}"], check=True, cwd=tmp_path)

    for split, count, left_out in (("train", 16949, 58), ("validation", 1888, 0)):
        files = open_source(utkface_dir, split, split_lists=UTKFACE_LISTS)
        records = open_source("utkface", split, data_dir=tmp_path)
        assert len(files) == len(records) == count
        assert files.digest() == records.digest()
        assert len(files.skipped) == len(records.skipped) == left_out
        order = {name: i for i, name in enumerate(files.ids.tolist())}
        for i in range(0, count, 97):
            assert records.read(i) == files.read(order[records.ids[i]])
    # The test images may be kept elsewhere; if they are here, all of them are.
    everything = open_source(utkface_dir, "all", split_lists=UTKFACE_LISTS)
    assert len(everything) in (18895, 23707)
