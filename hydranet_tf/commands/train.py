"""Trains HydraNet.

    hydranet train --flagfile=configs/utkface_resnet34.flags --workdir=DIR

The same command again goes on where the run stopped. On SIGTERM it saves its state
and ends with the exit code 75, which means: start me again. Settings that are not in
the file keep the published values: see --help.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Left to itself, TensorFlow does without oneDNN on processors that have nothing newer
# than AVX2; a training step of ResNet34 takes 0.7 of the time with it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

from hydranet_tf import config
from hydranet_tf.commands import running

config.define_flags()
# Or --help would name the flags of this file alone.
flags.adopt_module_key_flags(config)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: new, or to be resumed.", required=True
)


def main(arguments: list[str]) -> int:
    """Trains, or goes on with a run; 75 asks to be started again."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    # TFDS and TensorFlow report every file they open.
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.training import preemption, train

    try:
        settings = config.from_flags(flags.FLAGS)
        train.train(settings, _WORKDIR.value)
    except train.ERRORS as error:
        raise running.CommandError(error) from error
    except preemption.Preempted as error:
        print(error, file=sys.stderr)
        return preemption.EXIT_CODE
    return 0
