"""The builder on drawn dummy files."""

from __future__ import annotations

import shutil
from pathlib import Path

import all_age_faces_dataset_builder
import pytest
import tensorflow_datasets as tfds

from hydranet_tf.data import file_names, sources
from hydranet_tf.io.tables import SourceError

DUMMY = Path(__file__).parent / "dummy_data"
BUILDER = all_age_faces_dataset_builder.Builder
MALE, FEMALE = 0, 1


class AllAgeFacesTest(tfds.testing.DatasetBuilderTestCase):
    """What TFDS asks of every builder."""

    DATASET_CLASS = BUILDER
    SPLITS = {"train": 2, "validation": 1, "test": 2}

    def setUp(self):
        super().setUp()
        self.enter_context(pytest.MonkeyPatch.context()).setattr(
            self.DATASET_CLASS, "SPLIT_LISTS", DUMMY / "splits"
        )

    def test_session(self, *args, **kwargs):
        return super().test_session(*args, **kwargs)

    # A helper of tf.test.TestCase that is called like a test.
    test_session.__test__ = False


def prepare(manual_dir: Path, data_dir: Path) -> Path:
    builder = BUILDER(data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return builder.data_path


@pytest.fixture
def dummy_lists(monkeypatch):
    monkeypatch.setattr(BUILDER, "SPLIT_LISTS", DUMMY / "splits")


@pytest.mark.usefixtures("dummy_lists")
@pytest.mark.parametrize("place", [".", "faces", "All-Age-Faces Dataset/aglined faces"])
def test_labels_come_from_the_names(tmp_path, place):
    shutil.copytree(DUMMY / "aligned faces", tmp_path / "manual" / place)
    prepare(tmp_path / "manual", tmp_path)

    def rows(split):
        found = sources.open_source("all_age_faces", split, data_dir=tmp_path)
        columns = (found.labels[name].tolist() for name in ("age", "gender", "race"))
        return dict(zip(found.ids, zip(*columns, strict=True), strict=True)), found

    # Numbers up to 07380 are female; no race is labelled.
    train, found = rows("train")
    assert train == {"00003A05.jpg": (5, FEMALE, -1), "07381A80.jpg": (80, MALE, -1)}
    images = [DUMMY / "aligned faces" / name for name in found.ids]
    assert [found.read(i) for i in range(2)] == [path.read_bytes() for path in images]
    assert rows("validation")[0] == {"07380A41.jpg": (41, FEMALE, -1)}
    # Whoever is in no list; the last number is 13321, and a portrait has none.
    test, found = rows("test")
    assert test == {"09000A33.jpg": (33, MALE, -1), "13321A02.jpg": (2, MALE, -1)}
    reasons = {skipped.id: skipped.reason for skipped in found.skipped}
    assert "00000 to 13321" in reasons["13322A20.jpg"]
    assert "not of the form" in reasons["portrait.jpg"]


@pytest.mark.usefixtures("dummy_lists")
def test_the_folder_source_gives_the_same(tmp_path):
    prepare(DUMMY, tmp_path)
    for split in ("train", "validation"):
        built = sources.open_source("all_age_faces", split, data_dir=tmp_path)
        files = sources.open_source(
            DUMMY / "aligned faces", split, split_lists=DUMMY / "splits"
        )
        assert built.digest() == files.digest()


@pytest.mark.usefixtures("dummy_lists")
def test_a_part_of_a_split_is_refused(tmp_path):
    faces = shutil.copytree(DUMMY / "aligned faces", tmp_path / "manual" / "faces")
    (faces / "00003A05.jpg").unlink()
    with pytest.raises(
        SourceError, match="1 of the 2 files in train.txt are not there"
    ):
        prepare(tmp_path / "manual", tmp_path / "data")


def test_a_folder_without_the_images_says_what_it_looks_for(tmp_path):
    (tmp_path / "manual" / "key points").mkdir(parents=True)
    with pytest.raises(SourceError, match="(?s)holds 'key points'.*aligned faces/"):
        prepare(tmp_path / "manual", tmp_path / "data")


def test_the_committed_lists_are_what_the_readme_says():
    lists = file_names.read_split_lists(BUILDER.SPLIT_LISTS)
    assert {name: len(found) for name, found in lists.items()} == {
        "train": 9176,
        "validation": 961,
        "test": 0,
    }
    labels, skipped = file_names.label_names(lists["train"] + lists["validation"])
    assert len(labels) == 10137 and not skipped
    ages = [row["age"] for row in labels.values()]
    assert (min(ages), max(ages)) == (2, 80)
