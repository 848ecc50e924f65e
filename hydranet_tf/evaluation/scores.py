"""Scores of predictions against labels, with bootstrap intervals; numpy alone.

Every score here is a function of column means over examples, so one
resampling scheme serves them all: draw examples with replacement, average the
columns again, apply the function again. Rows whose label is `MISSING` are left
out before anything is counted, and a score without any label has no value: it
is neither 0 nor NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hydranet_tf.tasks import MISSING, Task

LEVEL = 0.95
RESAMPLES = 1_000
RELIABILITY_BINS = 15
# CS@5, the cumulative score of the age literature.
TOLERANCE = 5.0

OK = "ok"
NO_LABELS = "no labels"

# Resampled counts are made in blocks of about this many cells (16 MB each).
_BLOCK_CELLS = 2_000_000

# More ranges than this are no longer classes of ages.
_MOST_RANGES = 20

# Tried temperatures: 0.2 to 5 in steps of 1 %.
_GRID = np.exp(np.arange(-161, 162) * 0.01)


@dataclasses.dataclass(frozen=True)
class Meaning:
    """How to read a score.

    Attributes:
        title: the words a report uses.
        higher_is_better: `None` where neither direction is.
        is_fraction: whether it is a fraction from 0 to 1; otherwise it has the
            unit of its task.
    """

    title: str
    higher_is_better: bool | None
    is_fraction: bool


MEANINGS: Mapping[str, Meaning] = {
    "mae": Meaning("mean absolute error", False, False),
    "cs5": Meaning("CS@5, share off by at most 5", True, True),
    "bias": Meaning("bias (predicted minus label)", None, False),
    # Neither is good alone: a wide interval holds everything. What is wanted is
    # the promised share with the least width.
    "coverage": Meaning("share of labels in the 80 % interval", None, True),
    "width": Meaning("mean width of the 80 % interval", None, False),
    "accuracy": Meaning("accuracy", True, True),
    "balanced_accuracy": Meaning("balanced accuracy", True, True),
}


@dataclasses.dataclass(frozen=True)
class Score:
    """A score and its interval.

    Attributes:
        n: labels that it rests on.
        value: `None` where `n` is 0.
        low, high: ends of the bootstrap interval at `LEVEL`; `None` below two
            labels. Where all examples agree (say, all right) the interval has
            no width: resampling cannot know what it has not seen.
    """

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict:
        status = OK if self.n else NO_LABELS
        return {**dataclasses.asdict(self), "status": status}


def present(labels: np.ndarray) -> np.ndarray:
    """Mask [n] of the rows that have a label."""
    return np.asarray(labels) != MISSING


def bootstrap(
    columns: np.ndarray,
    statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """Percentile bootstrap of statistics of column means (Efron 1979).

    Args:
        columns: [n, k], one row an example, n >= 1.
        statistics: from means [r, k] to a dict of values [r].
        seed: each call starts its own generator from it, so that a score's
            interval does not depend on which other scores are computed.
        resamples: how many times the n examples are drawn again.
    """
    columns = np.asarray(columns, np.float64)
    n = len(columns)
    points = statistics(columns.mean(axis=0, keepdims=True))
    if n < 2:
        return {name: Score(n, float(value[0])) for name, value in points.items()}
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK_CELLS // n)
    means = []
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = random.integers(n, size=(r, n)) + np.arange(r)[:, None] * n
        # How often each example was drawn, [r, n]: averaging all columns is
        # then one matrix product.
        times = np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n)
        means.append(times.astype(np.float64) @ columns / n)
    tail = (1 - LEVEL) / 2 * 100
    drawn_values = statistics(np.concatenate(means))
    scores = {}
    for name, value in points.items():
        low, high = np.percentile(drawn_values[name], [tail, 100 - tail])
        scores[name] = Score(n, float(value[0]), float(low), float(high))
    return scores


def score(
    task: Task, labels: np.ndarray, predictions: np.ndarray, seed: int = 0
) -> dict[str, Score]:
    """All scores of one task.

    Args:
        task: decides which scores there are.
        labels: [n], `MISSING` where absent.
        predictions: [n] in the task's unit, or probabilities [n, classes].

    Returns:
        `mae`, `cs5` and `bias` of a regression; `accuracy` and
        `balanced_accuracy` (mean recall of the classes that occur) of a
        classification.
    """
    kept = present(labels)
    labels, predictions = np.asarray(labels)[kept], np.asarray(predictions)[kept]
    if task.is_regression:
        names, measure = ("mae", "cs5", "bias"), _score_numbers
    else:
        names, measure = ("accuracy", "balanced_accuracy"), _score_classes
    if not len(labels):
        return {name: Score(0) for name in names}
    return measure(labels, predictions, seed)


def interval_scores(
    labels: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    seed: int = 0,
    half_widths: np.ndarray | None = None,
) -> dict[str, Score]:
    """Scores of predicted intervals `[low, high]`.

    Args:
        labels, low, high: [n]; a label may be `MISSING`.
        half_widths: [n] of labels that are ranges, 0 where one is exact. Such a label
            is within an interval that it meets.

    Returns:
        `coverage`, the share of labels within their interval, its ends
        included, and `width`, the mean of high - low in the task's unit.
    """
    kept = present(labels)
    if half_widths is None:
        half_widths = np.zeros(len(kept))
    labels, low, high, half_widths = (
        np.asarray(v)[kept] for v in (labels, low, high, half_widths)
    )
    if not len(labels):
        return {"coverage": Score(0), "width": Score(0)}
    inside = (low <= labels + half_widths) & (labels - half_widths <= high)
    columns = np.stack([inside, high - low], axis=1)
    return bootstrap(columns, lambda m: {"coverage": m[:, 0], "width": m[:, 1]}, seed)


def _score_numbers(labels, predictions, seed) -> dict[str, Score]:
    errors = predictions.astype(np.float64) - labels.astype(np.float64)
    columns = np.stack([np.abs(errors), np.abs(errors) <= TOLERANCE, errors], axis=1)
    return bootstrap(
        columns, lambda m: {"mae": m[:, 0], "cs5": m[:, 1], "bias": m[:, 2]}, seed
    )


def _score_classes(labels, predictions, seed) -> dict[str, Score]:
    classes = predictions.shape[1]
    is_class = labels[:, None] == np.arange(classes)
    is_right = (predictions.argmax(axis=1) == labels)[:, None]

    def statistics(means):
        fraction, right = means[:, :classes], means[:, classes:-1]
        # A class that was not drawn has no recall and leaves the mean.
        seen = fraction > 0
        recall = np.divide(right, fraction, out=np.zeros_like(right), where=seen)
        return {
            "accuracy": means[:, -1],
            "balanced_accuracy": recall.sum(axis=1) / seen.sum(axis=1),
        }

    columns = np.concatenate([is_class, is_class & is_right, is_right], axis=1)
    return bootstrap(columns, statistics, seed)


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts [label, prediction], int64, over the rows that have a label."""
    kept = present(labels)
    classes = probabilities.shape[1]
    cells = np.asarray(labels)[kept] * classes + probabilities[kept].argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclasses.dataclass(frozen=True)
