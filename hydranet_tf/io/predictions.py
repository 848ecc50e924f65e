"""Answers of a network, read from the table that evaluate.py or another tool wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from hydranet_tf.io.tables import SourceError, read_table
from hydranet_tf.tasks import TASKS, Task

# Written with six digits, as evaluate.py does, a row may miss 1 by this.
_ROUNDING = 1e-3


def read(path: str | os.PathLike, ids: Sequence[str]) -> dict[Task, np.ndarray]:
    """The predictions for these faces, of each task that the file answers.

    Args:
        path: a CSV file with the columns `id` and `p_TASK_CLASS` of a task with
            classes, `predicted_TASK` of a regression; it may hold more faces, more
            columns and fewer tasks.
        ids: the faces asked for, in the order of the result.

    Returns:
        Probabilities `[n, classes]` whose rows add up to 1, or values `[n]` in the
        unit of a regression.

    Raises:
        SourceError: on a file that cannot be read, answers no task, misses a face or
            holds something else than probabilities and values in range.
    """
    found = {cells["id"]: cells for _, cells in read_table(path, ["id"])}
    missing = [i for i in ids if str(i) not in found]
    if missing:
        raise SourceError(
            f"{path} has no row for {len(missing)} of {len(ids)} faces, the first "
            f"{missing[0]}; expected an answer for each"
        )
    rows = [found[str(i)] for i in ids]
    columns = {task: task.prediction_columns for task in TASKS}
    predicted = {
        task: _numbers(path, rows, names)
        for task, names in columns.items()
        if rows[0].keys() >= set(names)
    }
    if not predicted:
        raise SourceError(
            f"{path} answers no task; expected the columns "
            + ", or ".join(" ".join(names) for names in columns.values())
        )
    return {
        task: (_probabilities if task.classes else _values)(path, rows, task, numbers)
        for task, numbers in predicted.items()
    }


def _numbers(path, rows, columns) -> np.ndarray:
    try:
        return np.array([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise SourceError(
            f"{path}, columns {', '.join(columns)}: {error}; expected a number in "
            "each row"
        ) from error


def _probabilities(path, rows, task, values) -> np.ndarray:
    # "Not right" is also true of NaN.
    wrong = ~((values >= 0).all(1) & (abs(values.sum(1) - 1) < _ROUNDING))
    if wrong.any():
        row = int(wrong.argmax())
        raise SourceError(
            f"{path}: the columns {', '.join(task.probability_columns)} of "
            f"{rows[row]['id']} hold {values[row].tolist()}; expected probabilities "
            "that add up to 1"
        )
    return values / values.sum(1, keepdims=True)


def _values(path, rows, task, values) -> np.ndarray:
    values = values[:, 0]
    wrong = ~((values >= task.low) & (values <= task.high))
    if wrong.any():
        row = int(wrong.argmax())
        raise SourceError(
            f"{path}: the column {task.prediction_column} of {rows[row]['id']} holds "
            f"{values[row]:g}; expected {task.unit} from {task.low:g} to {task.high:g}"
        )
    return values
