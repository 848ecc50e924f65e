"""predict.py against a loop of one face and one task at a time, and its start.

    python benchmarks/photographs.py --data=UTKFace \
        --peer_python=deepface/bin/python --json=bench_output/photographs.json

times in turns, medians of their ratios:

- `predict.py --no_detect` over 2,000 pictures, its start included, against the way
  of DeepFace 0.0.103 over the same network: read a picture, resize it, and for each of
  three tasks call a Keras network with this one face. The loop runs on a part of the
  pictures, warm, its start left out.
- `predict.py` on one picture, from the command to its end, against the import of
  deepface alone. --peer_python names an interpreter that has it (python -m venv
  deepface && deepface/bin/pip install deepface tf-keras flask); it does not go into
  .venv, where its OpenCV would take the place of ours. Without one this part is left
  out and the output says so.

The network is untrained, of the given shape. Without --data smooth random pictures
of 200 x 200 pixels are measured.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags, logging

_DATA = flags.DEFINE_string("data", "", "Folder of faces, cut as UTKFace's are.")
_PICTURES = flags.DEFINE_integer("pictures", 2000, "Pictures for predict.py.")
_LOOPED = flags.DEFINE_integer("looped", 60, "Pictures for the loop.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.")
_BACKBONE = flags.DEFINE_string("backbone", "resnet18", "The network.")
_WIDTH = flags.DEFINE_integer("width", 32, "Its width; 0 for its own.")
_SIZE = flags.DEFINE_integer("image_size", 80, "Side of its images in pixels.")
_PEER = flags.DEFINE_string("peer_python", "", "An interpreter that has deepface.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

ROOT = Path(__file__).resolve().parents[1]
LOOP, TFLITE, SAVED_MODEL = "loop", "predict.py, .tflite", "predict.py, SavedModel"
IMPORT = "import deepface"


def write_models(folder: Path):
    """Exports a network; returns it and its two files by the name of their way."""
    from hydranet_tf import losses
    from hydranet_tf.exporting import litert, saved_model
    from hydranet_tf.model import HydraNet
    from hydranet_tf.tasks import TASKS

    weighting = losses.UncertaintyWeights([task.kind for task in TASKS], [1.0] * 3)
    model = HydraNet(
        _BACKBONE.value, _SIZE.value, width=_WIDTH.value or None, weighting=weighting
    )
    network = model.inference_model()
    description = saved_model.describe(model.tasks, model.image_size)
    litert.write(network, description, folder / "network.tflite")
    saved_model.write(network, description, folder / "network" / "1")
    return network, {
        TFLITE: folder / "network.tflite", SAVED_MODEL: folder / "network"
    }  # fmt: skip


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Links to pictures of --data, or random ones."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    if _DATA.value:
        found = sorted(Path(_DATA.value).resolve().glob("*.jpg"))
        for path in found[:: max(1, len(found) // count)][:count]:
            (folder / path.name).symlink_to(path)
    else:
        rng = np.random.default_rng(0)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            coarse.resize((200, 200), Image.BICUBIC).save(folder / f"{i}.jpg")
    return sorted(folder.iterdir())


def one_task_networks(network) -> list:
    """The network three times, each with one prediction, as DeepFace has them."""
    import keras

    return [keras.Model(network.inputs, output) for output in network.output.values()]


def loop_seconds(networks, files: list[Path]) -> float:
    """Seconds a picture of the loop."""
    import cv2
    import numpy as np

    started = time.perf_counter()
    for file in files:
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        face = cv2.resize(image, (_SIZE.value, _SIZE.value))[np.newaxis]
        for network in networks:
            network({"images": face}, training=False).numpy()
    return (time.perf_counter() - started) / len(files)


def seconds(*command) -> float:
    started = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return time.perf_counter() - started


def predict_seconds(model: Path, pictures: Path, folder: Path) -> float:
    output = folder / "rows.csv"
    output.unlink(missing_ok=True)
    return seconds(
        sys.executable, ROOT / "predict.py", f"--model={model}",
        f"--output={output}", "--no_detect", pictures,
    )  # fmt: skip


def compared(rounds: dict[str, list[float]], peer: str) -> dict:
    """Medians, and how many times longer the peer took: median over the rounds."""
    return {
        "seconds": rounds,
        "medians": {name: statistics.median(times) for name, times in rounds.items()},
        "ratios": {
            name: statistics.median(
                theirs / ours for theirs, ours in zip(rounds[peer], times, strict=True)
            )
            for name, times in rounds.items()
            if name != peer
        },
    }


def measure(folder: Path) -> dict:
    network, models = write_models(folder)
    files = write_pictures(folder / "pictures", _PICTURES.value)
    networks = one_task_networks(network)
    loop_seconds(networks, files[:3])
    throughput = {name: [] for name in (LOOP, *models)}
    starts = {name: [] for name in ([IMPORT] if _PEER.value else []) + list(models)}
    for _ in range(_ROUNDS.value):
        throughput[LOOP].append(loop_seconds(networks, files[: _LOOPED.value]))
        for name, model in models.items():
            taken = predict_seconds(model, folder / "pictures", folder)
            throughput[name].append(taken / len(files))
            starts[name].append(predict_seconds(model, files[0], folder))
        if _PEER.value:
            starts[IMPORT].append(
                seconds(_PEER.value, "-c", "from deepface import DeepFace")
            )
    found = {"a picture of many": compared(throughput, LOOP)}
    if _PEER.value:
        found["start"] = compared(starts, IMPORT)
    found["settings"] = {
        "pictures": len(files), "looped": _LOOPED.value, "backbone": _BACKBONE.value,
        "width": _WIDTH.value, "image_size": _SIZE.value, "cores": os.cpu_count(),
    }  # fmt: skip
    return found


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    for name, ratio in found["a picture of many"]["ratios"].items():
        print(f"{name}: {ratio:.1f} times as fast as the loop (goal: at least 5)")
    if "start" not in found:
        print("start: not compared, for --peer_python is not given")
    for name, ratio in found.get("start", {"ratios": {}})["ratios"].items():
        print(
            f"{name}: first prediction in {1 / ratio:.2f} of the time of {IMPORT} "
            "(goal: below 1)"
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
