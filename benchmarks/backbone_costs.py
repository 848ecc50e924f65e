"""What each backbone costs: size, arithmetic, time of one prediction.

    python benchmarks/backbone_costs.py --image_size=96

builds the whole network, heads included, for every backbone, writes it as a
float32 LiteRT file and prints a table: parameters, multiply-accumulates (GMACs;
GFLOPs are twice as many) and milliseconds for one face with one and two threads.
Times are medians of turns taken by all; they are of this machine, to be compared
with each other alone.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags, logging

from hydranet_tf import backbones

_BACKBONES = flags.DEFINE_list(
    "backbones", [n for n in backbones.BACKBONES if n != "tiny"], "Which."
)
_SIZE = flags.DEFINE_integer("image_size", 96, "Side of the images in pixels.")
_SECONDS = flags.DEFINE_float("seconds", 30.0, "How long to time, over all.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # The converter reports every file it writes.
    logging.set_verbosity(logging.WARNING)
    import numpy as np

    from hydranet_tf.exporting import latency, litert
    from hydranet_tf.model import HydraNet

    size = _SIZE.value
    names = [n for n in _BACKBONES.value if backbones.get(n).smallest <= size]
    for name in sorted(set(_BACKBONES.value) - set(names)):
        smallest = backbones.get(name).smallest
        print(f"{name} is left out: it takes {smallest} pixels or more")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.tflite" for name in names}
        for name, path in paths.items():
            network = HydraNet(name, size).inference_model()
            path.write_bytes(litert.convert(network))
            rows.append(
                {
                    "backbone": name,
                    "parameters": network.count_params(),
                    "gmacs": _multiply_accumulates(network) / 1e9,
                    "megabytes": path.stat().st_size / 1e6,
                }
            )
        image = np.full((size, size, 3), 128, np.uint8)
        times = latency.milliseconds(list(paths.values()), image, _SECONDS.value)
        for row in rows:
            row["milliseconds"] = times[paths[row["backbone"]]]

    print(f"{size} px, one face, float32 LiteRT file")
    print("| backbone | M parameters | GMACs | MB | ms, 1 thread | ms, 2 threads |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        one, two = (row["milliseconds"][n] for n in latency.THREADS)
        print(
            f"| {row['backbone']} | {row['parameters'] / 1e6:.2f} "
            f"| {row['gmacs']:.3f} | {row['megabytes']:.1f} | {one:.2f} | {two:.2f} |"
        )
    if _JSON.value:
        found = {"image_size": size, "rows": rows}
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


def _multiply_accumulates(model) -> int:
    """Of convolutions and dense layers; the rest is a percent of it."""
    count = 0
    for layer in model.layers:
        if hasattr(layer, "layers"):
            count += _multiply_accumulates(layer)
        elif hasattr(layer, "kernel"):
            # Every weight of a kernel is used once at each place of its output.
            positions = math.prod(layer.output.shape[1:-1])
            count += math.prod(layer.kernel.shape) * positions
    return count


if __name__ == "__main__":
    app.run(main)
