"""The crop contract: where a face lies in its square, and how it gets there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import documents
import forks
import numpy as np
import pytest
import released
from PIL import Image
from sample_pictures import astronaut

from hydranet_tf.data import crops, detection, graph_decoding
from hydranet_tf.data.detection import LANDMARKS, Detection
from hydranet_tf.exporting import saved_model
from hydranet_tf.tasks import TASKS

REPOSITORY = Path(__file__).resolve().parents[2]


def points():
    return np.array([crops.CONTRACT["points"][name] for name in LANDMARKS])


def placed(side, turn, corner):
    """The contract's points in a picture, by a rotation matrix."""
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return side * points() @ matrix.T + corner


def test_the_contract_is_what_was_measured():
    found = json.loads((REPOSITORY / "results" / "crop_contract.json").read_text())
    for name, point in crops.CONTRACT["points"].items():
        np.testing.assert_allclose(found["contract"]["points"][name], point, atol=0.006)
    # MTCNN's boxes reach a little higher.
    np.testing.assert_allclose(
        found["contract"]["box"], crops.CONTRACT["box"], atol=0.035
    )
    assert found["with_one_face"] >= 300
    assert tuple(crops.CONTRACT["points"]) == LANDMARKS


def test_the_contract_is_of_an_upright_face():
    left_eye, right_eye, nose, mouth_left, mouth_right = points()
    assert left_eye[1] == right_eye[1] < nose[1] < mouth_left[1] == mouth_right[1]
    assert left_eye[0] < nose[0] < right_eye[0]


def test_the_rule_tells_the_numbers():
    rule = crops.rule()
    for name in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"):
        assert "({:g}, {:g})".format(*crops.CONTRACT["points"][name]) in rule


@pytest.mark.parametrize("side", [40, 777])
@pytest.mark.parametrize("turn", [-170, -20, 0, 35, 90])
@pytest.mark.parametrize("count", [2, 5])
def test_landmarks_give_back_the_square_they_were_placed_by(side, turn, count):
    corner = np.array([31.0, -12.5])
    landmarks = tuple(map(tuple, placed(side, turn, corner)[:count]))
    square = crops.locate(Detection((0, 0, 1, 1), None, landmarks))
    assert square.side == pytest.approx(side)
    assert np.degrees(np.angle(square.across)) == pytest.approx(turn)
    assert square.corner == pytest.approx(complex(*corner))


def test_a_box_gives_its_square_upright():
    low_x, low_y, high_x, high_y = crops.CONTRACT["box"]
    box = (100 + 50 * low_x, 200 + 50 * low_y, 100 + 50 * high_x, 200 + 50 * high_y)
    square = crops.locate(Detection(box))
    assert square.corner == pytest.approx(100 + 200j)
    assert square.across == pytest.approx(50)


def test_a_square_on_whole_pixels_is_cut_as_numpy_cuts():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    found = crops.crop(image, crops.Square(20 + 10j, 32 + 0j), 32)
    np.testing.assert_array_equal(found, image[10:42, 20:52])


def test_shrinking_is_the_resize_of_every_image():
    image = np.asarray(astronaut())
    found = crops.crop(image, crops.Square(100 + 50j, 192 + 0j), 48)
    expected = graph_decoding.resize(image[50:242, 100:292], 48).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns(turns):
    """Against numpy's: a corner of a turned square and the way its edge goes."""
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    corner = {1: 40 + 0j, 2: 40 + 40j, 3: 40j}[turns]
    found = crops.crop(image, crops.Square(corner, 40 * 1j**turns), 40)
    np.testing.assert_array_equal(found, np.rot90(image, turns))


def test_beyond_the_picture_its_edge_is_repeated():
    image = np.random.default_rng(2).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    found = crops.crop(image, crops.Square(-10 - 10j, 40 + 0j), 40)
    expected = np.pad(image, [(10, 10), (10, 10), (0, 0)], mode="edge")
    np.testing.assert_array_equal(found, expected)
    far = crops.crop(image, crops.Square(500 + 500j, 40 + 0j), 8)
    assert (far == image[-1, -1]).all()


def test_pictures_longer_than_opencv_counts():
    image = np.zeros((10, 40_000, 3), np.uint8)
    image[:, 39_000:] = 200
    assert (crops.crop(image, crops.Square(39_100 + 1j, 8 + 0j), 8) == 200).all()


