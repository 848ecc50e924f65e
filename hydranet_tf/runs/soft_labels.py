"""Labels of training faces, blended with what other networks answer for them.

After Hinton, Vinyals and Dean 2015 (arXiv:1503.02531). An annotator names one class; a
teacher says how much of each it sees, and is not sure where annotators would differ.
Several teachers answer by their mean, which is nearer to the labels of new faces than
each of them is. A teacher that was trained on the same faces knows part of their labels
by heart; answers from folds that it has not seen, as those of examples/teacher.py, say
more.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from hydranet_tf.config import TrainingConfig
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.files import tables
from hydranet_tf.tasks import MISSING, TASKS, Task

# Written with six digits, as evaluate.py does, a row may miss 1 by this.
_ROUNDING = 1e-3


def blended(faces: Faces, config: TrainingConfig) -> Faces:
    """The faces with soft labels for each task that the teachers answer.

    Args:
        faces: every one needs its row in each file.
        config: `teacher`, CSV files, joined by commas, with the columns `id` and
            `p_TASK_CLASS` of a task with classes, `predicted_TASK` of a regression.
            Each may answer for more faces and for fewer tasks; a task is answered by
            the mean over the files that have it. `teacher_share`.

    Returns:
        The same faces, `soft_labels` by `task.soft_name`: float32 `[n, classes]`, or
        `[n]` in the unit of a regression.

    Raises:
        hydranet_tf.files.tables.SourceError: on a file that cannot be read, answers no
            task, misses a face or holds something else than probabilities and values
            in range.
    """
    answers = {}
    for name in config.teacher.split(","):
        path = Path(name.strip()).expanduser()
        for task, values in _answers(path, faces).items():
            answers.setdefault(task, []).append(values)
    found = {
        task.soft_name: _blended(
            task,
            faces.examples.labels[task.name],
            np.mean(values, axis=0),
            config.teacher_share,
        )
        for task, values in answers.items()
    }
    return dataclasses.replace(faces, soft_labels=found)


def _answers(path: Path, faces: Faces) -> dict[Task, np.ndarray]:
    """What one file says of the faces: years `[n]` or probabilities `[n, classes]`."""
    answers = {cells["id"]: cells for _, cells in tables.read_table(path, ["id"])}
    rows = [answers.get(str(i)) for i in faces.examples.ids]
    missing = [i for i, row in zip(faces.examples.ids, rows, strict=True) if not row]
    if missing:
        raise tables.SourceError(
            f"--teacher: {path} has no row for {len(missing)} of {len(faces)} "
            f"training faces, the first {missing[0]}; a teacher answers for each"
        )
    columns = {task: task.answer_columns for task in TASKS}
    answered = {
        task: _numbers(path, rows, names)
        for task, names in columns.items()
        if rows[0].keys() >= set(names)
    }
    if not answered:
        raise tables.SourceError(
            f"--teacher: {path} answers no task; expected the columns "
            + ", or ".join(" ".join(names) for names in columns.values())
        )
    return {
        task: (_probabilities if task.classes else _values)(path, rows, task, numbers)
        for task, numbers in answered.items()
    }


def _numbers(path, rows, columns) -> np.ndarray:
    try:
        return np.array([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise tables.SourceError(
            f"--teacher: {path}, columns {', '.join(columns)}: {error}; expected "
            "a number in each row"
        ) from error


def _probabilities(path, rows, task, values) -> np.ndarray:
    # "Not right" is also true of NaN.
    wrong = ~((values >= 0).all(1) & (abs(values.sum(1) - 1) < _ROUNDING))
    if wrong.any():
        row = int(wrong.argmax())
        raise tables.SourceError(
            f"--teacher: {path}: the columns {', '.join(task.probability_columns)} of "
            f"{rows[row]['id']} hold {values[row].tolist()}; expected probabilities "
            "that add up to 1"
        )
    return values / values.sum(1, keepdims=True)


def _values(path, rows, task, values) -> np.ndarray:
    values = values[:, 0]
    wrong = ~((values >= task.low) & (values <= task.high))
    if wrong.any():
        row = int(wrong.argmax())
        raise tables.SourceError(
            f"--teacher: {path}: the column {task.answer_column} of {rows[row]['id']} "
            f"holds {values[row]:g}; expected {task.unit} from {task.low:g} to "
            f"{task.high:g}"
        )
    return values


def _blended(task: Task, labels, answers, share: float) -> np.ndarray:
    # A missing label takes no part in the loss, whatever stands here.
    known = np.where(labels == MISSING, 0, labels)
    if task.classes:
        known = np.eye(len(task.classes))[known]
    return ((1 - share) * known + share * answers).astype(np.float32)
