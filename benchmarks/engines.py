"""What `--runtime=auto` takes, against every runtime chosen by hand.

    python benchmarks/engines.py --json=bench_output/engines.json

exports the released network to .onnx and to a float32 .tflite file and lets each
runtime predict for one face, with one thread and with two, in turns. Printed for each
file: milliseconds and processor milliseconds a face by runtime, and what `auto` takes
as a multiple of the quickest that runs this file. It needs the extras `train`, `onnx`
and `openvino`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import rounds
from absl import app, flags

from hydranet_tf.inference import loading, runtimes

_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.", lower_bound=1)
_FACES = flags.DEFINE_integer("faces", 5, "Faces in a round.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

THREADS = (1, 2)


def files(folder):
    """By name: the released file, and the same network as others would export it."""
    import hydranet_tf
    from hydranet_tf.exporting import litert, onnx_file, saved_model

    model = hydranet_tf.HydraNet.from_preset(loading.released_preset(loading.DEFAULT))
    network = model.inference_model()
    described = saved_model.describe(model.tasks, model.image_size)
    onnx_file.write(network, described, folder / "network.onnx")
    litert.write(network, described, folder / "network.tflite", litert.FLOAT32)
    return {
        "released .tflite": loading.released_litert(),
        "float32 .tflite": folder / "network.tflite",
        ".onnx": folder / "network.onnx",
    }


def measured(path, threads):
    """Times of the runtimes that run a file, and of the one that `auto` takes."""
    fitting = runtimes.ONNX_ENGINES if path.suffix == ".onnx" else (runtimes.LITERT,)
    loaded = {
        name: runtimes.load(path, name, threads) for name in (*fitting, runtimes.AUTO)
    }
    size = loaded[runtimes.AUTO].image_size
    shape = (1, size, size, 3)
    face = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def predicting(runtime):
        def run():
            for _ in range(_FACES.value):
                runtime.predictions(face)

        return run

    ways = {name: predicting(runtime) for name, runtime in loaded.items()}
    return rounds.taken(ways, _ROUNDS.value)


def table(results):
    """What was measured, for people."""
    lines = [
        f"{'file':18} {'threads':>7} {'runtime':12} {'ms':>8} {'processor ms':>13}"
    ]
    for key, found in results.items():
        file, threads = key.rsplit(", ", 1)
        times = {unit: rounds.medians(values) for unit, values in found.items()}
        per = 1000 / _FACES.value
        for name, seconds in times[rounds.SECONDS].items():
            processor = times[rounds.CPU_SECONDS][name]
            lines.append(
                f"{file:18} {threads:>7} {name:12} {per * seconds:8.2f} "
                f"{per * processor:13.2f}"
            )
        of_best = {
            unit: rounds.ratio(
                found[unit][runtimes.AUTO],
                found[unit][min(values.keys() - {runtimes.AUTO}, key=values.get)],
            )
            for unit, values in times.items()
        }
        lines.append(
            f"{file:18} {threads:>7} auto is {of_best[rounds.SECONDS]:.2f} of the best "
            f"by hand, {of_best[rounds.CPU_SECONDS]:.2f} by processor time"
        )
    return "\n".join(lines)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        results = {
            f"{name}, {threads}": measured(path, threads)
            for name, path in files(Path(folder)).items()
            for threads in THREADS
        }
    print(table(results))
    if _JSON.value:
        packages = ("ai-edge-litert", "onnxruntime", "openvino")
        path = Path(_JSON.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"machine": rounds.machine(packages), "times": results}) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    app.run(main)
