"""The page of web/ in a real browser, beside the Python predictor.

Needs node, npm and chromium, hence the mark: `python -m pytest -m web`. The browser
is driven once, by web/tests/browser.mjs; the tests look at what it wrote down.
HYDRANET_WEB_SCREENSHOTS names a folder that keeps the screenshots.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sample_pictures import astronaut, crowd
from small_network import SIZE, random_images, random_model
from source_files import write_lists

from hydranet_tf import (
    crops,
    detection,
    litert,
    litert_metadata,
    parity,
    predictor,
    preprocessing,
    runtimes,
    saved_model,
)
from hydranet_tf.model import answer_model
from hydranet_tf.tasks import DISTRIBUTION, TASKS, with_head

pytestmark = pytest.mark.web

WEB = Path(__file__).resolve().parents[1] / "web"
SCREENSHOTS = (
    "1_start", "2_answers", "3_crowd", "4_no_face", "5_face_already",
    "6_broken_model", "7_phone_start", "8_phone_answers", "9_dark", "10_camera",
    "11_camera_refused",
)  # fmt: skip

# Arithmetic in another order on the same pixels. Of the variants with weights in
# eight bits, a value that lies between two steps may go to either.
BOUNDS = {
    "model": parity.MAX_DIFFERENCE["float32"],
    "float16": parity.MAX_DIFFERENCE["float32"],
    "dynamic": {"years": 0.5, "probability": 0.01},
    "int8": {"years": 0.5, "probability": 0.01},
    "integer": {"years": 1.0, "probability": 0.02},
}


def node(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """Runs a command in web/ and shows what it said where it failed."""
    done = subprocess.run(
        arguments, cwd=WEB, capture_output=True, text=True, timeout=240, **options
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    if missing or not found:
        pytest.fail(
            "tests marked web need node, npm and chromium on the path: apt-get "
            "install chromium nodejs npm, or leave these tests out"
        )
    return found


@pytest.fixture(scope="module")
def packages():
    """The packages of the lock, installed where they are not."""
    chromium()
    lock, installed = WEB / "package-lock.json", WEB / "node_modules/.installed"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        node("npm", "ci", "--no-audit", "--no-fund")
        shutil.copyfile(lock, installed)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Models, whole and broken, and pictures, most of them drawn."""
    folder = tmp_path_factory.mktemp("inputs")
    _write_models(folder)
    _write_pictures(folder)
    return folder


