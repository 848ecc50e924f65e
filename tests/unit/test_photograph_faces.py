"""Labelled photographs on their way to a report: found, cropped, counted."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image
from report_files import read_json, read_rows
from sample_pictures import astronaut, readable_runtime
from small_network import encode

from hydranet_tf.data import crops, sources
from hydranet_tf.data.detection import Detection
from hydranet_tf.evaluation import evaluate
from hydranet_tf.inference import photograph_faces
from hydranet_tf.inference.predictor import Predictor

BOXES = {
    # By the red of the picture's first pixel.
    10: [],
    20: [(5, 5, 25, 25)],
    30: [(40, 40, 48, 48), (10, 10, 34, 34)],
}


def detector(image):
    return [Detection(box=box, score=0.99) for box in BOXES[image[0, 0, 0]]]


def pictures():
    """One without a face, one with one, a damaged file, one with two."""
    rng = np.random.default_rng(0)
    found = {}
    for red in BOXES:
        found[red] = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8)
        found[red][0, 0] = red
    return [encode(found[10]), encode(found[20]), b"\x89PNG no", encode(found[30])]


def examples_of(files):
    return sources.Examples(
        ids=np.array([f"photographs/{i}.png" for i in range(len(files))]),
        labels={"age": np.array([10, 20, 30, 40], np.float32)},
        read=lambda i: files[i],
        paths=np.array(["nowhere"] * len(files)),
        skipped=(),
    )


def test_the_largest_face_of_each_goes_on():
    files = pictures()
    found = photograph_faces.search(
        examples_of(files), Predictor(readable_runtime(), detector).find
    )
    assert found.to_json() == {
        "pictures": 4, "without_face": ["photographs/0.png"], "with_several": 1,
    }  # fmt: skip
    kept = found.examples
    assert [name[-5] for name in kept.ids] == ["1", "2", "3"]
    assert list(kept.labels["age"]) == [20, 30, 40]
    assert kept.paths is None
    for number, file, box in ((0, files[1], BOXES[20][0]), (2, files[3], BOXES[30][1])):
        image = np.asarray(Image.open(io.BytesIO(file)))
        square = crops.locate(Detection(box=box, score=0.99))
        expected = crops.crop(image, square, 24)
        shown = np.asarray(Image.open(io.BytesIO(kept.read(number))))
        np.testing.assert_array_equal(shown, expected)
    # For the next to complain about.
    assert kept.read(1) == files[2]


@pytest.fixture
def photographs(tmp_path):
    """A photograph of the astronaut, one without anybody, and their labels."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    astronaut().save(folder / "a.jpg", quality=95)
    Image.new("RGB", (300, 200), (90, 120, 200)).save(folder / "sky.jpg")
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "age", "gender", "race"), ("a.jpg", "42", "female", "white"),
             ("sky.jpg", "30", "male", "")]
        )  # fmt: skip
    return folder / "labels.csv"


def test_a_report_of_photographs(photographs, tmp_path, monkeypatch):
    """With the detector that predict.py has, and a network that is read by hand."""
    runtime = readable_runtime()
    monkeypatch.setattr(evaluate.runtimes, "load", lambda path: runtime)
    content = evaluate.evaluate_model(
        "by hand", str(photographs), "all", tmp_path / "report", crop_faces=True
    )
    assert content["data"]["examples"] == 1
    assert content["data"]["faces"] == {
        "pictures": 2, "without_face": ["sky.jpg"], "with_several": 0,
    }  # fmt: skip
    assert read_json(tmp_path / "report" / "report.json") == content
    # What predict.py says of the same file.
    (face,) = Predictor(runtime)(photographs.parent / "a.jpg")
    (row,) = read_rows(tmp_path / "report")
    assert float(row["predicted_age"]) == pytest.approx(face.age, abs=1e-3)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "the largest of each of 2 photographs" in text
    assert "- `sky.jpg`: no face was found" in text


def test_pictures_of_nobody_are_an_error(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.runtimes, "load", lambda path: readable_runtime())
    lines = photographs.read_text().splitlines()
    photographs.write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(evaluate.EvaluationError, match="any of the 1 pictures"):
        evaluate.evaluate_model(
            "by hand", str(photographs), "all", tmp_path / "report", crop_faces=True
        )
