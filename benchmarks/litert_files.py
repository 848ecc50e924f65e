"""Size and time of .tflite files, one beside the other.

    git show ba14940:presets/utkface_dlib29_taught/hydranet.tflite > before.tflite
    python benchmarks/litert_files.py before.tflite \
        hydranet_tf/presets/photo_dlib29/hydranet.tflite

prints for each file its bytes and the least and the median processor time of one face
on one thread. The files take turns, and what counts is the time of the processor rather
than the clock's, so that a machine with other work says the same.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags

from hydranet_tf.exporting import latency

_ROUNDS = flags.DEFINE_integer("rounds", 60, "Faces for each file.", lower_bound=1)


def main(argv):
    paths = [Path(name) for name in argv[1:]]
    if not paths:
        raise app.UsageError("expected .tflite files")
    calls, taken = [], {path: [] for path in paths}
    for path in paths:
        predict = latency.signature(path, threads=1)
        image = predict.get_input_details()["images"]
        shape = [1, *image["shape"][1:]]
        noise = np.random.default_rng(0).integers(0, 256, shape)
        calls.append((taken[path], predict, noise.astype(image["dtype"])))
    for times, predict, images in calls * (_ROUNDS.value + 1):
        began = time.process_time()
        predict(images=images)
        times.append(time.process_time() - began)
    for path, times in taken.items():
        # The first call lays out its memory.
        least, middle = min(times[1:]), statistics.median(times[1:])
        print(
            f"{path}: {path.stat().st_size:,} bytes, {1000 * least:.1f} ms at least, "
            f"{1000 * middle:.1f} ms in the middle"
        )


if __name__ == "__main__":
    app.run(main)
