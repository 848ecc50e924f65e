"""EfficientNet-Lite0 as our int8 file against face-api's age and gender network.

    npm install --prefix face_api @vladmandic/face-api@1.7.15 \
        @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0
    python benchmarks/face_api.py --packages=face_api --json=bench_output/face_api.json

lets both predict for one face with one thread, in turns: face-api by TensorFlow.js'
WebAssembly in node, as it runs where there is no GPU, and ours by LiteRT. Ours is
untrained, and its time is that of any of its kind. With --model, a trained .tflite
file of ours, and --data that file is timed, both also predict for faces of the
validation part, and their scores are compared. face-api has no prediction for race, and
looks for the face itself: here both are shown the same crops. Most of these faces were
among those that face-api was trained on, and none among ours.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rounds
from absl import app, flags, logging

_PACKAGES = flags.DEFINE_string(
    "packages", None, "Folder in which npm installed face-api.", required=True
)
_SIZE = flags.DEFINE_integer(
    "image_size",
    128,
    "Side of an untrained network's faces, and of those that face-api scores.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.")
_PREDICTIONS = flags.DEFINE_integer("predictions", 20, "Predictions in a round.")
_MODEL = flags.DEFINE_string("model", None, "A trained .tflite file of ours.")
_DATA = flags.DEFINE_string("data", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_FACES = flags.DEFINE_integer("faces", 500, "Of the validation part.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

OURS, FACE_API = "ours, LiteRT", "face-api, WebAssembly"


class FaceApi:
    """The network in a process of node that waits for questions."""

    def __init__(self, scratch: Path):
        self._file = scratch / "levels"
        self._node = subprocess.Popen(
            ["node", Path(__file__).with_suffix(".mjs"), _PACKAGES.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, faces, repeat: int = 1) -> list:
        """[age, "male" or "female"] of uint8 `[n, size, size, 3]`, repeated."""
        faces.tofile(self._file)
        question = {"file": str(self._file), "size": faces.shape[1], "repeat": repeat}
        self._node.stdin.write(json.dumps(question) + "\n")
        self._node.stdin.flush()
        line = self._node.stdout.readline()
        if not line:
            sys.exit("node ended; see above. Are the packages in --packages?")
        return json.loads(line)

    def close(self):
        self._node.stdin.close()
        self._node.wait()


def untrained(size: int) -> bytes:
    """The content of an int8 file."""
    import numpy as np

    from hydranet_tf.exporting import litert
    from hydranet_tf.model import HydraNet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    model = HydraNet("efficientnet_lite0", size).inference_model()
    return litert.convert(model, litert.INT8, representative_faces=images)


def litert_run(content: bytes):
    """Its side, and what predicts for `[1, side, side, 3]` with one thread."""
    from hydranet_tf.exporting import latency

    prediction = latency.signature(content)
    image = prediction.get_input_details()["images"]
    side = int(image["shape"][1])
    return side, lambda face: prediction(images=face.astype(image["dtype"]))


def times(peer) -> dict:
    import numpy as np

    content = (
        Path(_MODEL.value).read_bytes() if _MODEL.value else untrained(_SIZE.value)
    )
    side, run = litert_run(content)
    face = np.full((1, side, side, 3), 128, np.uint8)

    def ours():
        for _ in range(_PREDICTIONS.value):
            run(face)

    found = rounds.taken(
        {OURS: ours, FACE_API: lambda: peer(face, _PREDICTIONS.value)}, _ROUNDS.value
    )
    return {
        **found,
        "image_size": side,
        "milliseconds": {
            name: 1e3 * spent / _PREDICTIONS.value
            for name, spent in rounds.medians(found[rounds.SECONDS]).items()
        },
        "ratio": rounds.ratios(found, OURS, FACE_API),
    }


def scored(peer) -> dict:
    """MAE of age and accuracy of gender on the same faces."""
    import numpy as np

    from hydranet_tf.data import pipeline, sources
    from hydranet_tf.inference import runtimes
    from hydranet_tf.tasks import TASKS

    examples = sources.open_source(
        _DATA.value, "validation", split_lists=_SPLIT_LISTS.value
    )
    step = -(-len(examples) // _FACES.value)
    examples = examples.select(range(0, len(examples), step))
    runtime = runtimes.load(_MODEL.value)
    labels = examples.labels
    (gender,) = (task for task in TASKS if task.name == "gender")
    ours = runtime.predictions(pipeline.load_faces(examples, runtime.image_size).images)
    theirs = peer(pipeline.load_faces(examples, _SIZE.value).images)

    def row(ages, genders):
        present = labels["age"] >= 0, labels["gender"] >= 0
        return {
            "age mae": float(np.abs(ages - labels["age"])[present[0]].mean()),
            "gender accuracy": float((genders == labels["gender"])[present[1]].mean()),
        }

    return {
        "faces": len(examples),
        OURS: row(ours["age"], ours["gender"].argmax(-1)),
        FACE_API: row(
            np.array([age for age, _ in theirs]),
            np.array([gender.classes.index(name) for _, name in theirs]),
        ),
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if bool(_MODEL.value) != bool(_DATA.value):
        raise app.UsageError("--model and --data go together")
    # The converter reports every file it writes.
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        peer = FaceApi(Path(folder))
        found = times(peer)
        if _MODEL.value:
            found["scores"] = scored(peer)
        peer.close()
    found["settings"] = {
        "image_size_scored_by_face_api": _SIZE.value,
        "predictions_in_a_round": _PREDICTIONS.value,
        "model": _MODEL.value,
    }
    found["machine"] = rounds.machine(["ai-edge-litert"])
    for name, taken in found["milliseconds"].items():
        print(f"{name:>22}: {taken:.2f} ms a face")
    ratio = found["ratio"]
    print(
        f"ours takes {ratio[rounds.SECONDS]:.2f} of its time, "
        f"{ratio[rounds.CPU_SECONDS]:.2f} of its processor time (goal: below 1)"
    )
    for name in (OURS, FACE_API) if "scores" in found else ():
        row = found["scores"][name]
        print(
            f"{name}: age MAE {row['age mae']:.2f} years, gender "
            f"{100 * row['gender accuracy']:.1f} % of {found['scores']['faces']} faces"
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
