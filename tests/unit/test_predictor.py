"""Pictures in, faces with predictions out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image
from released import PRESET
from sample_pictures import (
    SIZE,
    astronaut,
    crowd,
    everywhere,
    readable_runtime,
    small_graph_runtime,
)
from small_network import random_model, write_workdir

from hydranet_tf.data import crops, detection, graph_decoding
from hydranet_tf.data.detection import DetectionError
from hydranet_tf.inference import runtimes
from hydranet_tf.inference.predictor import Face, PictureError, Predictor
from hydranet_tf.photos import predict
from hydranet_tf.tasks import DISTRIBUTION, TASKS, with_head


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def as_they_are():
    return Predictor(readable_runtime(), detector=None)


@pytest.fixture(scope="module")
def finding():
    return Predictor(readable_runtime())


def plain(red, green, blue, size=(40, 30)):
    return Image.new("RGB", size, (red, green, blue))


def test_predictions_can_be_worked_out_from_the_pixels(as_they_are):
    (face,) = as_they_are(np.asarray(plain(51, 204, 0)))
    assert face.box is None and face.detection_score is None
    assert face.age == pytest.approx(20)
    assert (face.age_low, face.age_high) == (None, None)
    assert face.gender == "female"
    assert face.probabilities["gender"] == pytest.approx({"male": 0.2, "female": 0.8})
    assert face.race == "white"
    assert list(face.probabilities["race"]) == [
        "white", "black", "asian", "indian", "others"
    ]  # fmt: skip
    assert sum(face.probabilities["race"].values()) == pytest.approx(1)


def test_a_distribution_gives_an_interval():
    tasks = with_head(TASKS, DISTRIBUTION)

    def run(images):
        one = {
            "age": 30.5, "age_low": 21.0, "age_high": 44.25,
            "gender": [0.3, 0.7], "race": [0.2, 0.2, 0.2, 0.2, 0.2],
        }  # fmt: skip
        return {name: np.array([value] * len(images)) for name, value in one.items()}

    asked = Predictor(runtimes.Runtime(tasks, SIZE, 4, run), detector=None)
    (face,) = asked(np.asarray(plain(1, 2, 3)))
    assert (face.age_low, face.age, face.age_high) == (21.0, 30.5, 44.25)


def test_a_face_is_plain_python(finding):
    (face,) = finding(np.asarray(astronaut()))
    text = json.dumps(dataclasses.asdict(face), allow_nan=False)
    back = json.loads(text)
    assert back["predictions"]["age"] == face.age and tuple(back["box"]) == face.box
    assert {type(end) for end in face.box} == {int}
    assert {type(v) for v in (face.age, face.detection_score)} == {float}
    assert {type(p) for s in face.probabilities.values() for p in s.values()} == {float}


def test_paths_bytes_and_arrays_are_one(finding, tmp_path):
    picture = astronaut()
    path = tmp_path / "a.png"
    picture.save(path)
    expected = finding(np.asarray(picture))
    assert len(expected) == 1
    assert finding(path) == finding(str(path)) == expected
    assert finding(path.read_bytes()) == expected


def test_the_prediction_is_that_of_the_crop_contract(finding):
    """By way of the parts: detector, square, cut, runtime."""
    image = np.asarray(astronaut())
    (found,) = detection.find_faces(image)
    face_crop = crops.crop(image, crops.locate(found), SIZE)
    predictions = readable_runtime().predictions(face_crop[np.newaxis])
    (face,) = finding(image)
    assert face.age == predictions["age"][0]
    assert list(face.probabilities["race"].values()) == predictions["race"][0].tolist()
    assert face.box == (180, 68, 270, 175)


def test_as_they_are_is_the_path_of_training(as_they_are):
    data = encoded(astronaut().crop((0, 0, 300, 200)), "JPEG")
    pixels = graph_decoding.decode_and_resize(data, SIZE).numpy()
    expected = readable_runtime().predictions(pixels[np.newaxis])
    assert as_they_are(data)[0].age == expected["age"][0]


def test_alpha_16_bits_grey_and_cmyk(as_they_are):
    transparent = Image.new("RGBA", (20, 20), (10, 10, 10, 0))
    deep = Image.fromarray(np.full((20, 20), 0x4040, np.uint16))
    inks = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    for picture, kind, age, bound in (
        (transparent, "PNG", 100.0, 0.1),
        (deep, "PNG", 100 * 64 / 255, 0.1),
        (Image.new("L", (20, 20), 128), "PNG", 100 * 128 / 255, 0.1),
        (inks, "JPEG", 100.0, 1.0),
    ):
        (face,) = as_they_are(encoded(picture, kind))
        assert face.age == pytest.approx(age, abs=bound), picture.mode


def test_exif_turns_the_picture_before_the_search():
    seen = []

    def watch(image):
        seen.append(image.shape)
        return []

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(plain(9, 9, 9, (40, 30)), "JPEG", exif=exif)
    assert Predictor(readable_runtime(), watch)(data) == []
    assert seen == [(40, 30, 3)]


@pytest.mark.parametrize(
    ("picture", "hint"),
    [
        (b"", "the file is empty"),
        (b"GIF89a" + b"\0" * 50, "damaged GIF|at least 8"),
        (encoded(plain(1, 2, 3), "JPEG")[:200], "."),
        (encoded(plain(1, 2, 3), "PNG").replace(b"\x08\x02", b"xx", 1), "damaged PNG"),
        ("nowhere.jpg", "No such file"),
        (".", "directory"),
        ("a\0b", "null"),
        (3, "got int"),
        (np.zeros((20, 20, 5), np.uint8), r"\[20, 20, 5\]"),
        (np.zeros((20, 20, 3), np.float32), "float32"),
        (np.zeros((0, 20, 3), np.uint8), "at least 8"),
    ],
)
def test_what_is_no_picture_is_told(as_they_are, picture, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PictureError, match=hint):
        as_they_are(picture)


def test_a_picture_without_a_face_and_no_picture(finding):
    assert finding(np.zeros((100, 100, 3), np.uint8)) == []
    assert finding.predict([]) == []


def test_thirty_faces_in_one_picture_and_many_pictures_at_once(finding):
    picture = np.asarray(crowd())
    found = finding.find(picture)
    assert found.crops.shape == (30, SIZE, SIZE, 3)
    none = finding.find(np.zeros((60, 60, 3), np.uint8))
    many, empty, again = finding.predict([found, none, found])
    assert empty == [] and many == again == finding(picture)
    boxes = [face.box for face in found.detections]
    areas = [(right - left) * (below - top) for left, top, right, below in boxes]
    assert areas == sorted(areas, reverse=True)
    assert [tuple(round(end) for end in box) for box in boxes] == [f.box for f in many]


def test_a_users_detector():
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, 30:] = 255
    dark, light = Predictor(readable_runtime(), everywhere)(picture)
    assert (dark.box, light.box) == ((0, 0, 30, 30), (30, 0, 60, 30))
    assert (dark.detection_score, light.detection_score) == (0.75, None)
    # The square around a box reaches beyond it, so neither is pure.
    assert dark.age < 40 < 60 < light.age


def test_a_detector_that_fails_or_gives_something_else():
    def fails(image):
        raise KeyError("weights")

    picture = np.zeros((30, 60, 3), np.uint8)
    with pytest.raises(DetectionError, match="60 x 30 pixels: KeyError: 'weights'"):
        Predictor(readable_runtime(), fails)(picture)
    with pytest.raises(DetectionError, match="it has tuple"):
        Predictor(readable_runtime(), lambda image: [(0, 0, 5, 5)])(picture)


def test_a_model_of_other_tasks_is_refused():
    other = dataclasses.replace(TASKS[1], classes=("no", "yes"))
    runtime = dataclasses.replace(readable_runtime(), tasks=(TASKS[0], other))
    with pytest.raises(ValueError, match="its own gender"):
        Predictor(runtime)


def test_a_model_of_fewer_tasks_leaves_the_others_out():
    runtime = dataclasses.replace(readable_runtime(), tasks=TASKS[:1])
    (face,) = Predictor(runtime, None)(np.asarray(plain(51, 204, 0)))
    assert face == Face(None, None, {"age": face.age})
    assert face.gender is None and face.race is None


def test_a_path_is_loaded(tmp_path):
    write_workdir(random_model(), tmp_path / "run")
    image = np.asarray(astronaut())
    (face,) = Predictor(tmp_path / "run")(image)
    (other,) = Predictor(runtimes.load(tmp_path / "run"))(image)
    assert face == other
    with pytest.raises(runtimes.LoadError, match="workdir"):
        Predictor(tmp_path / "nothing")


def test_eight_threads_get_the_serial_predictions():
    predictor = Predictor(small_graph_runtime())
    picture = astronaut()
    pictures = [
        encoded(picture.rotate(degrees).crop((60, 0, 400, 340)))
        for degrees in range(-14, 15, 4)
    ] + [np.asarray(crowd(3, 2)), encoded(plain(1, 2, 3))]
    expected = [predictor(picture) for picture in pictures]
    assert [len(faces) for faces in expected] == [1] * 8 + [6, 0]
    ages = {round(face.age, 3) for faces in expected[:8] for face in faces}
    assert len(ages) > 4, "predictions that are all the same show nothing"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor, pictures * 8))
    for faces, serial in zip(found, expected * 8, strict=True):
        assert [face.box for face in faces] == [face.box for face in serial]
        for face, other in zip(faces, serial, strict=True):
            assert face.age == pytest.approx(other.age, abs=1e-4)
            assert face.race == other.race
            for task, fractions in face.probabilities.items():
                assert fractions == pytest.approx(other.probabilities[task], abs=1e-5)


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_two_hundred_calls_do_not_grow():
    predictor = Predictor(small_graph_runtime())
    data = encoded(astronaut().crop((130, 30, 330, 230)).resize((128, 128)), "JPEG")

    def calls(n):
        for _ in range(n):
            assert len(predictor(data)) == 1
        gc.collect()

    calls(30)
    resident, grown = resident_bytes(), []
    for _ in range(2):
        calls(170)
        before, resident = resident, resident_bytes()
        grown.append(resident - before)
    # One decoded picture is 49,152 bytes: keeping them would be 8 MB each time. What
    # grows once is threads and caches of the tests before this one.
    assert min(grown) < 6e6, grown
    tracemalloc.start()
    try:
        # TensorFlow fills caches of its own in the first calls.
        calls(40)
        python = tracemalloc.get_traced_memory()[0]
        calls(80)
        # The dicts of one Face alone are more than a kilobyte.
        assert tracemalloc.get_traced_memory()[0] - python < 80 * 700
    finally:
        tracemalloc.stop()


def test_lists_of_pictures_in_one_call(finding, tmp_path):
    picture = astronaut()
    path = tmp_path / "a.png"
    picture.save(path)
    nothing = np.zeros((60, 60, 3), np.uint8)
    found = finding([path, nothing, picture, encoded(picture)] * 9)
    assert len(found) == 36 and found[1] == []
    assert found[0] == found[2] == found[3] == found[32] == finding(path)
    assert found[0].picture == path and found[2].picture is None
    assert finding([]) == [] and finding((nothing,)) == [[]]
    with pytest.raises(PictureError, match="picture 34: cannot be opened: No such"):
        finding([path] * 34 + ["nowhere.jpg"])


def test_truncated_pictures_say_so(finding):
    data = encoded(astronaut(), "JPEG")
    (faces,) = finding([data[: int(0.9 * len(data))]])
    assert len(faces) == 1 and faces.damage.startswith("truncated")
    assert finding(data).damage is None


def test_a_face_keeps_its_landmarks_and_on_request_its_crop(finding):
    image = np.asarray(astronaut())
    (face,) = finding(image)
    (found,) = detection.find_faces(image)
    np.testing.assert_allclose(face.landmarks, found.landmarks)
    assert face.crop is None and face.embedding is None
    (face,) = finding(image, crops=True)
    np.testing.assert_array_equal(face.crop, finding.find(image).crops[0])
    with pytest.raises(ValueError, match="a preset or a workdir for embeddings"):
        finding(image, embeddings=True)


def test_an_embedding_is_what_the_heads_read():
    """By hand from the dense layers of a head, whose probabilities it must give."""
    model = random_model()
    predictor = Predictor(runtimes.from_model(model), None)
    images = [np.asarray(astronaut().rotate(turn)) for turn in (0, 90)]
    for (face,) in predictor(images, embeddings=True):
        assert face.embedding.dtype == np.float32 and face.embedding.ndim == 1
        hidden, logits = (
            model.network.get_layer(f"race_{name}") for name in ("hidden", "logits")
        )
        read = np.asarray(hidden(face.embedding[None]))
        scores = np.exp(np.asarray(logits(read))[0])
        fractions = list(face.probabilities["race"].values())
        np.testing.assert_allclose(scores / scores.sum(), fractions, atol=1e-5)
    none = predictor.runtime.features(np.zeros((0, *model.input_shape[1:]), np.uint8))
    assert none.shape == (0, len(face.embedding))


def test_the_released_network_gives_embeddings_without_keras():
    """Of the .tflite file those of the preset, but for its arithmetic in 8 bits."""
    image = np.asarray(astronaut())
    predictor = Predictor()
    (face,) = predictor(image, crops=True, embeddings=True)
    expected = runtimes.load(PRESET).features(face.crop[None])[0]
    assert face.embedding.dtype == np.float32
    assert face.embedding.shape == expected.shape
    assert np.corrcoef(face.embedding, expected)[0, 1] > 0.999
    # Not of the mirror image, which the network sees as well.
    mirrored = predictor.runtime.features(face.crop[None, :, ::-1])[0]
    assert np.corrcoef(mirrored, expected)[0, 1] < 0.999
    assert predictor(image)[0].embedding is None
    assert predictor.runtime.features(
        np.zeros((0, *face.crop.shape), np.uint8)
    ).shape == (0, len(expected))


def test_a_frame_has_the_rows_of_the_command(finding, tmp_path):
    path = tmp_path / "crowd.png"
    crowd(2, 1).save(path)
    nothing = tmp_path / "nothing.png"
    plain(1, 2, 3).save(nothing)
    found = finding([path, nothing, path.read_bytes()])
    frame = found.to_frame()
    output = tmp_path / "faces.csv"
    predict.predict([str(path), str(nothing)], finding, output)
    expected = pandas.read_csv(output)
    assert frame["age"].dtype == float
    texts = ["file", "gender", "race", "status"]
    for one in (frame, expected):
        one[texts] = one[texts].fillna("")
    pandas.testing.assert_frame_equal(frame[:3], expected, check_dtype=False)
    assert list(frame["file"][3:]) == ["2", "2"]
    pandas.testing.assert_frame_equal(found[0].to_frame(), frame[:2], check_dtype=False)
    assert list(found[1].to_frame()["status"]) == ["no_face"]


def test_a_frame_without_pandas_says_what_to_install(finding, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        finding([]).to_frame()


def test_a_predictor_goes_to_another_process(tmp_path, monkeypatch):
    write_workdir(random_model(), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    predictor = Predictor("run", None)
    sent = pickle.dumps(predictor)
    assert len(sent) < 1000, "its path, not its weights"
    monkeypatch.chdir("/")
    image = np.asarray(astronaut())
    assert pickle.loads(sent)(image) == predictor(image)
    released = Predictor(detector=None)
    assert pickle.loads(pickle.dumps(released))(image) == released(image)
    with pytest.raises(TypeError, match="Predictor of a path"):
        pickle.dumps(Predictor(readable_runtime()))
    faces = predictor([image], crops=True)
    assert pickle.loads(pickle.dumps(faces)) == faces


@pytest.mark.long
def test_a_thousand_pictures_leave_no_memory(tmp_path):
    """The whole command in a process of its own, of which the kernel tells the most."""
    data = encoded(astronaut().resize((200, 200)), "JPEG")
    for i in range(1000):
        (tmp_path / f"{i:03}.jpg").write_bytes(data)
    script = (
        "import sys, glob\n"
        "from broken_bytes import memory\n"
        "from hydranet_tf.inference.predictor import Predictor\n"
        "from hydranet_tf.photos import predict\n"
        "model, files = Predictor(), sorted(glob.glob('*.jpg'))\n"
        "for n in (100, 400, 1000):\n"
        "    predict.predict(files[:n], model, 'faces.csv')\n"
        "    print(memory('VmHWM'), memory('VmRSS'))\n"
    )
    paths = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    few, more, many = (
        [int(number) for number in line.split()] for line in done.stdout.splitlines()
    )
    # Decoded they take 120 kB each, and 67 kB as crops: 58,000 for the last 900.
    assert many[1] - few[1] < 40_000, (few, more, many)
    assert many[0] - few[0] < 40_000, (few, more, many)
