"""What 8 bits need: faces that a quantiser looks at, and kernels that lose nothing.

A quantiser sees equally many faces of every kind. Drawn as they come, faces of the most
frequent kind would decide the range of every activation, and the predictions for all
others would be clipped.

A network that started at kernels in 8 bits moves them by fractions of a step. Rounded
to the nearest step they fall back to where they began, all in the same direction: the
sum over thousands of weights is lost, and with it what was learned (measured: 73 % of
the weights, single ages by up to 10 years). Rounded up or down at random, with the odds
of where a weight lies between two steps, they keep that sum (stochastic rounding, Gupta
et al. 2015, arXiv:1502.02551).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from hydranet_tf import presets
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import MISSING, Task

COUNT = 200

# Regressions are divided into bands of this many units; what lies above the
# last begin is one band, for old faces are few.
_BAND = 10
_LAST_BAND = 70

# The mean distance from the nearest step, in steps, is 1/4 of kernels that know no
# grid. Below the first of these nothing has moved; from the second on it is that of
# kernels of their own, whose nearest step is the better choice.
_MOVED, _OWN = 1e-3, 0.22
# Of fewer weights the mean says nothing.
_FEWEST = 256
# Rounding of float32 in a weight that lies on its step.
_ON_STEP = 1e-3


@dataclasses.dataclass(frozen=True)
class Selection:
    """A draw.

    Attributes:
        rows: numbers of the chosen examples, sorted.
        cells: how many were drawn of each kind that there is, by a name such
            as `"age 20-29, gender female, race asian"`.
    """

    rows: np.ndarray
    cells: dict[str, int]

    def summary(self) -> str:
        """One line for a terminal."""
        sizes = sorted(self.cells.values())
        return (
            f"calibrated on {len(self.rows)} training faces of {len(sizes)} kinds, "
            f"{sizes[0]} to {sizes[-1]} of each"
        )


def draw_representative(
    tasks: Sequence[Task],
    labels: Mapping[str, np.ndarray],
    count: int = COUNT,
    seed: int = 0,
) -> Selection:
    """Draws examples evenly over the combinations of all labels.

    One example of every kind in turn, until there are `count`; a kind that
    has no more is passed over. The same labels give the same draw.

    Args:
        tasks: whose labels make a kind: decades of a regression, classes,
            and "unknown" where a label is missing.
        labels: by task name, `[n]`.
        count: how many to draw, if there are as many.
        seed: of the draw.

    Raises:
        ValueError: if there is no example.
    """
    columns = [[_kind(task, value) for value in labels[task.name]] for task in tasks]
    kinds = collections.defaultdict(list)
    for row, kind in enumerate(zip(*columns, strict=True)):
        kinds[", ".join(kind)].append(row)
    if not kinds:
        raise ValueError("expected examples to calibrate with; there are none")
    rng = np.random.default_rng(seed)
    # In another order within each kind, and the kinds of the last, unfinished
    # round at random too.
    queues = {kind: list(rng.permutation(rows)) for kind, rows in sorted(kinds.items())}
    cells = dict.fromkeys(queues, 0)
    chosen = []
    while len(chosen) < count and any(queues.values()):
        for kind in rng.permutation([kind for kind in queues if queues[kind]]):
            if len(chosen) < count:
                chosen.append(queues[kind].pop())
                cells[str(kind)] += 1
    return Selection(np.sort(chosen), cells)


def _kind(task: Task, value: float) -> str:
    if value == MISSING:
        return f"{task.name} unknown"
    if task.classes:
        return f"{task.name} {task.format_label(value)}"
    begin = int(min(value // _BAND * _BAND, _LAST_BAND))
    if begin == _LAST_BAND:
        return f"{task.name} {begin} or more"
    return f"{task.name} {begin}-{begin + _BAND - 1}"


def near_grid_rounded(model: HydraNet) -> HydraNet:
    """A copy whose kernels near an 8-bit grid lie on it; the model itself without any.

    Args:
        model: in float32.
    """
    kernels = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.network.variables
    }
    near = {name: kernel for name, kernel in kernels.items() if near_grid(kernel)}
    if not near:
        return model
    copy = HydraNet.from_config(model.get_config())
    copy.network.set_weights(model.network.get_weights())
    random = np.random.default_rng(0)
    for variable in copy.network.variables:
        if variable.path in near:
            variable.assign(rounded(near[variable.path], random))
    return copy


def near_grid(kernel: np.ndarray) -> bool:
    """Whether a kernel was moved a little from the grid that 8 bits would give it."""
    if kernel.size < _FEWEST or kernel.ndim < 2:
        return False
    steps = kernel / _step(kernel)
    distance = np.abs(steps - np.round(steps)).mean()
    return bool(_MOVED < distance < _OWN)


def rounded(kernel: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The kernel on its 8-bit grid, each weight on one of the two steps around it.

    The largest weight of an output stays: it makes the grid. So a converter that rounds
    to the nearest step finds nothing to round.
    """
    step = _step(kernel)
    steps = kernel / step
    nearest = np.round(steps)
    either = np.floor(steps + random.random(steps.shape, np.float32))
    on_step = np.abs(steps - nearest) < _ON_STEP
    return (np.where(on_step, nearest, either) * step).astype(kernel.dtype)


def _step(kernel: np.ndarray) -> np.ndarray:
    axes = presets.axes_within_an_output(kernel.shape)
    largest = np.abs(kernel).max(axes, keepdims=True)
    return np.where(largest > 0, largest, 1) / np.float32(presets.LARGEST)
