"""Training on photographs: --crop_faces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import crops, detection, sources
from hydranet_tf.data.detection import Detection
from hydranet_tf.training import train

BOX = (20.0, 15.0, 44.0, 45.0)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Four photographs; in a dark one no face is found, in the last one two."""
    rng = np.random.default_rng(0)
    lines = ["path,age,split"]
    for number, red in enumerate((0, 100, 100, 200)):
        pixels = rng.integers(0, 256, (64, 80, 3)).astype(np.uint8)
        pixels[0, 0] = red
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{20 + number},train")
    (tmp_path / "faces.csv").write_text("\n".join(lines))

    def find_faces(image):
        found = [Detection(BOX)] if image[0, 0, 0] else []
        small = [Detection((1.0, 1.0, 9.0, 9.0))] if image[0, 0, 0] > 150 else []
        return small + found

    monkeypatch.setattr(detection, "find_faces", find_faces)
    return tmp_path / "faces.csv"


def test_faces_are_cropped_as_predict_crops_them(table, capsys):
    config = TrainingConfig(
        data=str(table), backbone="tiny", image_size=32, tasks="age", crop_faces=True
    )
    faces = train.load(config, ["train"])
    assert faces.examples.ids.tolist() == ["1.png", "2.png", "3.png"]
    assert faces.examples.labels["age"].tolist() == [21, 22, 23]
    for row, number in enumerate((1, 2, 3)):
        image = np.asarray(Image.open(table.parent / f"{number}.png"))
        expected = crops.crop(image, crops.locate(Detection(BOX)), 32)
        np.testing.assert_array_equal(faces.images[row], expected)
    (skipped,) = faces.examples.skipped
    assert (skipped.id, skipped.reason) == ("0.png", "no face was found in it")
    printed = capsys.readouterr().out
    assert "4 photographs searched: 1 with several faces" in printed
    assert "1 without (0.png)" in printed


def test_crops_are_no_file_of_uncropped_images(table, tmp_path):
    """Decoded images that are kept in a folder are told apart by the digest."""
    plain = TrainingConfig(
        data=str(table), backbone="tiny", image_size=32, tasks="age",
        cache=str(tmp_path / "kept"),
    )  # fmt: skip
    whole = train.load(plain, ["train"]).examples.select([1, 2, 3])
    cropped = train.load(dataclasses.replace(plain, crop_faces=True), ["train"])
    assert cropped.examples.digest() != whole.digest()
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2


def test_without_any_face(table, monkeypatch):
    monkeypatch.setattr(detection, "find_faces", lambda image: [])
    config = TrainingConfig(
        data=str(table), backbone="tiny", image_size=32, tasks="age", crop_faces=True
    )
    with pytest.raises(sources.SourceError, match="--crop_faces: no face was found"):
        train.load(config, ["train"])
