"""The detector that comes along, and what any detector may give."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_pictures import astronaut, crowd

from hydranet_tf.data import detection
from hydranet_tf.data.detection import Detection, DetectionError

REPOSITORY = Path(__file__).resolve().parents[2]

# Read off the photograph by eye, in pixels.
LEFT_EYE, RIGHT_EYE, MOUTH = (205, 101), (249, 104), (225, 144)


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(astronaut())


def near(point, expected, by=6):
    return np.hypot(point[0] - expected[0], point[1] - expected[1]) < by


def test_the_astronaut_has_one_face_where_it_is(pixels):
    (face,) = detection.find_faces(pixels)
    left, top, right, bottom = face.box
    assert left < LEFT_EYE[0] < RIGHT_EYE[0] < right
    assert top < LEFT_EYE[1] < MOUTH[1] < bottom
    assert 70 < right - left < 120 and 90 < bottom - top < 140
    assert 0.99 < face.score <= 1
    left_eye, right_eye, nose, mouth_left, mouth_right = face.landmarks
    assert near(left_eye, LEFT_EYE) and near(right_eye, RIGHT_EYE)
    assert near(np.mean([mouth_left, mouth_right], axis=0), MOUTH)
    assert left_eye[1] < nose[1] < mouth_left[1]


def test_large_pictures_are_searched_small_and_answered_in_their_own_pixels(pixels):
    (face,) = detection.find_faces(pixels)
    large = np.asarray(Image.fromarray(pixels).resize((3072, 3072), Image.BICUBIC))
    (found,) = detection.find_faces(large)
    np.testing.assert_allclose(np.array(found.box) / 6, face.box, atol=8)
    np.testing.assert_allclose(np.array(found.landmarks) / 6, face.landmarks, atol=4)


def test_thirty_faces():
    found = detection.find_faces(np.asarray(crowd(6, 5, step=120)))
    centres = {
        (int((left + right) / 2 // 120), int((top + bottom) / 2 // 120))
        for left, top, right, bottom in (face.box for face in found)
    }
    assert len(found) == 30
    assert centres == {(x, y) for x in range(6) for y in range(5)}


@pytest.mark.parametrize(
    "shape", [(8, 8), (8, 3000), (3000, 8), (200, 200), (1400, 60)]
)
def test_pictures_without_a_face(shape):
    plain = np.full((*shape, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, plain.shape).astype(np.uint8)
    assert detection.find_faces(plain) == []
    assert detection.find_faces(noise) == []


def test_eight_threads_find_what_one_finds(pixels):
    pictures = [pixels, pixels[:, ::-1], pixels[40:300, 100:400], pixels[:60]] * 4
    expected = [detection.find_faces(picture) for picture in pictures]
    assert [len(found) for found in expected[:4]] == [1, 1, 1, 0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(detection.find_faces, pictures)) == expected


def test_finding_leaves_the_picture_as_it_was(pixels):
    picture = pixels.copy()
    picture.setflags(write=False)
    assert detection.find_faces(picture)


def test_the_first_call_needs_no_network(pixels, tmp_path):
    """In a process whose sockets are broken, with every warning an error."""
    np.save(tmp_path / "a.npy", pixels)
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import numpy as np\n"
        "from hydranet_tf.data import detection\n"
        f"print(len(detection.find_faces(np.load({str(tmp_path / 'a.npy')!r}))))\n"
        "print('tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "False"]


@pytest.mark.parametrize(
    ("box", "landmarks", "hint"),
    [
        ((10, 0, 5, 9), None, "left < right"),
        ((0, 9, 5, 9), None, "top < bottom"),
        ((0, 0, float("nan"), 9), None, "left < right"),
        ((0, 0, 9, 9), ((1, 1),), "two eyes"),
        ((0, 0, 9, 9), ((1, 1), (5, float("inf"))), "two eyes"),
        ((0, 0, 9, 9), ((4, 4), (4, 4)), "both are at"),
    ],
)
def test_what_no_detection_can_be(box, landmarks, hint):
    with pytest.raises(DetectionError, match=hint):
        Detection(box, 0.5, landmarks)
