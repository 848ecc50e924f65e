"""What augmentation adds to a training step.

    python benchmarks/augmentation_step.py --image_size=128

times, in turns, a step on one random batch without augmentation, with `standard` and
with `strong`. The other flags are those of train.py: --backbone, --precision.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in train.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dataclasses

import keras
import rounds
import steps
from absl import app, flags

from hydranet_tf import config
from hydranet_tf.config import STRENGTHS

config.define_flags()
_ROUNDS = flags.DEFINE_integer("rounds", 8, "How often each is timed.", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

NONE = "none"


def measure() -> dict:
    settings = config.from_flags(flags.FLAGS)
    settings = dataclasses.replace(settings, batch_size=settings.batch_size or 32)
    keras.mixed_precision.set_dtype_policy(settings.precision)
    batch = steps.batch(settings.batch_size, settings.image_size)
    ways = {
        strength: steps.ours(
            dataclasses.replace(settings, augmentation=strength), batch
        )
        for strength in STRENGTHS
    }
    found = rounds.taken(ways, _ROUNDS.value)
    return {
        **found,
        "medians": rounds.medians(found[rounds.SECONDS]),
        "added": {
            strength: {
                unit: ratio - 1
                for unit, ratio in rounds.ratios(found, strength, NONE).items()
            }
            for strength in STRENGTHS
            if strength != NONE
        },
        "settings": {
            "backbone": settings.backbone, "image_size": settings.image_size,
            "batch_size": settings.batch_size, "precision": settings.precision,
        },
        "machine": rounds.machine(["tensorflow", "keras"]),
    }  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    found = measure()
    print(f"without augmentation {1000 * found['medians'][NONE]:.0f} ms a step")
    for strength, added in found["added"].items():
        print(
            f"{strength}: {added[rounds.SECONDS]:+.1%} by the clock, "
            f"{added[rounds.CPU_SECONDS]:+.1%} of processor time (goal: at most 5 %)"
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