def test_a_turned_face_comes_out_as_the_upright_one():
    upright = astronaut().crop((80, 0, 380, 260))
    (face,) = detection.find_faces(np.asarray(upright))
    straight = crops.locate(face)
    expected = crops.crop(np.asarray(upright), straight, 64)
    for degrees in (-25, 20):
        turned = np.asarray(upright.rotate(degrees, Image.BICUBIC, expand=True))
        (face,) = detection.find_faces(turned)
        square = crops.locate(face)
        # Pillow turns the other way round than y downwards.
        turned_by = np.degrees(np.angle(square.across / straight.across))
        assert turned_by == pytest.approx(-degrees, abs=4)
        found = crops.crop(turned, square, 64)
        inner = (slice(12, 60), slice(14, 50))
        unturned = crops.crop(turned, crops.locate(Detection(face.box)), 64)

        def difference(image, inner=inner):
            return np.abs(image[inner].astype(float) - expected[inner]).mean()

        assert difference(found) < 16 < 24 < difference(unturned)


def test_the_benchmark_finds_the_contract_in_chips_that_were_cut_by_it(tmp_path):
    lists = tmp_path / "splits"
    lists.mkdir()
    names = []
    for degrees in (-10, 0, 10):
        picture = np.asarray(astronaut().rotate(degrees, Image.BICUBIC))
        (face,) = detection.find_faces(picture)
        face_crop = crops.crop(picture, crops.locate(face), 200)
        names.append(f"43_1_0_{20170101000000000 + degrees + 20}.jpg.chip.jpg")
        Image.fromarray(face_crop).save(tmp_path / names[-1], "JPEG", quality=95)
    for split in ("train", "validation", "test"):
        text = "".join(f"{name}\n" for name in names if split == "validation")
        (lists / f"{split}.txt").write_text(text)
    done = forks.run(
        [REPOSITORY / "benchmarks" / "crop_contract.py", f"--data={tmp_path}",
         f"--split_lists={lists}", f"--json={tmp_path / 'found.json'}"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["with_one_face"] == 3
    measured = np.array([found["contract"]["points"][name] for name in LANDMARKS])
    np.testing.assert_allclose(measured, points(), atol=0.05)


PAGE = "docs/crop.md"


def test_another_program_cuts_as_the_page_says(tmp_path, monkeypatch):
    """Four unknowns by the normal equations there, complex numbers here."""
    monkeypatch.chdir(tmp_path)
    description = saved_model.describe(TASKS, 48)
    (tmp_path / "hydranet.json").write_text(json.dumps(description))
    names = {}
    exec(documents.code_blocks(PAGE, "python")[1], names)
    for degrees, scale in ((0, 1), (20, 0.4), (-15, 1)):
        picture = astronaut().rotate(degrees, Image.BICUBIC)
        picture = picture.resize([round(scale * side) for side in picture.size])
        image = np.asarray(picture)
        (face,) = detection.find_faces(image)
        expected = crops.crop(image, crops.locate(face), 48)
        found = names["cut"](image, face.landmarks)
        # The fixed point of Pillow's filter may round the other way.
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert expected.std() > 20


def test_the_page_quotes_what_was_measured():
    """Its tables and its figures against the files of results/."""
    text = documents.text(PAGE)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    found = {row[0]: [float(v) for v in row[1:]] for row in cells if "eye" in row[0]}
    assert list(found.values()) == [list(p) for p in points()[:2]]
    results = REPOSITORY / "results"
    report = json.loads(released.REPORT.read_text())
    curves = report["margin_sensitivity"]
    for i, factor in enumerate(curves["factors"]):
        values = [curves["tasks"][t.name]["values"][i]["value"] for t in TASKS]
        age, *fractions = values
        row = [f"{factor:g}", f"{age:.2f}", *(f"{100 * s:.1f} %" for s in fractions)]
        assert row in cells
    measured = json.loads((results / "crop_contract.json").read_text())
    quoted = text[text.index("Found by the detector") :].replace("\n", " ")
    for name in ("as they are", "found and cut anew"):
        age, *fractions = measured["with_model"][name].values()
        fractions = " % and ".join(f"{100 * fraction:.1f}" for fraction in fractions)
        assert f"{age:.2f} years, {fractions} %" in quoted
    for name in ("all five", "eyes", "box"):
        way = measured["ways_back"][name]
        scale, shift = way["scale_error_percent"], way["shift_error_percent"]
        assert re.search(rf"{scale:.1f} %[a-z ]* and {shift:.1f} %", quoted), name