def _write_models(folder: Path) -> None:
    def write(name, tasks, variant, **options):
        model = random_model(tasks=tasks)
        litert.write(
            answer_model(model),
            saved_model.describe(tasks, SIZE),
            folder / f"{name}.tflite",
            variant,
            **options,
        )

    faces = random_images(20, seed=1)
    write("model", with_head(TASKS, DISTRIBUTION), litert.FLOAT32)
    write("any_batch", TASKS, litert.FLOAT32, dynamic_batch=True)
    write("float16", TASKS, litert.FLOAT16)
    write("dynamic", TASKS, litert.DYNAMIC)
    write("int8", TASKS, litert.INT8, calibration=faces)
    write("integer", TASKS, litert.INTEGER, calibration=faces)

    content = bytearray((folder / "model.tflite").read_bytes())
    (folder / "cut.tflite").write_bytes(content[: len(content) // 2])
    content[len(content) // 2] ^= 1
    (folder / "damaged.tflite").write_bytes(content)
    (folder / "foreign.tflite").write_bytes(b"not a network" * 99)


def _write_pictures(folder: Path) -> None:
    astronaut().save(folder / "astronaut.png")
    crowd(3, 2, 240).save(folder / "crowd.png")
    # What a camera films: frames of JPEG, one after the other.
    astronaut().crop((0, 0, 512, 384)).resize((640, 480)).save(
        folder / "camera.mjpeg", "JPEG", quality=95
    )
    # Smooth, as faces are: half a level of a pixel must not decide an answer.
    corners = np.random.default_rng(3).integers(0, 256, (4, 5, 3))
    smooth = tf.image.resize(corners.astype(np.float32), [120, 150], "bicubic")
    pixels = np.clip(np.round(smooth.numpy()), 0, 255).astype(np.uint8)
    face = Image.fromarray(pixels)
    face.crop((10, 0, 107, 97)).save(folder / "face.png")
    face.save(folder / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn right, which also tells a face from its mirror image.
    face.save(folder / "turned.jpg", quality=95, exif=exif)
    clear = face.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(face.size))
    clear.save(folder / "clear.png")
    Image.new("RGB", (320, 200), (120, 130, 140)).save(folder / "plain.png")
    Image.new("RGB", (40, 7)).save(folder / "tiny.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")


@pytest.fixture(scope="module")
def report(packages, inputs, tmp_path_factory) -> dict:
    """What the browser saw; the built page is what a user gets."""
    kept = os.environ.get("HYDRANET_WEB_SCREENSHOTS")
    outputs = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    outputs.mkdir(parents=True, exist_ok=True)
    node("npm", "run", "build")
    node("node", "tests/browser.mjs", chromium(), inputs, outputs)
    return {**json.loads((outputs / "report.json").read_text()), "outputs": outputs}


def test_types_are_right(packages):
    node("npm", "run", "check")


# --- single functions, in node --------------------------------------------------


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
                for name in ("model", "int8", "cut", "foreign", "damaged")
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
        expected = crops.cut(questions["image"], crops.Square(corner, across), 32)
        off = np.abs(unpacked(found, 32) - expected)
        # OpenCV interpolates in steps of a 32nd of a pixel.
        assert off.max() <= 6
        assert off.mean() <= 0.5


def test_pictures_are_resized_as_python_does(answers, questions):
    for found, (height, width, size) in zip(answers["resize"], SIDES, strict=True):
        cropped = preprocessing.square(questions["noise"][:height, :width])
        expected = preprocessing.resize(cropped, size).numpy()
        np.testing.assert_array_equal(unpacked(found, size), expected)


def test_descriptions_are_read_as_python_does(answers, inputs):
    whole, quantised, cut, foreign, damaged = answers["read"]
    for found, name in ((whole, "model"), (quantised, "int8")):
        expected, _ = litert_metadata.read(inputs / f"{name}.tflite")
        # Of the whole file, which a file cannot say about itself.
        del expected["sha256"], expected["bytes"]
        assert found["description"] == expected
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
    (face,) = detection.find_faces(pixels)
    chip = crops.cut(pixels, crops.locate(face), 200)
    names = ["41_1_0_1.png", "41_1_0_2.png"]
    for name in names:
        Image.fromarray(chip).save(tmp_path / name)
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


# --- the page, in Chromium ------------------------------------------------------


def assert_same(tasks: dict, expected: dict, bound: dict) -> None:
    """The numbers of a card beside answers of Python for one face."""
    assert tasks.keys() == {"age", "gender", "race"}
    names = ["age", "age_low", "age_high"] if "age_low" in expected else ["age"]
    years = [float(np.ravel(expected[name])[0]) for name in names]
    np.testing.assert_allclose(tasks["age"], years, rtol=0, atol=bound["years"])
    for name in ("gender", "race"):
        np.testing.assert_allclose(
            tasks[name], expected[name][0], rtol=0, atol=bound["probability"]
        )


def crop_of(face: dict) -> np.ndarray:
    return np.array(face["crop"], np.uint8).reshape(1, SIZE, SIZE, 3)


@pytest.mark.parametrize("picture", ["face.png", "wide.png", "clear.png", "turned.jpg"])
def test_answers_are_the_predictors_for_a_picture_that_is_a_face(
    report, inputs, picture
):
    """Decoded, turned, laid over white, cut, resized and answered the same."""
    (face,) = report["answers"][picture]["faces"]
    encoded = (inputs / picture).read_bytes()
    crop = preprocessing.decode_and_resize(tf.constant(encoded), SIZE).numpy()
    off = np.abs(crop_of(face)[0].astype(int) - crop)
    # Canvases hold colour multiplied by alpha in eight bits.
    assert off.max() <= (1 if picture == "clear.png" else 0)
    ask = predictor.Predictor(inputs / "model.tflite", detector=None)
    (expected,) = ask(inputs / picture)
    flat = {
        "age": [expected.age],
        "age_low": [expected.age_low],
        "age_high": [expected.age_high],
        "gender": [list(expected.probabilities["gender"].values())],
        "race": [list(expected.probabilities["race"].values())],
    }
    assert_same(face["tasks"], flat, BOUNDS["model"])


@pytest.mark.parametrize("name", ["float16", "dynamic", "int8", "integer"])
def test_every_variant_answers_as_in_python(report, inputs, name):
    seen = report["answers"][name]
    (face,) = seen["faces"]
    expected = runtimes.load(inputs / f"{name}.tflite").answers(crop_of(face))
    assert_same(face["tasks"], expected, BOUNDS[name])
    assert f"{name}.tflite: age, gender, race; " in seen["about"]


def test_a_found_face_is_cut_where_python_cuts_it(report, inputs):
    """Two detectors, one contract."""
    seen = report["answers"]["astronaut"]
    (face,) = seen["faces"]
    assert seen["status"].startswith("1 face found: ")
    assert seen["picture"] == "The picture, 1 face marked"
    runtime = runtimes.load(inputs / "model.tflite")
    assert_same(face["tasks"], runtime.answers(crop_of(face)), BOUNDS["model"])
    ask = predictor.Predictor(runtime)
    crop = ask.find(inputs / "astronaut.png").crops[0].astype(int)
    shown = crop_of(face)[0].astype(int)
    assert np.abs(shown - crop).mean() < 20
    assert np.corrcoef(shown.ravel(), crop.ravel())[0, 1] > 0.9
    (expected,) = ask(inputs / "astronaut.png")
    for task in ("gender", "race"):
        np.testing.assert_allclose(
            face["tasks"][task], list(expected.probabilities[task].values()), atol=0.01
        )
    assert face["tasks"]["age"][0] == pytest.approx(expected.age, abs=0.1)


def test_many_faces(report):
    seen = report["answers"]["crowd"]
    assert len(seen["faces"]) == 6
    assert seen["status"].startswith("6 faces found: ")
    assert [face["text"].split("\n")[0] for face in seen["faces"]] == [
        f"Face {i}" for i in range(1, 7)
    ]


def test_a_card_reads_as_text(report):
    (face,) = report["answers"]["astronaut"]["faces"]
    age, low, high = (round(x) for x in face["tasks"]["age"])
    text = " ".join(face["text"].split())
    assert f"{age} years 80 % interval {low} to {high}" in text
    for task in TASKS[1:]:
        for name, share in zip(task.classes, face["tasks"][task.name], strict=True):
            assert re.search(rf"{name} {100 * share:.0f} %", text)


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("model_cut", "cut short"),
        ("model_foreign", "made by export.py"),
        ("model_damaged", "damaged"),
        ("model_any_batch", "without --dynamic_batch"),
        ("broken_picture", "no picture that the browser can read"),
        ("tiny_picture", "sides of at least 8 pixels; this one has 40 × 7"),
    ],
)
def test_broken_files_get_their_sentence(report, state, hint):
    assert hint in report["answers"][state]["error"]


def test_a_picture_without_a_face_gets_its_sentence(report):
    seen = report["answers"]["plain"]
    assert seen["status"].startswith("No face was found. ")
    assert seen["error"] is None and seen["faces"] == []


def test_a_broken_model_leaves_the_one_before(report):
    after, before = report["answers"]["after_broken"], report["answers"]["integer"]
    assert after["faces"][0]["tasks"] == before["faces"][0]["tasks"]
    assert after["error"] is None


def test_files_may_be_dropped(report):
    dropped, chosen = report["answers"]["dropped"], report["answers"]["astronaut"]
    assert dropped["faces"][0]["tasks"] == chosen["faces"][0]["tasks"]


def test_a_camera_is_answered(report):
    seen = report["camera"]
    assert seen["button"] == "Stop the camera"
    assert seen["stopped"] == "Use the camera"
    assert seen["status"] == "1 face found."
    assert len(seen["faces"]) == 1


def test_no_camera_and_a_refused_one_get_their_sentence(report):
    assert "There is no camera on this device" in report["no_camera"]["error"]
    assert "The camera was not allowed" in report["camera_refused"]["error"]


def test_nothing_leaves_the_device(report):
    assert {urlsplit(url).netloc for url in report["requests"]} == {
        urlsplit(origin).netloc for origin in report["origins"]
    }
    refused = report["refused"]
    assert refused["fetched"] == "refused"
    assert refused["hits"] == 0
    assert not refused["inline"]
    assert refused["broken"] == [
        "connect-src", "connect-src", "connect-src", "form-action", "frame-src",
        "img-src", "script-src-elem", "script-src-elem",
    ]  # fmt: skip


def test_threads_where_the_headers_allow_them(report):
    assert report["isolated"] is True
    threads = int(re.search(r"on (\d+) threads", report["model_status"])[1])
    assert threads == min(4, os.cpu_count())
    plain = report["plain"]
    assert plain["isolated"] is False
    assert "on one thread" in plain["status"]
    threaded = report["answers"]["face.png"]["faces"][0]["tasks"]
    for name, values in plain["faces"][0]["tasks"].items():
        np.testing.assert_allclose(values, threaded[name], rtol=0, atol=1e-4)


def test_by_keyboard(report):
    keyboard = report["keyboard"]
    assert keyboard["focused"] == ["model-file", "picture-file", "camera", "whole"]
    assert keyboard["before"]["status"].startswith("1 face found")
    assert keyboard["after"]["status"].startswith("The picture was taken as a face")


def test_for_screen_readers(report):
    """No finding of axe in any state; headings, controls and results have names."""
    assert report["axe"] == {"start": [], "answers": [], "phone_dark": []}
    for line in (
        'heading "Face attributes on this device" [level=1]',
        'button "Choose a model"',
        'button "Choose a picture"',
        'button "Use the camera"',
        'checkbox "It is one face, cut already"',
        'img "The picture, 1 face marked"',
        "status: ",
        'heading "age" [level=4]',
    ):
        assert line in report["aria"], line


def test_fits_a_phone(report):
    assert report["width"] == 360


def test_no_errors_on_the_console(report):
    assert report["console"] == []


def test_screenshots_are_taken(report):
    for name in SCREENSHOTS:
        content = (report["outputs"] / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            levels = np.asarray(image.convert("L"))
        assert levels.std() > 3, name
