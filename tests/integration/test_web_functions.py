"""Single functions of web/src beside those of the package, by node.

Needs what tests/integration/test_web.py needs, hence the same mark.
"""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from sample_pictures import astronaut, background, crowd
from web_page import install, node, write_broken_models, write_model

from hydranet_tf.data import crops, detection, graph_decoding
from hydranet_tf.inference import export_metadata

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


def unpacked(text: str, size: int) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(text), np.uint8)
    return levels.reshape(size, size, 3).astype(int)


def scene(angle: float) -> np.ndarray:
    """The portrait, turned, in a larger picture."""
    picture = background(1400, 700)
    face = astronaut().resize((400, 400)).convert("RGBA")
    face = face.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    picture.paste(face, (500, 60), face)
    return np.asarray(picture)


# One step of the search each: upright; turned in the plane; on its side, alone; small
# and many; larger than a tile; cut by the border; none.
PICTURES = {
    "upright": np.asarray(astronaut()),
    "turned": scene(30),
    "upside down": scene(180),
    "on its side": np.ascontiguousarray(np.rot90(np.asarray(astronaut()))),
    "many": np.asarray(crowd(4, 3, 150)),
    "wide": np.tile(np.asarray(crowd(2, 2, 350)), (1, 4, 1)),
    "cut": np.ascontiguousarray(np.asarray(astronaut())[:, 215:]),
    "none": np.asarray(background(500, 400)),
}
FACES = {
    "upright": 1, "turned": 1, "upside down": 1, "on its side": 1, "many": 12,
    "wide": 16, "cut": 1, "none": 0,
}  # fmt: skip
SCALES = ((150, 150, 0.5), (150, 120, 0.37), (97, 150, 0.81), (60, 60, 1 / 3))

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
    return {
        "image": image,
        "noise": noise,
        "points": points,
        "asked": {
            "locate": [[found.tolist(), target] for found in points],
            "crop": [
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
            "scaled": [
                {"image": packed(noise[:height, :width]), "scale": scale}
                for height, width, scale in SCALES
            ],
            "find": [packed(picture) for picture in PICTURES.values()],
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
    for found, (corner, across) in zip(answers["crop"], SQUARES, strict=True):
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
    expected, _ = export_metadata.read_litert(inputs / "model.tflite")
    # Of the whole file, which a file cannot say about itself.
    del expected["sha256"], expected["bytes"]
    assert whole["description"] == expected
    assert cut["known"] and "cut short" in cut["error"]
    assert foreign["known"] and "made by export.py" in foreign["error"]
    assert damaged["known"] and "damaged" in damaged["error"]


def test_beyond_a_picture_it_is_black_where_that_is_wanted(answers, questions):
    for found, (corner, across) in zip(answers["black"], SQUARES, strict=True):
        square = crops.Square(corner, across)
        expected = crops.sampled(questions["image"], square, 32, cv2.BORDER_CONSTANT)
        off = np.abs(unpacked(found, 32) - expected)
        # A 32nd of a pixel from white to black.
        assert off.max() <= 8
        assert off.mean() <= 0.5


def test_pictures_are_shrunk_as_opencv_does(answers, questions):
    for text, (height, width, scale) in zip(answers["scaled"], SCALES, strict=True):
        size = round(width * scale), round(height * scale)
        expected = cv2.resize(
            questions["noise"][:height, :width], size, interpolation=cv2.INTER_AREA
        )
        found = np.frombuffer(base64.b64decode(text), np.uint8)
        assert np.abs(found.reshape(expected.shape).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", PICTURES)
def test_faces_are_found_where_python_finds_them(answers, name):
    """The same faces, boxes and points to a part of the crop's side."""
    found = answers["find"][list(PICTURES).index(name)]
    expected = detection.find_faces(PICTURES[name])
    assert len(found) == len(expected) == FACES[name]
    for face in expected:
        square = crops.locate(face)
        near = min(
            found, key=lambda one: np.abs(np.subtract(one["box"], face.box)).max()
        )
        off = np.subtract(near["points"], face.landmarks)
        assert np.abs(off).max() < 0.01 * square.side
        assert np.abs(np.subtract(near["box"], face.box)).max() < 0.02 * square.side
        assert near["score"] == pytest.approx(face.score, abs=0.01)
        assert complex(*near["square"]["across"]) == pytest.approx(
            square.across, abs=0.01 * square.side
        )
