"""Scores of labels that are ranges, as in FairFace's `20-29`; numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydranet_tf.evaluation import scores
from hydranet_tf.tasks import Task

# More ranges than this are no classes of ages any more.
_MOST = 20


def compared(
    labels: np.ndarray, half_widths: np.ndarray | None, predictions: np.ndarray
) -> np.ndarray:
    """Answers as far from the middles of ranges as the real ones are from the ranges.

    With them, every score of exact labels is one of ranges: an answer inside is right.

    Args:
        labels: [n], middles of ranges; a missing one stays as it is.
        half_widths: [n], 0 for an exact label; None where all are exact.
        predictions: [n] in the task's unit.
    """
    if half_widths is None:
        return predictions
    errors = predictions.astype(np.float64) - labels
    outside = np.sign(errors) * np.maximum(np.abs(errors) - half_widths, 0)
    return labels + outside


def text(task: Task, label: float, half_width: float) -> str:
    """A label as tables have it: `34`, `20-29`, `70+` to the end, or the class."""
    if not half_width:
        return task.format_label(label)
    low, high = label - half_width, label + half_width
    return f"{low:g}+" if high >= task.high else f"{low:g}-{high:g}"


def measure(
    task: Task,
    labels: np.ndarray,
    half_widths: np.ndarray | None,
    predictions: np.ndarray,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The part `ranges` of a regression in report.json.

    A prediction belongs to the range that it is nearest to, of two the lower. (Between
    `3-9` and `10-19` lies 9.6.)

    Returns:
        `names` of the ranges from low to high, `counts` [label, answer], and the
        scores `accuracy` (the answer is in the label's range) and `within_one` (or in
        the next); None where no label is a range, or they are many.
    """
    if half_widths is None:
        return None
    rows = np.flatnonzero(scores.present(labels) & (half_widths > 0))
    labels, half_widths = labels[rows], half_widths[rows]
    ends = np.stack([labels - half_widths, labels + half_widths], axis=1)
    known, place = np.unique(ends.round(3), axis=0, return_inverse=True)
    if not 1 < len(known) <= _MOST:
        return None
    place = place.ravel()
    predictions = predictions[rows, None]
    away = np.maximum(known[:, 0] - predictions, 0) + np.maximum(
        predictions - known[:, 1], 0
    )
    found = away.argmin(axis=1)
    side = len(known)
    counts = np.bincount(place * side + found, minlength=side**2).reshape(side, side)
    steps = np.abs(place - found)
    columns = np.stack([steps == 0, steps <= 1], axis=1)
    measured = scores.bootstrap(
        columns, lambda m: {"accuracy": m[:, 0], "within_one": m[:, 1]}, seed
    )
    return {
        "names": [text(task, (a + b) / 2, (b - a) / 2) for a, b in known],
        "counts": counts.tolist(),
        "scores": {name: score.to_json() for name, score in measured.items()},
    }
