"""Peak memory of PyTorch's training steps; benchmarks/training_memory.py starts it."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory
import steps
import torch_peer  # noqa: F401
from absl import app, flags

_BACKBONE = flags.DEFINE_string("backbone", "resnet34", "As in train.py.")
_SIZE = flags.DEFINE_integer("image_size", 200, "As in train.py.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "As in train.py.")
_JSON = flags.DEFINE_string("json", None, "File for the numbers.", required=True)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    data = steps.batch(_BATCH.value, _SIZE.value)
    found = memory.of_steps(lambda: steps.pytorch(_BACKBONE.value, data))
    Path(_JSON.value).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    app.run(main)
