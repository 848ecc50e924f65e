"""Which predictions are furthest from their labels; numpy alone.

A label may be the one that is wrong: what stands first here is where to look, and
not yet a mistake of the network.
"""

from __future__ import annotations

import numpy as np

from hydranet_tf.tasks import MISSING, Task


def worst(
    task: Task, labels: np.ndarray, predictions: np.ndarray, count: int
) -> np.ndarray:
    """Rows of the wrong predictions, worst first.

    A regression's are in the order of the absolute error, a classification's in
    that of the probability that the label got, lowest first. Of equal ones the
    earlier row comes first.

    Args:
        task: that was predicted.
        labels: [n], `MISSING` where absent.
        predictions: [n] in the task's unit, or probabilities [n, classes].
        count: how many rows at most.

    Returns:
        int [m], m <= count.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    rows = np.flatnonzero(labels != MISSING)
    labels, predictions = labels[rows], predictions[rows]
    if task.is_regression:
        error = np.abs(predictions.astype(np.float64) - labels)
        wrong = error > 0
    else:
        labels = labels.astype(int)
        error = -predictions[np.arange(len(rows)), labels]
        wrong = predictions.argmax(axis=1) != labels
    order = np.argsort(-error[wrong], kind="stable")
    return rows[wrong][order[:count]]


def format_prediction(task: Task, value: np.ndarray | float) -> str:
    """A label, or a prediction with its probability: `34 years` or `female 93 %`.

    Args:
        task: that was asked.
        value: a label, a prediction in the task's unit, or probabilities [classes].
    """
    if np.ndim(value):
        best = int(np.argmax(value))
        return f"{task.classes[best]} {100 * value[best]:.0f} %"
    return f"{task.format_label(value, '.0f')} {task.unit}".rstrip()
