"""The detector that comes along, on faces of every turn and size."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import released
from PIL import Image
from sample_pictures import astronaut, background, crowd

from hydranet_tf.data import crops, detection
from hydranet_tf.data.detection import FaceFinder
from hydranet_tf.inference.predictor import Predictor

REPOSITORY = Path(__file__).resolve().parents[2]

# Read off the photograph by eye, in pixels.
LEFT_EYE, RIGHT_EYE, MOUTH = (205, 101), (249, 104), (225, 144)
TURNS = range(0, 360, 45)


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(astronaut())


def head(width=90):
    """The astronaut's head, its face so many pixels wide."""
    picture = astronaut().crop((130, 0, 330, 260))
    size = [round(side * width / 90) for side in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS)


def near(point, expected, by=6):
    return np.hypot(point[0] - expected[0], point[1] - expected[1]) < by


def degrees(face):
    return np.degrees(np.angle(crops.locate(face).across))


def test_the_astronaut_has_one_face_where_it_is(pixels):
    (face,) = detection.find_faces(pixels)
    left, top, right, bottom = face.box
    assert left < LEFT_EYE[0] < RIGHT_EYE[0] < right
    assert top < LEFT_EYE[1] < MOUTH[1] < bottom
    assert 70 < right - left < 120 and 90 < bottom - top < 140
    assert 0.92 < face.score <= 1
    left_eye, right_eye, nose, mouth_left, mouth_right = face.landmarks
    assert near(left_eye, LEFT_EYE) and near(right_eye, RIGHT_EYE)
    assert near(np.mean([mouth_left, mouth_right], axis=0), MOUTH)
    assert left_eye[1] < nose[1] < mouth_left[1]


def test_large_pictures_are_searched_small_and_found_in_their_own_pixels(pixels):
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


def turned(scene, angle):
    """A picture of one face that is turned counter-clockwise, and its eyes' middle."""
    if scene == "portrait":
        picture = astronaut()
        eyes = complex(227, 102.5)
    elif scene == "head alone":
        picture = head()
        eyes = complex(227 - 130, 102.5)
    else:
        picture = background(900, 700)
        part = head().rotate(angle, Image.Resampling.BICUBIC, expand=True)
        picture.paste(part, (300, 200))
        return picture, turned("head alone", angle)[1] + (300 + 200j)
    middle = complex(*picture.size) / 2
    result = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    moved = (eyes - middle) * np.exp(-1j * np.radians(angle))
    return result, complex(*result.size) / 2 + moved


@pytest.fixture(scope="module")
def predicting():
    return Predictor(released.LITERT)


@pytest.mark.parametrize("scene", ["portrait", "head alone", "in a scene"])
def test_a_face_in_all_eight_turns(scene, predicting):
    """Where it is, how it is turned, and the same predictions."""
    picture, _ = turned(scene, 0)
    (upright,) = predicting(np.asarray(picture))
    for angle in TURNS:
        picture, eyes = turned(scene, angle)
        (face,) = detection.find_faces(np.asarray(picture))
        middle = np.mean([complex(*point) for point in face.landmarks[:2]])
        assert abs(middle - eyes) < 8, angle
        # The photograph's own tilt is 4 degrees; Pillow turns the other way round.
        off = (degrees(face) - 4 + angle + 180) % 360 - 180
        assert abs(off) < 8, angle
        (predicted,) = predicting(np.asarray(picture))
        assert abs(predicted.age - upright.age) < 3, angle
        assert predicted.gender == upright.gender == "female"


def test_a_picture_on_its_side_with_several_faces():
    picture = crowd(3, 2, step=160)
    for angle in (90, 180, 270):
        found = detection.find_faces(np.asarray(picture.rotate(angle, expand=True)))
        assert len(found) == 6
        for face in found:
            assert abs((degrees(face) + angle + 180) % 360 - 180) < 15


def test_an_upright_picture_is_searched_once(monkeypatch):
    """The other turns cost nothing where a face was found; two looks at one face."""
    calls = []
    search = FaceFinder._search
    monkeypatch.setattr(
        FaceFinder, "_search", lambda *a: calls.append(a[2]) or search(*a)
    )
    looks, look = [], detection._look
    monkeypatch.setattr(detection, "_look", lambda *a: looks.append(1) or look(*a))
    assert len(detection.find_faces(np.asarray(astronaut()))) == 1
    assert calls == [0] and len(looks) <= 2
    calls.clear()
    assert detection.find_faces(np.asarray(background(300, 300))) == []
    assert calls == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "box",
    [(0, 0, 230, 512), (212, 0, 512, 512), (0, 110, 512, 512), (0, 0, 512, 125)],
)
def test_a_face_cut_by_the_border(box):
    """Half of it and more is there: to the right, left, top and bottom of the cut."""
    (face,) = detection.find_faces(np.asarray(astronaut().crop(box)))
    left_eye, right_eye = face.landmarks[:2]
    assert near(left_eye, np.subtract(LEFT_EYE, box[:2]), 14)
    assert near(right_eye, np.subtract(RIGHT_EYE, box[:2]), 14)


