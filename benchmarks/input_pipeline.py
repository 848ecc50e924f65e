"""Does the network wait for its input?

    python benchmarks/input_pipeline.py --flagfile=configs/utkface_resnet18.flags \
        --data=UTKFace --split_lists=datasets/utkface/splits

times training steps fed by the real pipeline against steps on one batch that
stays where it is, in turns, and prints the medians and their ratio. Without
--data it measures on 2,000 smooth random pictures of 200 x 200 pixels.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in train.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pictures
from absl import app, flags

from hydranet_tf import config

config.define_flags()
flags.FLAGS.set_default("data", "")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each is timed.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps in a round.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")


def seconds_per_step(model, batches, steps: int) -> float:
    """Times `steps` steps after three that warm up the iterator."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.started = time.perf_counter()

    clock = Clock()
    model.fit(
        batches, steps_per_epoch=steps + 3, verbose=0, shuffle=False,
        callbacks=[clock],
    )  # fmt: skip
    return (time.perf_counter() - clock.started) / steps


def measure(settings: config.TrainingConfig) -> dict:
    """Returns the seconds of every round and the ratio of their medians."""
    from hydranet_tf.data import pipeline, sources
    from hydranet_tf.training import train

    examples = sources.open_source(
        settings.data,
        "train" if settings.split_lists else "all",
        split_lists=settings.split_lists or None,
    )
    faces = pipeline.load_faces(examples, settings.image_size, settings.cache)
    model = train.build_model(settings, faces)
    train.compile_model(model, settings, steps_per_epoch=1)
    fed = pipeline.training_batches(faces, settings.batch_size, seed=0)
    # Not only the first batch kept in memory, but its tensors as they are.
    still = fed.take(1).cache().repeat()
    rounds = {"one cached batch": [], "real pipeline": []}
    seconds_per_step(model, still, 3)
    for _ in range(_ROUNDS.value):
        for name, batches in (("one cached batch", still), ("real pipeline", fed)):
            rounds[name].append(seconds_per_step(model, batches, _STEPS.value))
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    pairs = [b / a for a, b in zip(*rounds.values(), strict=True)]
    return {
        "seconds_per_step": rounds,
        "medians": medians,
        "ratio": medians["real pipeline"] / medians["one cached batch"],
        "median_of_paired_ratios": statistics.median(pairs),
        "images": len(faces),
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    with tempfile.TemporaryDirectory() as folder:
        if not flags.FLAGS.data:
            pictures.write(Path(folder))
            flags.FLAGS.data = folder
        settings = config.from_flags(flags.FLAGS)
        found = measure(settings)
    found["settings"] = {
        "backbone": settings.backbone, "width": settings.width,
        "image_size": settings.image_size, "batch_size": settings.batch_size,
        "augmentation": settings.augmentation, "cache": settings.cache,
    }  # fmt: skip
    for name, seconds in found["medians"].items():
        rate = settings.batch_size / seconds
        print(f"{name:>17}: {1000 * seconds:7.1f} ms a step, {rate:6.1f} img/s")
    print(
        f"ratio of medians {found['ratio']:.3f}, median of paired ratios "
        f"{found['median_of_paired_ratios']:.3f} (goal: at most 1.1)"
    )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
