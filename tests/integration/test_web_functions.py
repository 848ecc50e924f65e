"""Single functions of web/src beside those of the package, by node.

Needs what tests/integration/test_web.py needs, hence the same mark.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sample_pictures import astronaut
from source_files import write_lists
from web_page import WEB, install, node, write_broken_models, write_model

from hydranet_tf.data import crops, detection, graph_decoding, yunet
from hydranet_tf.inference import litert_metadata

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def packages():
    install()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, whole and broken."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder, "model")
    write_broken_models(folder)
    return folder


def test_types_are_right(packages):
    node("npm", "run", "check")


def packed(image: np.ndarray) -> dict:
    height, width = image.shape[:2]
    levels = base64.b64encode(image.tobytes()).decode()
    return {"width": width, "height": height, "levels": levels}


def floats(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpacked(text: str, size: int) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    return levels.reshape(size, size, 3).astype(int)


# Corner and upper edge: level, turned, small, beyond each side of the picture.
SQUARES = (
    (20 + 30j, 80 + 0j),
    (60.3 + 20.7j, 55 + 21j),
    (40 + 40j, 9 - 3j),
    (-30 - 25j, 120 + 10j),
    (90 + 70j, 90 - 40j),
)
SIDES = ((97, 97, 40), (120, 150, 40), (150, 120, 60), (80, 80, 40), (24, 24, 40))


@pytest.fixture(scope="module")
def questions(inputs):
    rng = np.random.default_rng(0)
    image = np.asarray(astronaut().resize((150, 130)))
    noise = rng.integers(0, 256, (150, 150, 3)).astype(np.uint8)
    points = rng.uniform(0, 200, (3, 5, 2))
    target = list(crops.CONTRACT["points"].values())
    scores = np.full(48 * 48, -5.0)
    # Two neighbours that see one face, and one that sees another, larger one.
    scores[[48 * 10 + 10, 48 * 10 + 11, 48 * 30 + 30]] = 2.0, 1.0, 3.0
    rows = np.zeros((48 * 48, 16))
    rows[:, 2:4] = 20
    rows[48 * 30 + 30, 2:4] = 40
    rows[:, 4:] = np.arange(12)
    return {
        "image": image,
        "noise": noise,
        "points": points,
        "scores": scores,
        "asked": {
            "locate": [[found.tolist(), target] for found in points],
            "cut": [
                {
                    "image": packed(image),
                    "square": {
                        "corner": [corner.real, corner.imag],
                        "across": [across.real, across.imag],
                    },
                    "size": 32,
                }
                for corner, across in SQUARES
            ],
            "resize": [
                {"image": packed(noise[:height, :width]), "size": size}
                for height, width, size in SIDES
            ],
            "read": [
                str(inputs / f"{name}.tflite")
                for name in ("model", "cut", "foreign", "damaged")
            ],
            "input": [packed(np.ascontiguousarray(image[:96, :96])), packed(image)],
            "faces": [
                {
                    "image": packed(np.zeros((192, 384, 3), np.uint8)),
                    "regressors": floats(rows),
                    "scores": floats(scores),
                    "contract": crops.CONTRACT["points"],
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def answers(packages, questions):
    done = node("node", "tests/units.mjs", input=json.dumps(questions["asked"]))
    return json.loads(done.stdout)


def test_a_face_is_located_as_python_does(answers, questions):
    for found, points in zip(answers["locate"], questions["points"], strict=True):
        landmarks = tuple((float(x), float(y)) for x, y in points)
        expected = crops.locate(
            detection.Detection((0, 0, 9, 9), landmarks=landmarks), used=range(5)
        )
        np.testing.assert_allclose(complex(*found["corner"]), expected.corner)
        np.testing.assert_allclose(complex(*found["across"]), expected.across)


def test_a_square_is_cut_as_python_does(answers, questions):
    for found, (corner, across) in zip(answers["cut"], SQUARES, strict=True):
        expected = crops.crop(questions["image"], crops.Square(corner, across), 32)
        off = np.abs(unpacked(found, 32) - expected)
        # OpenCV interpolates in steps of a 32nd of a pixel.
        assert off.max() <= 6
        assert off.mean() <= 0.5


def test_pictures_are_resized_as_python_does(answers, questions):
    for found, (height, width, size) in zip(answers["resize"], SIDES, strict=True):
        cropped = graph_decoding.square(questions["noise"][:height, :width])
        expected = graph_decoding.resize(cropped, size).numpy()
        np.testing.assert_array_equal(unpacked(found, size), expected)


def test_descriptions_are_read_as_python_does(answers, inputs):
    whole, cut, foreign, damaged = answers["read"]
    expected, _ = litert_metadata.read(inputs / "model.tflite")
    # Of the whole file, which a file cannot say about itself.
    del expected["sha256"], expected["bytes"]
    assert whole["description"] == expected
    assert cut["known"] and "cut short" in cut["error"]
    assert foreign["known"] and "made by export.py" in foreign["error"]
    assert damaged["known"] and "damaged" in damaged["error"]


def test_the_detector_sees_the_whole_picture(answers, questions):
    twice, fitted = (
        np.frombuffer(base64.b64decode(text), "<f4").reshape(192, 192, 3)
        for text in answers["input"]
    )
    expected = questions["image"][:96, :96].repeat(2, 0).repeat(2, 1) / 127.5 - 1
    np.testing.assert_allclose(twice, expected, atol=1e-6)
    # 150 x 130 pixels in 192 x 192: 12.8 rows above and below are left black.
    assert (fitted[[0, 12, 179, 191]] == -1).all()
    assert (fitted[[13, 178]] > -1).any()


def test_neighbours_are_one_face(answers):
    large, small = answers["faces"][0]
    # In a picture twice as wide as the input, which lies 48 input pixels down.
    centre = 2 * np.array([30.5 * 4, 30.5 * 4 - 48])
    np.testing.assert_allclose(
        large["box"], [*(centre - 40), *(centre + 40)], rtol=1e-6
    )
    first, second = (1 / (1 + np.exp(-x)) for x in (2.0, 1.0))
    x = (10.5 * first + 11.5 * second) / (first + second)
    centre = 2 * np.array([x * 4, 10.5 * 4 - 48])
    np.testing.assert_allclose(
        small["box"], [*(centre - 20), *(centre + 20)], rtol=1e-6
    )
    assert small["score"] == pytest.approx(first)
    # Eyes and mouth: the first, second and fourth of six points.
    expected = [centre + 2 * np.array(p) for p in ((0, 1), (2, 3), (6, 7))]
    np.testing.assert_allclose(small["points"], expected, rtol=1e-6)


def test_the_detector_can_be_measured_anew(packages, tmp_path):
    """Faces that are cut to the contract are found where they are."""
    pixels = np.asarray(astronaut())
    (face,) = yunet.find_faces(pixels)
    face_crop = crops.crop(pixels, crops.locate(face), 200)
    names = ["41_1_0_1.png", "41_1_0_2.png"]
    for name in names:
        Image.fromarray(face_crop).save(tmp_path / name)
    write_lists(tmp_path, validation=names)
    done = subprocess.run(
        [sys.executable, WEB.parent / "benchmarks/browser_detector.py",
         f"--data={tmp_path}", f"--split_lists={tmp_path}",
         f"--json={tmp_path / 'raw.json'}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    assert found["with_one_face"] == found["chips"] == 2
    assert found["squares"]["scale_error_percent"] < 10
    assert found["squares"]["shift_error_percent"] < 5
    assert np.abs(list(found["offsets"].values())).max() < 0.08
