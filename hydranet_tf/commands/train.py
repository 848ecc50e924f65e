"""Trains HydraNet.

    hydranet train --flagfile=configs/utkface_resnet34.flags --workdir=DIR

The same command again goes on where the run stopped. On SIGTERM it saves its state
and ends with the exit code 75, which means: start me again. Settings that are not in
the file keep the published values: see --help.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Left to itself, TensorFlow does without oneDNN on processors that have nothing newer
# than AVX2; a training step of ResNet34 takes 0.7 of the time with it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags

from hydranet_tf import config, notices

config.define_flags()
# Or --help would name the flags of this file alone.
flags.adopt_module_key_flags(config)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: new, or to be resumed."
)
_FOLDS = flags.DEFINE_integer(
    "folds", 0, "Cross-validate on the parts train and validation by this many runs."
)
# The names of hydranet_tf.training.trackers, which imports Keras.
_TRACKER = flags.DEFINE_enum(
    "tracker",
    None,
    ("wandb", "mlflow"),
    "Sends the run's curves to Weights & Biases or MLflow, too; docs/recipes.md.",
)
_CHECK = flags.DEFINE_bool("check", False, "Print what --data holds, train nothing.")


def main(arguments: list[str]) -> int:
    """Trains, or goes on with a run; 75 asks to be started again."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    if _CHECK.value:
        _check()
        return 0
    if not _WORKDIR.value:
        raise app.UsageError("--workdir: expected the folder of the run; got none")
    if _TRACKER.value and _FOLDS.value:
        raise app.UsageError("--tracker: expected one run; --folds makes several")
    # Imported here so that --help and a wrong flag answer at once.
    with notices.held_back():
        from hydranet_tf.training import callbacks, initialization, trackers, train

    try:
        brought = initialization.inherited(flags.FLAGS.start_from, _WORKDIR.value)
        settings = config.from_flags(flags.FLAGS, brought)
        if _FOLDS.value:
            train.cross_validate(settings, _WORKDIR.value, _FOLDS.value)
        elif _TRACKER.value:
            workdir = Path(_WORKDIR.value)
            with trackers.started(_TRACKER.value, settings, workdir) as added:
                train.train(settings, workdir, callbacks=added)
        else:
            train.train(settings, _WORKDIR.value)
    except callbacks.Preempted as error:
        print(error, file=sys.stderr)
        return callbacks.EXIT_CODE
    return 0


def _check() -> None:
    """Prints what the data holds."""
    with notices.held_back():
        from hydranet_tf.data import check

    settings = config.from_flags(flags.FLAGS)
    print(check.describe(settings.data, **settings.places()))
