"""Trains HydraNet.

    python train.py --flagfile=configs/utkface_resnet34.flags --workdir=DIR

The same command again goes on where the run stopped. On SIGTERM it saves its state
and ends with the exit code 75, which means: start me again. Settings that are not in
the file keep the published values: see --help.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Left to itself, TensorFlow does without oneDNN on processors that have nothing newer
# than AVX2; a training step of ResNet34 takes 0.7 of the time with it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

from hydranet_tf import config

config.define_flags()
# Or --help would name the flags of this file alone.
flags.adopt_module_key_flags(config)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: new, or to be resumed.", required=True
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # TFDS and TensorFlow report every file they open.
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.runs import preemption, training

    try:
        settings = config.from_flags(flags.FLAGS)
        training.train(settings, _WORKDIR.value)
    except training.ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except preemption.Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)


if __name__ == "__main__":
    app.run(main)
