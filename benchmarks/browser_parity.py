"""Whether the page of web/ finds and predicts what `Predictor` does, on photographs.

    python benchmarks/browser_parity.py --photos=FOLDER --json=bench_output/parity.json

Chromium opens the built page (`npm ci && npm run build` in web/) and is given the
photographs one after the other, files as they are; `Predictor()` is given the same.
Printed: in how many pictures both find the same number of faces, how far the ages of
the same faces are apart, how many have the same gender and race, and the time from the
file to the predictions. Both list the largest face first; where the numbers agree, the
faces are taken as the same in that order.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags

from hydranet_tf.inference.predictor import Predictor

_PHOTOS = flags.DEFINE_string("photos", None, "A folder of JPEGs.", required=True)
_COUNT = flags.DEFINE_integer("count", 100, "Drawn at random.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Writes what was found there, too.")

_WEB = Path(__file__).resolve().parents[1] / "web"


def page(paths):
    """What the page shows for each photograph; see web/tests/photographs.mjs."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium or not (_WEB / "dist").is_dir():
        sys.exit(
            "expected chromium on the path and the built page in web/dist: run "
            "npm ci && npm run build in web/"
        )
    done = subprocess.run(
        ["node", "tests/photographs.mjs", chromium],
        cwd=_WEB,
        input=json.dumps([str(path.resolve()) for path in paths]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compared(paths, pages, predictor):
    """The figures; `paths` and what the page showed for each."""
    ages, probabilities, same = [], [], {"gender": [], "race": []}
    agreed, differing, seconds = 0, {}, []
    for path, shown in zip(paths, pages, strict=True):
        start = time.perf_counter()
        faces = predictor(path)
        seconds.append(time.perf_counter() - start)
        if len(faces) != len(shown["faces"]):
            differing[path.name] = {"python": len(faces), "page": len(shown["faces"])}
            continue
        agreed += 1
        for face, card in zip(faces, shown["faces"], strict=True):
            ages.append(card["age"][0] - face.age)
            for task, lists in same.items():
                values = np.array(list(face.probabilities[task].values()))
                off = np.subtract(card[task], values)
                probabilities.append(np.abs(off).max())
                lists.append(int(values.argmax()) == int(np.argmax(card[task])))
    off = np.abs(ages)
    return {
        "pictures": len(paths),
        "same_number_of_faces": agreed,
        "differing": differing,
        "faces_compared": len(ages),
        "age_difference_mean": float(np.mean(ages)),
        "age_difference_mean_absolute": float(off.mean()),
        "age_difference_p95": float(np.percentile(off, 95)),
        "age_difference_max": float(off.max()),
        "probability_difference_max": float(np.max(probabilities)),
        **{f"same_{task}": float(np.mean(values)) for task, values in same.items()},
        "median_ms_page": float(np.median([one["milliseconds"] for one in pages])),
        "median_ms_python": float(1000 * np.median(seconds)),
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    folder = Path(_PHOTOS.value)
    paths = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")
    )
    if not paths:
        sys.exit(f"expected JPEGs in {folder}; there are none")
    count = min(_COUNT.value, len(paths))
    chosen = np.random.default_rng(0).choice(len(paths), count, replace=False)
    paths = [paths[i] for i in sorted(chosen)]
    found = compared(paths, page(paths), Predictor())
    text = json.dumps(found, indent=2)
    print(text)
    if _JSON.value:
        Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
