"""One network with three predictions against three networks with one prediction each.

    python benchmarks/three_networks.py --json=bench_output/three_networks.json

writes float32 LiteRT files of untrained networks and lets them predict for one face
with one thread: time in turns, memory in processes of their own, above what the
imports take. The same of training stands in training_step.py (time) and
`training_memory.py --against=one_task`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory
import rounds
from absl import app, flags, logging

_BACKBONE = flags.DEFINE_string("backbone", "resnet34", "The network.")
_SIZE = flags.DEFINE_integer("image_size", 128, "Side of its images in pixels.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.")
_PREDICTIONS = flags.DEFINE_integer("predictions", 5, "Predictions in a round.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

ONE, THREE = "one network", "three networks"
_GOAL = 0.36


def write(folder: Path) -> dict[str, list[str]]:
    """The files of both ways."""
    from hydranet_tf.exporting import litert
    from hydranet_tf.model import HydraNet
    from hydranet_tf.tasks import TASKS

    def file(name, tasks):
        model = HydraNet(_BACKBONE.value, _SIZE.value, tasks=tasks)
        path = folder / f"{name}.tflite"
        path.write_bytes(litert.convert(model.inference_model()))
        return str(path)

    return {
        ONE: [file("all", TASKS)],
        THREE: [file(task.name, [task]) for task in TASKS],
    }


def runner(paths: list[str], size: int):
    """What lets every file predict once; returns the predictions by name."""
    import numpy as np

    from hydranet_tf.exporting import latency

    signatures = [latency.signature(Path(path)) for path in paths]
    image = np.full((1, size, size, 3), 128, np.float32)

    def run():
        predictions = {}
        for signature in signatures:
            predictions |= signature(images=image)
        return predictions

    return run


def bytes_of_predictions(paths: list[str], size: int) -> int:
    """Memory of the first predictions above that of the imports, in this process."""
    import ai_edge_litert.interpreter  # noqa: F401

    from hydranet_tf.exporting import latency  # noqa: F401

    imported = memory.peak_bytes()
    runner(paths, size)()
    return memory.peak_bytes() - imported


def measure(folder: Path) -> dict:
    size = _SIZE.value
    files = write(folder)
    ways = {name: runner(paths, size) for name, paths in files.items()}

    def repeated(run):
        return lambda: [run() for _ in range(_PREDICTIONS.value)]

    found = rounds.taken(
        {name: repeated(run) for name, run in ways.items()}, _ROUNDS.value
    )
    peaks = {
        name: memory.in_new_process(bytes_of_predictions, paths, size)
        for name, paths in files.items()
    }
    return {
        **found,
        "predictions": {name: sorted(run()) for name, run in ways.items()},
        "milliseconds": {
            name: 1e3 * spent / _PREDICTIONS.value
            for name, spent in rounds.medians(found[rounds.SECONDS]).items()
        },
        "bytes_above_imports": peaks,
        "ratios": {
            **rounds.ratios(found, ONE, THREE),
            "memory": peaks[ONE] / peaks[THREE],
        },
        "settings": {
            "backbone": _BACKBONE.value, "image_size": size,
            "predictions_in_a_round": _PREDICTIONS.value,
        },
        "machine": rounds.machine(["ai-edge-litert"]),
    }  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # The converter reports every file it writes.
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    for name, taken in found["milliseconds"].items():
        print(
            f"{name:>14}: {taken:.1f} ms, "
            f"{found['bytes_above_imports'][name] / 1e6:.0f} MB"
        )
    ratios = found["ratios"]
    print(
        f"one network takes {ratios[rounds.SECONDS]:.2f} of the time of three, "
        f"{ratios[rounds.CPU_SECONDS]:.2f} of the processor time, "
        f"{ratios['memory']:.2f} of the memory (goal: at most {_GOAL})"
    )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
