"""Peak memory of training steps.

    python benchmarks/training_memory.py --backbone=resnet34 --image_size=200

builds the network with the given settings, takes three steps on one random
batch and prints the highest resident memory of the process.
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import app, flags

from hydranet_tf import config

config.define_flags()
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    import keras
    import numpy as np

    from hydranet_tf import losses
    from hydranet_tf.model import HydraNet
    from hydranet_tf.runs import training
    from hydranet_tf.tasks import TASKS

    settings = config.from_flags(flags.FLAGS)
    keras.mixed_precision.set_dtype_policy(settings.precision)
    imported = _peak_bytes()
    model = HydraNet(
        settings.backbone,
        settings.image_size,
        width=settings.width or None,
        augmentation=settings.augmentation,
        weighting=losses.UncertaintyWeights(
            [task.kind for task in TASKS], [12.0, 0.7, 1.4]
        ),
    )
    training.compile_model(model, settings, steps_per_epoch=1)
    rng = np.random.default_rng(0)
    count, size = settings.batch_size, settings.image_size
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = {
        "age": rng.integers(1, 90, count).astype("float32"),
        "gender": rng.integers(0, 2, count),
        "race": rng.integers(0, 5, count),
    }
    for _ in range(3):
        model.train_on_batch(images, labels)
    found = {
        "backbone": settings.backbone,
        "image_size": size,
        "batch_size": count,
        "precision": settings.precision,
        "peak_bytes": _peak_bytes(),
        "peak_bytes_after_imports": imported,
    }
    print(
        f"{settings.backbone} at {size} px, batch {count}, {settings.precision}: "
        f"peak {found['peak_bytes'] / 2**30:.2f} GiB "
        f"(imports alone {imported / 2**30:.2f} GiB)"
    )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


def _peak_bytes() -> int:
    # Not getrusage: its peak begins at that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024


if __name__ == "__main__":
    app.run(main)
