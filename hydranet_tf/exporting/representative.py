"""Which training faces a quantiser looks at: equally many of every kind.

Drawn as they come, faces of the most frequent kind would decide the range of
every activation, and the predictions for all others would be clipped.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hydranet_tf.tasks import MISSING, Task

COUNT = 200

# Regressions are divided into bands of this many units; what lies above the
# last begin is one band, for old faces are few.
_BAND = 10
_LAST_BAND = 70


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


def draw(
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
        raise ValueError("expected examples to calibrate with; there is none")
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
