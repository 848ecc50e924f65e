"""Our LiteRT files against the same network in other runtimes, one face at a time.

    python benchmarks/runtimes.py --json=bench_output/runtimes.json

makes an untrained network in PyTorch, gives its weights to ours, writes the float32
and int8 files, exports the original to ONNX for ONNX Runtime and OpenVINO, checks
that all float32 predictions agree to 1e-3 and then lets all predict in turns, with one
thread and with two. The peers come with requirements-bench.txt.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rounds
from absl import app, flags, logging

_BACKBONE = flags.DEFINE_enum(
    "backbone", "resnet34", ["resnet18", "resnet34"], "The network."
)
_SIZE = flags.DEFINE_integer("image_size", 128, "Side of its images in pixels.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.")
_PREDICTIONS = flags.DEFINE_integer("predictions", 5, "Predictions in a round.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

OURS, INT8 = "LiteRT", "LiteRT int8"
ONNX, OPENVINO, PYTORCH = "ONNX Runtime", "OpenVINO", "PyTorch"
PEERS = (ONNX, OPENVINO, PYTORCH)
THREADS = (1, 2)
TOLERANCE = 1e-3


class DifferentPredictionsError(RuntimeError):
    """What shall be compared is not the same network."""


def make(folder: Path):
    """The network in PyTorch and, by the names of the runtimes, its files."""
    import numpy as np
    import torch
    import torch_peer

    from hydranet_tf.exporting import litert
    from hydranet_tf.model import HydraNet

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    size = _SIZE.value
    images = rng.integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    peer = torch_peer.Peer(_BACKBONE.value)
    torch_peer.settle(peer, images)
    network = torch_peer.Predictions(peer).train(False)
    model = HydraNet(_BACKBONE.value, size)
    torch_peer.copy_weights(peer, model)
    files = {
        OURS: folder / "float32.tflite",
        INT8: folder / "int8.tflite",
        ONNX: folder / "network.onnx",
    }
    predictions = model.inference_model()
    files[OURS].write_bytes(litert.convert(predictions))
    files[INT8].write_bytes(
        litert.convert(predictions, litert.INT8, representative_faces=images)
    )
    torch.onnx.export(
        network, (torch.zeros(1, 3, size, size),), files[ONNX],
        input_names=["images"], output_names=[task.name for task in peer.tasks],
        dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    return network, files, images[0]


def runners(network, files, image, threads: int):
    """By name, what predicts for the image: float arrays in the order of tasks."""
    import numpy as np
    import onnxruntime
    import openvino
    import torch

    from hydranet_tf.exporting import latency
    from hydranet_tf.tasks import TASKS

    nchw = np.ascontiguousarray(image[np.newaxis].transpose(0, 3, 1, 2), np.float32)

    def lite(path, dtype):
        signature = latency.signature(path, threads)
        pixels = image[np.newaxis].astype(dtype)

        def run():
            predictions = signature(images=pixels)
            return [predictions[task.name] for task in TASKS]

        return run

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(files[ONNX]), options, providers=["CPUExecutionProvider"]
    )
    compiled = openvino.Core().compile_model(
        str(files[ONNX]), "CPU",
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
         # On new processors it would compute in 16 bits.
         "INFERENCE_PRECISION_HINT": "f32"},
    )  # fmt: skip
    tensor = torch.from_numpy(nchw).to(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)

    def by_torch():
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return [prediction.numpy() for prediction in network(tensor)]

    return {
        OURS: lite(files[OURS], np.float32),
        INT8: lite(files[INT8], np.uint8),
        ONNX: lambda: session.run(None, {"images": nchw}),
        OPENVINO: lambda: list(compiled([nchw]).values()),
        PYTORCH: by_torch,
    }


def check(predictions) -> dict[str, float]:
    """The largest differences from PyTorch's predictions, ages in units of a year.

    Raises:
        DifferentPredictionsError: where those of a float32 runtime are too large.
    """
    import numpy as np

    # Not Python's max, which passes over NaN.
    differences = {
        name: float(
            np.max(
                [
                    np.abs(one - other).max()
                    for one, other in zip(found, predictions[PYTORCH], strict=True)
                ]
            )
        )
        for name, found in predictions.items()
        if name != PYTORCH
    }
    for name in (OURS, ONNX, OPENVINO):
        if not differences[name] <= TOLERANCE:
            raise DifferentPredictionsError(
                f"{name} and PyTorch differ by {differences[name]:.2g}, more than "
                f"{TOLERANCE}: these are not the same network"
            )
    return differences


def repeated(run):
    def way():
        for _ in range(_PREDICTIONS.value):
            run()

    return way


def measure(folder: Path) -> dict:
    network, files, image = make(folder)
    found = {}
    for threads in THREADS:
        ways = runners(network, files, image, threads)
        differences = check({name: run() for name, run in ways.items()})
        times = rounds.taken(
            {name: repeated(run) for name, run in ways.items()}, _ROUNDS.value
        )
        best = min(PEERS, key=rounds.medians(times[rounds.SECONDS]).get)
        found[str(threads)] = {
            **times,
            "milliseconds": {
                name: 1e3 * spent / _PREDICTIONS.value
                for name, spent in rounds.medians(times[rounds.SECONDS]).items()
            },
            "best_peer": best,
            "ratios": {
                "float32 to the best peer": rounds.ratios(times, OURS, best),
                "int8 to our float32": rounds.ratios(times, INT8, OURS),
            },
        }
    sizes = {name: files[name].stat().st_size for name in (OURS, INT8)}
    return {
        "threads": found,
        "largest_differences_from_pytorch": differences,
        "bytes": sizes,
        "int8_size_to_float32": sizes[INT8] / sizes[OURS],
        "settings": {
            "backbone": _BACKBONE.value, "image_size": _SIZE.value,
            "predictions_in_a_round": _PREDICTIONS.value,
        },
        "machine": rounds.machine(
            ["ai-edge-litert", "onnxruntime", "openvino", "torch", "timm"]
        ),
    }  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # The converter reports every file it writes.
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    for threads, row in found["threads"].items():
        times = ", ".join(f"{n} {ms:.1f}" for n, ms in row["milliseconds"].items())
        print(f"threads: {threads}; ms: {times}")
        best, int8 = row["ratios"].values()
        print(
            f"  float32: {best[rounds.SECONDS]:.2f} of {row['best_peer']}'s time, "
            f"{best[rounds.CPU_SECONDS]:.2f} of its processor time (goal: at most 1)"
        )
        print(
            f"  int8: {int8[rounds.SECONDS]:.2f} of our float32's time, "
            f"{int8[rounds.CPU_SECONDS]:.2f} of its processor time (goal: at most "
            "0.95, and 0.45 with 8-bit dot products)"
        )
    print(
        f"int8 has {found['int8_size_to_float32']:.3f} of the size (goal: at most 0.27)"
    )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
