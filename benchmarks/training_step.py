"""A training step against PyTorch's, and one network against three.

    python benchmarks/training_step.py --json=results/training_step.json

times, in turns, one step on one random batch, without augmentation:

- ours, as `fit` runs it, and the same compiled by XLA (--xla of train.py);
- PyTorch: timm's network with heads and losses like ours, in channels_last;
- ours three times, each network with one of the three tasks.

Ours also keeps its scores up to date, which the peer does not. PyTorch and timm come
with requirements-bench.txt.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rounds
import steps

# Before anything that loads TensorFlow: after it, the import of torchvision, which
# timm asks for, ends in a segmentation fault.
import torch_peer  # noqa: F401
from absl import app, flags

from hydranet_tf import config

config.define_flags()
flags.FLAGS.set_default("augmentation", "none")
flags.FLAGS.set_default("image_size", 128)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.")
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

OURS, XLA = "ours", "ours with XLA"
PYTORCH, THREE = "PyTorch", "three networks"


def measure() -> dict:
    settings = config.from_flags(flags.FLAGS)
    batch = steps.batch(settings.batch_size, settings.image_size)
    single = [steps.ours(settings, batch, [task]) for task in steps.TASKS]

    def three():
        for step in single:
            step()

    compiled = dataclasses.replace(settings, xla=True)
    found = rounds.taken(
        {
            OURS: steps.ours(settings, batch),
            XLA: steps.ours(compiled, batch),
            PYTORCH: steps.pytorch(settings.backbone, batch),
            THREE: three,
        },
        _ROUNDS.value,
    )
    return {
        **found,
        "medians": rounds.medians(found[rounds.SECONDS]),
        "ratios": {
            "our speed to PyTorch's": rounds.ratios(found, PYTORCH, OURS),
            "with XLA": rounds.ratios(found, PYTORCH, XLA),
            "one network to three": rounds.ratios(found, OURS, THREE),
        },
        "settings": {
            "backbone": settings.backbone, "width": settings.width,
            "image_size": settings.image_size, "batch_size": settings.batch_size,
        },
        "machine": rounds.machine(["tensorflow", "keras", "torch", "timm"]),
    }  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    found = measure()
    for name, seconds in found["medians"].items():
        print(f"{name:>14}: {1000 * seconds:7.0f} ms a step")
    for unit, by in ((rounds.SECONDS, "clock"), (rounds.CPU_SECONDS, "processor time")):
        plain, compiled, three = (ratio[unit] for ratio in found["ratios"].values())
        print(
            f"by the {by}: {plain:.2f} times PyTorch's speed, {compiled:.2f} with XLA "
            f"(goal: at least 1); one network {three:.2f} of three (at most 0.36)"
        )
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