@pytest.mark.parametrize("scale", [1.5, 5])
def test_a_large_face_in_front_cut_on_three_sides(scale):
    part = astronaut().crop((180, 50, 300, 190))
    picture = part.resize([round(scale * side) for side in part.size], Image.BICUBIC)
    (face,) = detection.find_faces(np.asarray(picture))
    for found, seen in zip(face.landmarks, (LEFT_EYE, RIGHT_EYE), strict=False):
        assert near(np.divide(found, scale), np.subtract(seen, (180, 50)))


def pasted(width, size, across=12):
    picture = Image.new("RGB", size, (120, 140, 150))
    places = [
        (n % across * 1000 + 300, n // across * 1000 + 300) for n in range(2 * across)
    ]
    for place in places:
        picture.paste(head(width), place)
    return np.asarray(picture), places


def test_twenty_four_small_faces_in_a_panorama():
    picture, places = pasted(50, (12_000, 2_000))
    found = detection.find_faces(picture)
    assert len(found) == 24
    # The middle between the eyes, in the head of 90 pixels.
    eyes = np.array([227 - 130, 102.5]) * 50 / 90
    for place in places:
        assert any(
            near(np.mean(face.landmarks[:2], axis=0), place + eyes, 5) for face in found
        )


def test_the_smallest_face():
    """A fortieth of the shorter side, or what min_face asks for."""
    small, _ = pasted(20, (2_000, 2_000), across=2)
    assert detection.find_faces(small) == []
    assert len(FaceFinder(min_face=16)(small)) == 4
    assert FaceFinder(min_face=30)(small) == []
    assert len(detection.find_faces(small[:640, :640])) == 1


def test_no_face_on_a_desk(tmp_path):
    """Nor in patterns, skies and things."""
    for shape in ((8, 8), (8, 3000), (3000, 8), (200, 200), (1400, 60)):
        plain = np.full((*shape, 3), 128, np.uint8)
        noise = np.random.default_rng(0).integers(0, 256, plain.shape).astype(np.uint8)
        assert detection.find_faces(plain) == []
        assert detection.find_faces(noise) == []
    assert detection.find_faces(np.asarray(background(1280, 960))) == []


def test_the_lowest_score_can_be_chosen(pixels):
    (face,) = FaceFinder(min_score=0)(pixels)
    assert FaceFinder(min_score=face.score)(pixels) == [face]
    assert FaceFinder(min_score=face.score + 1e-6)(pixels) == []


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"min_score": 1.5}, "0..1; got 1.5"),
        ({"min_score": float("nan")}, "got nan"),
        ({"min_face": 0}, "1 pixel or more; got 0"),
    ],
)
def test_settings_that_cannot_be(settings, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        FaceFinder(**settings)


def test_eight_threads_find_what_one_finds(pixels):
    pictures = [pixels, pixels[:, ::-1], pixels[40:300, 100:400], pixels[:60]] * 4
    expected = [detection.find_faces(picture) for picture in pictures]
    assert [len(found) for found in expected[:4]] == [1, 1, 1, 0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(detection.find_faces, pictures)) == expected


def test_a_finder_goes_to_another_process(pixels):
    finder = FaceFinder(min_score=0.7, min_face=30)
    again = pickle.loads(pickle.dumps(finder))
    assert again == finder and again(pixels) == finder(pixels)


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
    # Nor does OpenCV write what it thinks of its engines.
    assert done.stderr == ""


def test_the_network_is_the_one_whose_licence_lies_beside_it():
    folder = Path(detection.__file__).parent / "face_detector"
    found = hashlib.sha256((folder / detection.MODEL_FILE).read_bytes()).hexdigest()
    licence = (folder / "LICENSE").read_text()
    assert found in licence and "MIT License" in licence


def test_the_command_has_the_same_default():
    text = (REPOSITORY / "hydranet_tf" / "commands" / "predict.py").read_text()
    assert f'"min_score", {detection.MIN_SCORE},' in text


def test_the_page_searches_with_the_same_numbers():
    """Those of web/src/detect.ts, by the names that they have here.

    The tests marked web compare what comes of them; whoever changes one here shall
    see it without a browser.
    """
    text = (REPOSITORY / "web/src/detect.ts").read_text()
    found = dict(re.findall(r"^const ([A-Z_]+) = ([\d.]+);$", text, re.M))
    # The page has no --min_face.
    others = {"_SMALLEST", "_MOST_ENLARGED"}
    expected = {
        name.removeprefix("_"): value
        for name, value in vars(detection).items()
        if name.isupper() and isinstance(value, (int, float)) and name not in others
    }
    assert {name: float(value) for name, value in found.items()} == expected
    body = re.search(r"TO_CONTRACT: Position\[\] = \[(.*?)^\];", text, re.M | re.S)[1]
    moved = [
        complex(float(x), float(y)) for x, y in re.findall(r"\[(.+), (.+)\]", body)
    ]
    assert moved == detection._TO_CONTRACT.tolist()
    body = re.search(r"CONTRACT: Contract = \{(.*?)^\};", text, re.M | re.S)[1]
    points = re.findall(r"(\w+): \[(.+), (.+)\]", body)
    assert {name: (float(x), float(y)) for name, x, y in points} == dict(
        crops.CONTRACT["points"]
    )
