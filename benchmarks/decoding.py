"""Our input pipeline against PyTorch's, and both against the decoder alone.

    python benchmarks/decoding.py --data=UTKFace --json=bench_output/decoding.json

counts images per second, in turns:

- ours: files to batches of uint8 pixels, and the same from the cache that the first
  epoch fills;
- a PyTorch DataLoader with two workers, Pillow in them, same files, same size;
- the limit: libjpeg-turbo, bytes in memory, a loop on each core that decodes and
  throws away.

Without --data it measures on smooth random pictures of 200 x 200 pixels. The
peers come with requirements-bench.txt.
"""

import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pictures
import rounds
from absl import app, flags

_DATA = flags.DEFINE_string("data", "", "Folder of UTKFace-named pictures.")
_PICTURES = flags.DEFINE_integer("pictures", 3840, "How many of them.")
_SIZE = flags.DEFINE_integer("image_size", 128, "Side of the results in pixels.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Pictures in a batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each is timed.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

OURS, CACHED = "our pipeline", "our cache"
PYTORCH, LIMIT = "PyTorch DataLoader, Pillow", "libjpeg-turbo alone"
_WORKERS = 2
# The cache is that much faster.
_CACHED_EPOCHS = 5


class PillowFaces:
    """What a PyTorch DataLoader asks for; its workers import this file."""

    def __init__(self, paths, size):
        self._paths, self._size = paths, size

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, i):
        import numpy as np
        import torch
        from PIL import Image

        with Image.open(self._paths[i]) as image:
            face = image.convert("RGB").resize([self._size] * 2, Image.BILINEAR)
        return torch.from_numpy(np.array(face))


def use_up(batches) -> None:
    for _ in batches:
        pass


def in_graph(dataset):
    """Uses up a tf.data set as Keras' fit does, inside a function of TensorFlow."""
    import numpy as np
    import tensorflow as tf

    count = tf.function(lambda: dataset.reduce(np.int64(0), lambda n, _: n + 1))
    return lambda: count().numpy()


def ways(examples):
    """What goes once through all pictures, by name."""
    import simplejpeg
    import torch.utils.data

    from hydranet_tf.data import pipeline

    uncached = pipeline.Faces(examples, _SIZE.value, None, ())
    cached = pipeline.load_faces(examples, _SIZE.value)
    files = pipeline.evaluation_batches(uncached, _BATCH.value)
    cache = pipeline.training_batches(cached, _BATCH.value, seed=0)
    steps = pipeline.steps_per_epoch(cached, _BATCH.value)
    loader = torch.utils.data.DataLoader(
        PillowFaces([str(path) for path in examples.paths], _SIZE.value),
        _BATCH.value,
        num_workers=_WORKERS,
        # Forked after TensorFlow has started its threads, they could hang; kept,
        # because starting them is not part of an epoch.
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    encoded = [examples.read(i) for i in range(len(examples))]
    threads = ThreadPoolExecutor(os.cpu_count())

    def limit(start):
        for data in encoded[start :: os.cpu_count()]:
            simplejpeg.decode_jpeg(data)

    return {
        OURS: in_graph(files),
        PYTORCH: lambda: use_up(loader),
        LIMIT: lambda: use_up(threads.map(limit, range(os.cpu_count()))),
        CACHED: in_graph(cache.take(_CACHED_EPOCHS * steps)),
    }


def measure() -> dict:
    from hydranet_tf.data import sources

    examples = sources.open_source(_DATA.value, "all")
    # Whole batches, so that all ways have the same work.
    count = min(_PICTURES.value, len(examples)) // _BATCH.value * _BATCH.value
    step = len(examples) // count
    examples = examples.select(range(0, step * count, step))
    found = rounds.taken(ways(examples), _ROUNDS.value)
    for times in found.values():
        times[CACHED] = [spent / _CACHED_EPOCHS for spent in times[CACHED]]
    return {
        **found,
        "images_per_second": {
            name: count / spent
            for name, spent in rounds.medians(found[rounds.SECONDS]).items()
        },
        "ratios": {
            "ours to PyTorch": rounds.ratios(found, PYTORCH, OURS),
            "ours to the limit": rounds.ratios(found, LIMIT, OURS),
            "cache to the limit": rounds.ratios(found, LIMIT, CACHED),
        },
        "settings": {
            "pictures": count, "image_size": _SIZE.value,
            "batch_size": _BATCH.value, "workers_of_pytorch": _WORKERS,
        },
        "machine": rounds.machine(["tensorflow", "torch", "pillow", "simplejpeg"]),
    }  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        if not _DATA.value:
            pictures.write(Path(folder), _PICTURES.value)
            flags.FLAGS.data = folder
        found = measure()
    for name, rate in found["images_per_second"].items():
        print(f"{name:>26}: {rate:7.0f} images/s")
    for unit, by in ((rounds.SECONDS, "clock"), (rounds.CPU_SECONDS, "processor time")):
        pytorch, limit, cache = (ratio[unit] for ratio in found["ratios"].values())
        print(
            f"by the {by}: ours {pytorch:.2f} times PyTorch (goal: at least 2), "
            f"{limit:.2f} of the limit (at least 0.5); cache {cache:.2f} of the "
            "limit (at least 3)"
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
