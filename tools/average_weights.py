"""Averages the weights of a run with those of the network that it started from.

    python tools/average_weights.py --workdir=runs/photo_dlib29_third --last \\
        --other=runs/photo_dlib29_second --fraction=0.6 --output=runs/photo_dlib29_mean

A network that was trained on gains on what is new and gives up some of what it had. The
mean of its weights and of those it began with keeps most of both, after Wortsman et al.
2022 (WiSE-FT, arXiv:2109.01903). `--output` is a workdir to evaluate, to export and to
give `--start_from`; training does not resume there.
"""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

# The repository is not an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
_OTHER = flags.DEFINE_string(
    "other",
    None,
    "The network it began with: workdir, preset or name.",
    required=True,
)
_FRACTION = flags.DEFINE_float(
    "fraction", 0.5, "How much of the mean is the run.", lower_bound=0, upper_bound=1
)
_LAST = flags.DEFINE_bool(
    "last",
    False,
    "Take the last checkpoint of each run that has one, not its best. A run that fell "
    "behind the network it began with can still be worth a part of the mean.",
)
_OUTPUT = flags.DEFINE_string("output", None, "A new workdir.", required=True)


def averaged(one, other, fraction):
    """Gives `one` the mean of both networks' weights.

    Args:
        one, other: HydraNet; the same variables in the same shapes.
        fraction: of `one` in the mean, 0 to 1.

    Raises:
        ValueError: if the networks differ.
    """
    weights = {v.path: v for v in other.network.variables}
    shapes = {path: tuple(v.shape) for path, v in weights.items()}
    if shapes != {v.path: tuple(v.shape) for v in one.network.variables}:
        raise ValueError(
            "expected two networks with the same layers; these differ in backbone, "
            "width, heads or tasks"
        )
    for variable in one.network.variables:
        variable.assign(
            fraction * variable.value + (1 - fraction) * weights[variable.path].value
        )


def network(path, last):
    """The network of a workdir or preset, and which of its checkpoints it is.

    Args:
        last: the last checkpoint of a run that has one, rather than the best.

    Raises:
        ValueError: if the path is neither; HydraNetError: if it is damaged.
    """
    from hydranet_tf import checkpoints
    from hydranet_tf.inference import loading

    if last and checkpoints.any_saved(path):
        return checkpoints.load_model(path, checkpoints.LAST), checkpoints.LAST
    model = loading.load(path)
    if model is None:
        raise ValueError(f"there is neither a workdir nor a preset {path}")
    return model, checkpoints.BEST


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    import keras

    from hydranet_tf import checkpoints
    from hydranet_tf.errors import HydraNetError
    from hydranet_tf.inference import loading

    source, output = Path(_WORKDIR.value), Path(_OUTPUT.value)
    try:
        model, which = network(source, _LAST.value)
        _, progress = checkpoints.newest(source, which)
        other, _ = network(loading.folder_of(_OTHER.value), _LAST.value)
        averaged(model, other, _FRACTION.value)
        output.mkdir(parents=True)
    except (HydraNetError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for name in ("config.json", "model.json", "run.json", "tasks.json"):
        shutil.copy(source / name, output / name)
    model.compile(keras.optimizers.SGD())
    progress = dataclasses.replace(progress, finished=True)
    print(checkpoints.save(output, checkpoints.BEST, model, progress))


if __name__ == "__main__":
    app.run(main)
