"""Labels of training faces, blended with the predictions of other networks.

After Hinton, Vinyals and Dean 2015 (arXiv:1503.02531). An annotator names one class; a
teacher says how much of each it sees, and is not sure where annotators would differ.
Several teachers count by their mean, which is nearer to the labels of new faces than
each of them is. A teacher that was trained on the same faces knows part of their labels
by heart; predictions from folds that it has not seen, as those of examples/teacher.py,
say more.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from hydranet_tf.config import TrainingConfig
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.io import tables
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import MISSING, Task


def blended(faces: Faces, config: TrainingConfig) -> Faces:
    """The faces with soft labels for each task that the teachers predict.

    Args:
        faces: every one needs its row in each file.
        config: `teacher`, files as `tables.read_predictions` takes them, joined by
            commas; a task is predicted by the mean over the files that have it.
            `distillation_weight`.

    Returns:
        The same faces, `soft_labels` by `task.soft_name`: float32 `[n, classes]`, or
        `[n]` in the unit of a regression.

    Raises:
        hydranet_tf.io.tables.SourceError: on a file that cannot be read, has no task,
            misses a face or holds something else than probabilities and values in
            range.
    """
    taught = {}
    for name in config.teacher.split(","):
        try:
            found = tables.read_predictions(
                Path(name.strip()).expanduser(), faces.examples.ids
            )
        except SourceError as error:
            raise SourceError(f"--teacher: {error}") from error
        for task, values in found.items():
            if task.name not in faces.examples.labels:
                continue  # Not one of --tasks.
            taught.setdefault(task, []).append(values)
    soft_labels = {
        task.soft_name: _blended(
            task,
            _nearest(task, faces, np.mean(values, axis=0)),
            np.mean(values, axis=0),
            config.distillation_weight,
        )
        for task, values in taught.items()
    }
    return dataclasses.replace(faces, soft_labels=soft_labels)


def _nearest(task: Task, faces: Faces, taught: np.ndarray) -> np.ndarray:
    """The labels; of a range what of it is nearest to the teachers' prediction."""
    labels = faces.examples.labels[task.name]
    widths = faces.examples.labels.get(task.half_width_name)
    if widths is None:
        return labels
    nearest = np.clip(taught, labels - widths, labels + widths)
    return np.where(labels == MISSING, labels, nearest)


def _blended(task: Task, labels, taught, fraction: float) -> np.ndarray:
    # A missing label takes no part in the loss, whatever stands here.
    known = np.where(labels == MISSING, 0, labels)
    if task.classes:
        known = np.eye(len(task.classes))[known]
    return ((1 - fraction) * known + fraction * taught).astype(np.float32)
