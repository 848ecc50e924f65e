"""How well the page of web/ finds and cuts UTKFace's faces.

    python benchmarks/browser_detector.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --json=bench_output/browser_detector.json

puts crops of the validation part into grey borders of four widths and has the page's
own code (by node, after `npm ci` in web/) search them; LiteRT runs the detector here.
It prints where that detector sees eyes and mouth,
minus where the contract of hydranet_tf/data/crops.py has them: the OFFSETS of
web/src/detect.ts. Then how far the squares that the page cuts are from the crops, in
percent of their side and in degrees.

With --model it also compares a model's scores on the crops as they are with those on
the faces that the page found and cut.
"""

import base64
import itertools
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter
from tqdm import tqdm

from hydranet_tf.data import crops, decoding, sources
from hydranet_tf.evaluation import scores
from hydranet_tf.inference import runtimes

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_CHIPS = flags.DEFINE_integer("chips", 500, "Drawn at random.", lower_bound=2)
_MODEL = flags.DEFINE_string("model", None, "A model to try the cuts with.")
_JSON = flags.DEFINE_string("json", None, "Writes what was found there, too.")

_WEB = Path(__file__).resolve().parents[1] / "web"
_DETECTOR = "node_modules/@mediapipe/face_detection/face_detection_full_range.tflite"
# Of the chip's side, in turn: it fills two thirds to a quarter of the picture.
_BORDERS, _GREY = (0.25, 0.5, 1.0, 1.5), 128
_AT_ONCE = 25


def packed(image):
    levels = base64.b64encode(image.tobytes()).decode()
    return {"width": image.shape[1], "height": image.shape[0], "levels": levels}


def page(**questions):
    """What the functions of web/src answer; see web/tests/units.mjs."""
    asked = {
        name: questions.get(name, [])
        for name in ("locate", "cut", "resize", "read", "input", "faces")
    }
    done = subprocess.run(
        ["node", "tests/units.mjs"],
        cwd=_WEB,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


class Detector:
    """BlazeFace, its input and its predictions as the page has them."""

    def __init__(self):
        self._network = Interpreter(str(_WEB / _DETECTOR))
        self._network.allocate_tensors()

    def __call__(self, pictures):
        """The faces of each picture, as the page's `faces` gives them."""
        questions = []
        inputs = page(input=[packed(picture) for picture in pictures])["input"]
        for picture, text in zip(pictures, inputs, strict=True):
            outputs = self._run(np.frombuffer(base64.b64decode(text), np.float32))
            regressors, found_scores = (
                base64.b64encode(o.tobytes()).decode() for o in outputs
            )
            questions.append(
                {
                    "image": packed(picture),
                    "regressors": regressors,
                    "scores": found_scores,
                    "contract": crops.CONTRACT["points"],
                }
            )
        return page(faces=questions)["faces"]

    def _run(self, pixels):
        (image,) = self._network.get_input_details()
        self._network.set_tensor(image["index"], pixels.reshape(image["shape"]))
        self._network.invoke()
        outputs = [
            self._network.get_tensor(output["index"])
            for output in self._network.get_output_details()
        ]
        return sorted(outputs, key=np.size, reverse=True)


def searched(examples, rows):
    """Rows with one face, their crops, and its points and square in the chip."""
    detector, kept = Detector(), []
    parts = np.array_split(rows, -(-len(rows) // _AT_ONCE))
    for part in tqdm(parts, desc="searching", unit="batch", disable=None):
        cropped = [decoding.square(decoding.decode(examples.read(row))) for row in part]
        borders = [
            round(border * len(face_crop))
            for face_crop, border in zip(cropped, itertools.cycle(_BORDERS))
        ]
        pictures = [
            np.pad(face_crop, [(b, b), (b, b), (0, 0)], constant_values=_GREY)
            for face_crop, b in zip(cropped, borders, strict=True)
        ]
        for row, face_crop, border, picture, faces in zip(
            part, cropped, borders, pictures, detector(pictures), strict=True
        ):
            if len(faces) == 1:
                points = (np.array(faces[0]["points"]) - border) / len(face_crop)
                square = crops.Square(
                    complex(*faces[0]["square"]["corner"]),
                    complex(*faces[0]["square"]["across"]),
                )
                kept.append((row, face_crop, border, points, picture, square))
    return kept


def misplacement(kept):
    """How far the squares are from the crops that they should be."""
    sides = np.array([len(face_crop) for _, face_crop, *_ in kept])
    across = np.array([square.across for *_, square in kept]) / sides
    corner = np.array([s.corner - b * (1 + 1j) for _, _, b, _, _, s in kept]) / sides
    off = np.abs(corner + across * (0.5 + 0.5j) - (0.5 + 0.5j))
    scale = np.abs(np.abs(across) - 1)
    return {
        "scale_median": float(np.median(np.abs(across))),
        "scale_error_percent": float(100 * np.median(scale)),
        "scale_error_percent_p95": float(100 * np.percentile(scale, 95)),
        "shift_error_percent": float(100 * np.median(off)),
        "shift_error_percent_p95": float(100 * np.percentile(off, 95)),
        "turn_degrees_p95": float(
            np.percentile(np.abs(np.degrees(np.angle(across))), 95)
        ),
    }


def with_model(path, examples, kept):
    """Scores of the crops as they are, and of what the page cuts."""
    runtime = runtimes.load(path)
    size = runtime.image_size
    whole = [decoding.resize(face_crop, size) for _, face_crop, *_ in kept]
    cut = [crops.crop(picture, square, size) for *_, picture, square in kept]
    rows = [row for row, *_ in kept]
    results = {"faces": len(kept)}
    for name, images in (("as they are", whole), ("found and cut anew", cut)):
        predictions = runtime.predictions(np.stack(images))
        results[name] = {}
        for task in runtime.tasks:
            score = "mae" if task.is_regression else "accuracy"
            labels = examples.labels[task.name][rows]
            value = scores.score(task, labels, predictions[task.name])[score].value
            results[name][f"{task.name} {score}"] = value
    return results


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if not (_WEB / _DETECTOR).is_file():
        sys.exit(f"expected the detector in web/{_DETECTOR}: run npm ci in web/")
    examples = sources.open_source(
        _DATA.value,
        "validation",
        data_dir=_DATA_DIR.value,
        split_lists=_SPLIT_LISTS.value,
    )
    n = min(_CHIPS.value, len(examples))
    rows = np.random.default_rng(0).choice(len(examples), n, replace=False)
    kept = searched(examples, np.sort(rows))
    if not kept:
        sys.exit("not one face was found: are these aligned chips?")
    contract = {name: np.array(p) for name, p in crops.CONTRACT["points"].items()}
    target = [
        contract["left_eye"],
        contract["right_eye"],
        (contract["mouth_left"] + contract["mouth_right"]) / 2,
    ]
    seen = np.median([points for _, _, _, points, _, _ in kept], axis=0)
    found = {
        "chips": n,
        "with_one_face": len(kept),
        "offsets": dict(
            zip(
                ("left_eye", "right_eye", "mouth"),
                (seen - target).round(4).tolist(),
                strict=True,
            )
        ),
        "squares": misplacement(kept),
    }
    if _MODEL.value:
        found["with_model"] = with_model(_MODEL.value, examples, kept)
    text = json.dumps(found, indent=2)
    print(text)
    if _JSON.value:
        Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
