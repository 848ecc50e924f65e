"""What the best constant prediction scores: the floor that a network must pass.

    python benchmarks/constant_predictions.py --data=UTKFace \
        --split_lists=datasets/utkface/splits

predicts the median age and the commonest classes of the training part for every
face of the validation part.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags

from hydranet_tf.data import sources
from hydranet_tf.tasks import MISSING, TASKS

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    training, validation = (
        sources.open_source(
            _DATA.value, split, data_dir=_DATA_DIR.value, split_lists=_SPLIT_LISTS.value
        ).labels
        for split in ("train", "validation")
    )
    for task in TASKS:
        seen, asked = (part[task.name] for part in (training, validation))
        seen, asked = seen[seen != MISSING], asked[asked != MISSING]
        if task.is_regression:
            constant = np.median(seen)
            error = np.abs(asked - constant).mean()
            print(f"{task.name}: always {constant:g} {task.unit}, MAE {error:.2f}")
        else:
            constant = np.bincount(seen).argmax()
            share = (asked == constant).mean()
            print(f"{task.name}: always {task.classes[constant]}, right {share:.1%}")


if __name__ == "__main__":
    app.run(main)
