"""How cost grows: with the data set, with the image, with the batch.

    python benchmarks/scaling.py --data=UTKFace --output=bench_output/scaling

- data sets of 1, 4 and 16 times --pictures, decoded and batched from their files:
  seconds and peak memory;
- peak memory of training steps by the side of the image;
- images per second of a float32 LiteRT file by the number of images in a batch.

Each memory is measured in a process of its own. It writes scaling.json and a picture
of each. Without --data it measures on smooth random pictures of 200 x 200 pixels.
"""

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in train.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory
import pictures
import rounds
import steps
from absl import app, flags, logging

from hydranet_tf import config

config.define_flags()
flags.FLAGS.set_default("data", "")
flags.FLAGS.set_default("image_size", 128)
flags.FLAGS.set_default("augmentation", "none")
_PICTURES = flags.DEFINE_integer("pictures", 500, "In the smallest data set.")
_SIDES = flags.DEFINE_list("sides", ["64", "128", "192", "256"], "Of images.")
_BATCHES = flags.DEFINE_list("batches", ["1", "8", "32", "128"], "Images in a batch.")
_THREADS = flags.DEFINE_integer("threads", 2, "Of the LiteRT file.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often a batch is timed.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.", required=True)

_TIMES = (1, 4, 16)


def read_all(folder: str, count: int, size: int, batch_size: int) -> dict:
    """Goes once through a data set of `count` pictures, some of them repeated."""
    import numpy as np

    from hydranet_tf.data import pipeline, sources

    examples = sources.open_source(folder, "all")
    examples = examples.select(np.arange(count) % len(examples))
    faces = pipeline.Faces(examples, size, None, ())
    batches = iter(pipeline.evaluation_batches(faces, batch_size))
    # What TensorFlow sets up at the first batch does not grow.
    seen = len(next(batches)[0])
    started = time.perf_counter()
    timed = sum(len(images) for images, _ in batches)
    return {
        "pictures": seen + timed,
        "seconds": time.perf_counter() - started,
        "cpu_seconds_in_all": time.process_time(),
        "peak_bytes": memory.peak_bytes(),
    }


def train(settings: config.TrainingConfig) -> dict:
    from hydranet_tf.training import train  # noqa: F401

    data = steps.batch(settings.batch_size, settings.image_size)
    found = memory.of_steps(lambda: steps.ours(settings, data))
    return {"image_size": settings.image_size, **found}


def single(settings: config.TrainingConfig) -> dict:
    """Seconds an image, by the number of images in a batch."""
    import numpy as np

    from hydranet_tf.exporting import latency, litert
    from hydranet_tf.model import HydraNet

    size = settings.image_size
    model = HydraNet(settings.backbone, size, width=settings.width or None)
    content = litert.convert(model.inference_model(), dynamic_batch=True)

    def runner(count):
        signature = latency.signature(content, _THREADS.value)
        images = np.full((count, size, size, 3), 128, np.float32)

        def run():
            for _ in range(repeats[count]):
                signature(images=images)

        return run

    counts = [int(count) for count in _BATCHES.value]
    # All predict for about as many images: one alone is over before the machine has
    # got going.
    repeats = {count: -(-max(counts) // count) for count in counts}
    found = rounds.taken({str(n): runner(n) for n in counts}, _ROUNDS.value)
    rates = {
        name: int(name) * repeats[int(name)] / spent
        for name, spent in rounds.medians(found[rounds.SECONDS]).items()
    }
    return {"images_per_second": rates, **found}


def measure(settings: config.TrainingConfig) -> dict:
    by_data = [
        memory.in_new_process(
            read_all,
            settings.data,
            times * _PICTURES.value,
            settings.image_size,
            settings.batch_size,
        )
        for times in _TIMES
    ]
    by_side = [
        memory.in_new_process(
            train, dataclasses.replace(settings, image_size=int(side))
        )
        for side in _SIDES.value
    ]
    return {
        "data": by_data,
        "image_size": by_side,
        "batch": single(settings),
        "settings": {
            "backbone": settings.backbone, "width": settings.width,
            "image_size": settings.image_size, "batch_size": settings.batch_size,
            "threads": _THREADS.value,
        },
        "machine": rounds.machine(["tensorflow", "keras", "ai-edge-litert"]),
    }  # fmt: skip


def draw(found: dict, folder: Path) -> None:
    """One picture of each growth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def figure(name, title, x, y, lines, scale="linear"):
        fig, axis = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
        for label, xs, ys in lines:
            axis.plot(xs, ys, marker="o", label=label)
            for place in zip(xs, ys, strict=True):
                axis.annotate(
                    f"{place[1]:.3g}", place, (0, 7), textcoords="offset points",
                    ha="center",
                )  # fmt: skip
        axis.set_xscale(scale, **({"base": 2} if scale == "log" else {}))
        axis.set_xticks(xs, map(str, xs))
        axis.minorticks_off()
        # From zero, and with room for the highest number.
        top = 1.2 * max(max(ys) for _, _, ys in lines)
        axis.set(title=title, xlabel=x, ylabel=y, ylim=(0, top))
        if scale == "linear":
            axis.set_xlim(0, 1.08 * max(xs))
        if len(lines) > 1:
            axis.legend()
        fig.savefig(folder / name, dpi=120)
        pyplot.close(fig)

    rows = found["data"]
    count = [row["pictures"] for row in rows]
    figure(
        "data_time.png", "Time to read a data set once", "pictures", "seconds",
        [("", count, [row["seconds"] for row in rows])],
    )  # fmt: skip
    figure(
        "data_memory.png", "Memory to read a data set once", "pictures",
        "peak of the process, GiB",
        [("", count, [row["peak_bytes"] / 2**30 for row in rows])],
    )  # fmt: skip
    rows = found["image_size"]
    sides = [row["image_size"] for row in rows]
    settings = found["settings"]
    title = f"Training {settings['backbone']}, batch {settings['batch_size']}"
    figure(
        "image_size.png", title, "side of the image, pixels", "peak memory, GiB",
        [("whole process", sides, [row["peak_bytes"] / 2**30 for row in rows]),
         ("imports alone", sides,
          [row["peak_bytes_after_imports"] / 2**30 for row in rows])],
    )  # fmt: skip
    rates = found["batch"]["images_per_second"]
    figure(
        "batch.png",
        f"{settings['backbone']}, {settings['image_size']} px, LiteRT float32, "
        f"threads: {settings['threads']}",
        "images in a batch", "images a second",
        [("", [int(count) for count in rates], list(rates.values()))], "log",
    )  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # The converter reports every file it writes.
    logging.set_verbosity(logging.WARNING)
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if not flags.FLAGS.data:
            pictures.write(Path(folder), _PICTURES.value)
            flags.FLAGS.data = folder
        found = measure(config.from_flags(flags.FLAGS))
    for row in found["data"]:
        each = 1e6 * row["seconds"] / row["pictures"]
        print(
            f"{row['pictures']:6} pictures: {each:.0f} us each, peak "
            f"{row['peak_bytes'] / 2**30:.2f} GiB"
        )
    for row in found["image_size"]:
        print(
            f"training at {row['image_size']:3} px: peak "
            f"{row['peak_bytes'] / 2**30:.2f} GiB"
        )
    for count, rate in found["batch"]["images_per_second"].items():
        print(f"batch of {count:>3}: {rate:.1f} images/s")
    (output / "scaling.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found, output)


if __name__ == "__main__":
    app.run(main)