class ReliabilityCurve:
    """Expected calibration error and the bins behind it.

    Attributes:
        n: labels that it rests on.
        error: `None` where `n` is 0.
        edges: [bins + 1] of confidence.
        counts: [bins] examples in each bin.
        confidence, accuracy: [bins] means in each bin, NaN in an empty one.
    """

    n: int
    error: float | None
    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def to_json(self) -> dict:
        bins = [
            {
                "from": float(self.edges[i]),
                "to": float(self.edges[i + 1]),
                "n": int(count),
                "confidence": float(self.confidence[i]) if count else None,
                "accuracy": float(self.accuracy[i]) if count else None,
            }
            for i, count in enumerate(self.counts)
        ]
        status = OK if self.n else NO_LABELS
        return {"ece": self.error, "n": self.n, "status": status, "bins": bins}


def reliability(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = RELIABILITY_BINS
) -> ReliabilityCurve:
    """Top-label calibration in equal-width bins (Guo et al. 2017, eq. 3).

    A bin is open on the left and closed on the right, as in that paper. No
    interval is given: resampling only adds to this error, so its percentiles
    do not surround it.
    """
    kept = present(labels)
    labels, probabilities = np.asarray(labels)[kept], probabilities[kept]
    n = len(labels)
    edges = np.linspace(0, 1, bins + 1)
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    confidence_sums = np.bincount(place, weights=confidence, minlength=bins)
    right_sums = np.bincount(place, weights=right, minlength=bins)
    gaps = np.abs(confidence_sums - right_sums).sum()
    empty = np.full(bins, np.nan)
    return ReliabilityCurve(
        n=n,
        error=float(gaps / n) if n else None,
        edges=edges,
        counts=counts,
        confidence=np.divide(confidence_sums, counts, out=empty, where=counts > 0),
        accuracy=np.divide(right_sums, counts, out=empty.copy(), where=counts > 0),
    )


