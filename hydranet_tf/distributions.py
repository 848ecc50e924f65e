"""A regression predicted as a distribution over whole units of its range.

The head gives one logit for each year, say, from the lowest to the highest that
the task allows. It is trained in two ways at once, after Gao et al. 2018 ("Age
Estimation Using Expectation of Label Distribution Learning", IJCAI): its mean shall
be near the label, and its shape near a narrow bell around it. The prediction is the
median, which is the value with the smallest expected absolute error. Quantiles of the
same distribution say how sure it is.
"""

from __future__ import annotations

import numpy as np
from keras import ops

from hydranet_tf.tasks import Task

# Deviation of the bell: BASE + FRACTION * label. Annotators tell a child's age to
# months and an old person's to a decade.
BASE = 0.5
FRACTION = 0.05

# What a nat of difference in shape counts, in the task's unit, beside the distance
# of the mean; chosen on UTKFace, see docs/experiments.md.
SHAPE = 5.0

# Share of the probability between the ends of an interval.
INTERVAL = 0.8

# Divides by no less than this; a bin of smaller probability moves no quantile by
# anything that counts.
_SMALLEST = 1e-9

# Ends of ranges are sums of floats.
_ROUNDING = 1e-3

# The logarithm of what is left out of a sum of probabilities.
_NEVER = -1e9

# Keeps logarithms finite; float32 still holds it.
_SMALLEST_SHARE = 1e-30


def bins(task: Task):
    """The units that have a logit, float32 `[bins]`."""
    return ops.arange(len(prior(task)), dtype="float32") + task.low


def prior(task: Task) -> list[float]:
    """Logits of a wide bell around the task's centre, one a bin.

    Added to what the head gives, so that a fresh network starts with plausible
    values, as one with a single value does.
    """
    units = range(round(task.low), round(task.high) + 1)
    return [-0.5 * ((unit - task.centre) / task.spread) ** 2 for unit in units]


def targets(task: Task, labels):
    """The bell around each label.

    Args:
        task: a regression with a distribution as head.
        labels: `[batch]` in the task's unit, within its range.

    Returns:
        float32 `[batch, bins]`, each row sums to 1.
    """
    labels = ops.expand_dims(ops.cast(labels, "float32"), -1)
    std = BASE + FRACTION * labels
    return ops.softmax(-0.5 * ops.square((bins(task) - labels) / std))


def divergences(expected, logs):
    """KL(expected || predicted) of each row, float32 `[batch]`, in nats.

    Args:
        expected: probabilities `[batch, n]`, which may be 0.
        logs: logarithms of those that are predicted, `[batch, n]`.
    """
    # Far from the label a bell is 0 in float32, and so is its share.
    own = expected * ops.log(ops.maximum(expected, _SMALLEST_SHARE))
    return ops.sum(own - expected * logs, axis=-1)


def example_losses(task: Task, labels, logits, half_widths=None):
    """Loss of each example: `|mean - label| + SHAPE * KL(bell || distribution)`.

    The divergence and not the cross-entropy, which a sure and right network could not
    bring to 0: learned weights take what is left of a loss for its noise.

    A range says nothing of where in it the value lies, so no bell stands for it:
    `distance of the mean from the range - SHAPE * log(probability inside)`. Bin k
    holds the interval from k - 1/2 to k + 1/2, and counts where it meets the range.

    Args:
        task: see `targets`.
        labels: see `targets`; of a range its middle.
        logits: `[batch, bins]`.
        half_widths: `[batch]` half the width of a range, 0 for an exact label; None
            where all are exact.

    Returns:
        float32 `[batch]` in the task's unit, 0 or more.
    """
    logs = ops.log_softmax(ops.cast(logits, "float32"))
    labels = ops.cast(labels, "float32")
    divergence = divergences(targets(task, labels), logs)
    mean = ops.sum(ops.exp(logs) * bins(task), axis=-1)
    distance = ops.abs(mean - labels)
    exact = distance + SHAPE * divergence
    if half_widths is None:
        return exact
    half_widths = ops.cast(half_widths, "float32")
    away = ops.abs(bins(task) - ops.expand_dims(labels, -1))
    inside = away < ops.expand_dims(half_widths, -1) + 0.5 + _ROUNDING
    log_inside = ops.logsumexp(ops.where(inside, logs, _NEVER), axis=-1)
    ranged = ops.maximum(distance - half_widths, 0.0) - SHAPE * log_inside
    return ops.where(half_widths > 0, ranged, exact)


def constant_loss(task: Task, labels, half_widths=None) -> float:
    """Mean of `example_losses` for the mean of all bells, whatever the face.

    Args:
        task: see `targets`.
        labels: numpy `[n]` in the task's unit, n >= 1, none missing.
        half_widths: numpy `[n]`, see `example_losses`.
    """
    bells = ops.convert_to_numpy(targets(task, labels))
    logits = np.log(np.maximum(bells.mean(0, keepdims=True), _SMALLEST_SHARE))
    logits = np.repeat(logits, len(bells), axis=0)
    return float(ops.mean(example_losses(task, labels, logits, half_widths)))


def quantile(task: Task, probabilities, level: float):
    """The value below which the share `level` of the probability lies.

    Bin k holds the interval from k - 1/2 to k + 1/2 evenly. The quantile is the
    sum, over bins, of the share of each that lies below the level.

    Args:
        task: see `targets`.
        probabilities: `[batch, bins]`.
        level: from 0 to 1; 0.5 gives the median.

    Returns:
        float32 `[batch]`, within the task's range.
    """
    return _quantile(task, probabilities, _below(probabilities), level)


def _quantile(task: Task, probabilities, below, level: float):
    fraction = (level - below) / ops.maximum(probabilities, _SMALLEST)
    found = ops.sum(ops.clip(fraction, 0.0, 1.0), axis=-1) + (task.low - 0.5)
    return ops.clip(found, task.low, task.high)


def _below(probabilities):
    """The probability of all bins before each, `[batch, bins]`.

    A cumulative sum in steps of 1, 2, 4, ... bins (Hillis and Steele 1986), for GPU
    delegates of LiteRT have no CUMSUM. Subtractions of the negative: TensorFlow makes
    a bias of an addition to a single row, and flattens it to one axis.
    """
    total, step, count = probabilities, 1, probabilities.shape[-1]
    while step < count:
        total = total - ops.pad(-total[:, :-step], ((0, 0), (step, 0)))
        step *= 2
    return total - probabilities


def predictions(task: Task, logits) -> dict:
    """Median and interval.

    Args:
        task: see `targets`.
        logits: `[batch, bins]`.

    Returns:
        float32 `[batch]` in the task's unit by the names of `task.outputs`: the
        median, and the ends of the interval that leaves equal shares of the
        probability on either side.
    """
    probabilities = ops.softmax(ops.cast(logits, "float32"))
    levels = (0.5, (1 - INTERVAL) / 2, (1 + INTERVAL) / 2)
    below = _below(probabilities)
    return {
        name: _quantile(task, probabilities, below, level)
        for name, level in zip(task.outputs, levels, strict=True)
    }


def median(task: Task, logits):
    """The prediction in the task's unit, float32 `[batch]`, of `[batch, bins]`."""
    return quantile(task, ops.softmax(ops.cast(logits, "float32")), 0.5)
