"""A training step against PyTorch's, and one network against three.

    python benchmarks/training_step.py --json=bench_output/training_step.json

times, in turns, one step on one random batch, without augmentation:

- ours, as `fit` runs it;
- with --xla also the same compiled by XLA, which can take minutes for its first step;
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
# As in train.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
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
    plain = dataclasses.replace(settings, xla=False)
    batch = steps.batch(settings.batch_size, settings.image_size)
    single = [steps.ours(plain, batch, [task]) for task in steps.TASKS]

    def three():
        for step in single:
            step()

    ways = {
        OURS: steps.ours(plain, batch),
        PYTORCH: steps.pytorch(settings.backbone, batch),
        THREE: three,
    }
    if settings.xla:
        ways[XLA] = steps.ours(settings, batch)
    found = rounds.taken(ways, _ROUNDS.value)
    return {
        **found,
        "medians": rounds.medians(found[rounds.SECONDS]),
        "speeds_to_pytorch": {
            name: rounds.ratios(found, PYTORCH, name)
            for name in (OURS, XLA)
            if name in ways
        },
        "one_network_to_three": rounds.ratios(found, OURS, THREE),
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
        for name, speed in found["speeds_to_pytorch"].items():
            print(
                f"by the {by}: {name} {speed[unit]:.2f} times PyTorch's speed "
                "(goal: at least 1)"
            )
        three = found["one_network_to_three"][unit]
        print(f"by the {by}: one network {three:.2f} of three (goal: at most 0.36)")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
