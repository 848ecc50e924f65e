"""Which answers are furthest from their labels; numpy alone.

A label may be the one that is wrong: what stands first here is where to look, and
not yet a mistake of the network.
"""

from __future__ import annotations

import numpy as np

from hydranet_tf.tasks import MISSING, Task


def worst(
    task: Task, labels: np.ndarray, answers: np.ndarray, count: int
) -> np.ndarray:
    """Rows of the wrong answers, worst first.

    A regression's are in the order of the absolute error, a classification's in
    that of the probability that the label got, lowest first. Of equal ones the
    earlier row comes first.

    Args:
        task: that was answered.
        labels: [n], `MISSING` where absent.
        answers: [n] in the task's unit, or probabilities [n, classes].
        count: how many rows at most.

    Returns:
        int [m], m <= count.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    rows = np.flatnonzero(labels != MISSING)
    labels, answers = labels[rows], answers[rows]
    if task.is_regression:
        error = np.abs(answers.astype(np.float64) - labels)
        wrong = error > 0
    else:
        labels = labels.astype(int)
        error = -answers[np.arange(len(rows)), labels]
        wrong = answers.argmax(axis=1) != labels
    order = np.argsort(-error[wrong], kind="stable")
    return rows[wrong][order[:count]]


def spoken(task: Task, value: np.ndarray | float) -> str:
    """A label, or an answer with its probability: `34 years` or `female 93 %`.

    Args:
        task: that was asked.
        value: a label, an answer in the task's unit, or probabilities [classes].
    """
    if np.ndim(value):
        best = int(np.argmax(value))
        return f"{task.classes[best]} {100 * value[best]:.0f} %"
    if task.is_regression:
        return f"{value:.0f} {task.unit}".rstrip()
    return task.classes[int(value)]