def compared_to_ranges(
    labels: np.ndarray, half_widths: np.ndarray | None, predictions: np.ndarray
) -> np.ndarray:
    """Predictions as far from the middles of ranges as the real ones from the ranges.

    With them, every score of exact labels is one of ranges: a prediction inside is
    right.

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


def label_text(task: Task, label: float, half_width: float) -> str:
    """A label as tables have it: `34`, `20-29`, `70+` to the end, or the class."""
    if not half_width:
        return task.format_label(label)
    low, high = label - half_width, label + half_width
    return f"{low:g}+" if high >= task.high else f"{low:g}-{high:g}"


def range_scores(
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
        `names` of the ranges from low to high, `counts` [label, prediction], and the
        scores `accuracy` (the prediction is in the label's range) and `within_one` (or
        in the next); None where no label is a range, or they are many.
    """
    if half_widths is None:
        return None
    rows = np.flatnonzero(present(labels) & (half_widths > 0))
    labels, half_widths = labels[rows], half_widths[rows]
    ends = np.stack([labels - half_widths, labels + half_widths], axis=1)
    known, place = np.unique(ends.round(3), axis=0, return_inverse=True)
    if not 1 < len(known) <= _MOST_RANGES:
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
    measured = bootstrap(
        columns, lambda m: {"accuracy": m[:, 0], "within_one": m[:, 1]}, seed
    )
    return {
        "names": [label_text(task, (a + b) / 2, (b - a) / 2) for a, b in known],
        "counts": counts.tolist(),
        "scores": {name: score.to_json() for name, score in measured.items()},
    }


def fit_temperatures(
    tasks: Sequence[Task], logits: Mapping[str, np.ndarray], labels: Mapping
) -> dict[str, float]:
    """The temperature of each head that gives the labels the highest likelihood.

    After Guo et al. 2017 (arXiv:1706.04599, section 4.2): logits are divided by a
    single number, fitted by likelihood on examples that the network did not learn
    from. No most probable class changes; a probability of 0.8 comes closer to being
    right in 80 of 100 cases.

    Args:
        tasks: those without probabilities (a regression by one value) get none.
        logits: by task name: `[n]` of a value, `[n, 1]`, `[n, classes]` or `[n, bins]`.
        labels: by task name, `[n]`, `MISSING` where absent.

    Returns:
        By task name, from 0.2 to 5; 1.0 where there is no label.
    """
    found = {}
    for task in tasks:
        values = np.asarray(logits[task.name])
        if values.ndim == 1:
            continue
        present = np.asarray(labels[task.name]) != MISSING
        found[task.name] = 1.0
        if present.any():
            scores = _of_all_classes(values[present])
            index = np.asarray(labels[task.name])[present] - task.label_range[0]
            losses = [_loss(scores / t, np.round(index).astype(int)) for t in _GRID]
            found[task.name] = round(float(_GRID[int(np.argmin(losses))]), 4)
    return found


def _of_all_classes(logits: np.ndarray) -> np.ndarray:
    """A single logit is that of the second of two classes; the first has 0."""
    logits = logits.astype(np.float64)
    if logits.shape[1] == 1:
        return np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits


def _loss(scores: np.ndarray, index: np.ndarray) -> float:
    """Mean negative log-likelihood of softmax(scores) at the labels, in nats."""
    top = scores.max(axis=1, keepdims=True)
    total = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(total - scores[np.arange(len(index)), index]))
