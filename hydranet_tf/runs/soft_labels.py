"""Labels of training faces, blended with what another network answers for them.

After Hinton, Vinyals and Dean 2015 (arXiv:1503.02531). An annotator names one class; a
teacher says how much of each it sees, and is not sure where annotators would differ.
A teacher that was trained on the same faces knows their labels by heart, so its answers
should come from folds that it has not seen, as those of examples/teacher.py do.
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
    """The faces with soft labels for each task with classes that the teacher answers.

    Args:
        faces: every one needs its row in the file.
        config: `teacher`, a CSV file with the columns `id` and `p_TASK_CLASS`, which
            may answer for more faces and for fewer tasks; `teacher_share`.

    Returns:
        The same faces, `soft_labels` by `task.soft_name` float32 `[n, classes]`. The
        label of a regression stays as it is.

    Raises:
        hydranet_tf.files.tables.SourceError: on a file that cannot be read, answers no
            task, misses a face or holds something else than probabilities.
    """
    path = Path(config.teacher).expanduser()
    answers = {cells["id"]: cells for _, cells in tables.read_table(path, ["id"])}
    rows = [answers.get(str(i)) for i in faces.examples.ids]
    missing = [i for i, row in zip(faces.examples.ids, rows, strict=True) if not row]
    if missing:
        raise tables.SourceError(
            f"--teacher: {path} has no row for {len(missing)} of {len(faces)} "
            f"training faces, the first {missing[0]}; a teacher answers for each"
        )
    columns = {task: task.probability_columns for task in TASKS if task.classes}
    found = {
        task.soft_name: _blended(
            task,
            faces.examples.labels[task.name],
            _probabilities(path, rows, names),
            config.teacher_share,
        )
        for task, names in columns.items()
        if rows[0].keys() >= set(names)
    }
    if not found:
        raise tables.SourceError(
            f"--teacher: {path} answers no task; expected the columns "
            + ", or ".join(" ".join(names) for names in columns.values())
        )
    return dataclasses.replace(faces, soft_labels=found)


def _probabilities(path, rows, columns) -> np.ndarray:
    try:
        values = np.array([[float(row[name]) for name in columns] for row in rows])
        wrong = ~((values >= 0).all(1) & (abs(values.sum(1) - 1) < _ROUNDING))
    except ValueError as error:
        raise tables.SourceError(
            f"--teacher: {path}, columns {', '.join(columns)}: {error}; expected "
            "probabilities"
        ) from error
    if wrong.any():
        row = int(wrong.argmax())
        raise tables.SourceError(
            f"--teacher: {path}: the columns {', '.join(columns)} of "
            f"{rows[row]['id']} hold {values[row].tolist()}; expected probabilities "
            "that add up to 1"
        )
    return values / values.sum(1, keepdims=True)


def _blended(task: Task, labels, probabilities, share: float) -> np.ndarray:
    # A missing label takes no part in the loss, whatever stands here.
    known = np.eye(len(task.classes))[np.where(labels == MISSING, 0, labels)]
    return ((1 - share) * known + share * probabilities).astype(np.float32)
