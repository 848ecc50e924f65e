"""A regression answered by a distribution over whole units of its range.

The head gives one logit for each year, say, from the lowest to the highest that
the task allows. It is trained by cross-entropy to a narrow bell around the label
(label distribution learning: Gao et al. 2017, arXiv:1611.01731) and answers the
median, which is the value with the smallest expected absolute error. Quantiles of
the same distribution say how sure it is.
"""

from __future__ import annotations

from keras import ops

from hydranet_tf.tasks import Task

# Deviation of the bell: BASE + SHARE * label. Annotators tell a child's age to
# months and an old person's to a decade.
BASE = 0.5
SHARE = 0.05

# Share of the probability between the ends of an interval.
INTERVAL = 0.8

# Divides by no less than this; a bin of smaller probability moves no quantile by
# anything that counts.
_SMALLEST = 1e-9


def bins(task: Task):
    """The units that have a logit, float32 `[bins]`."""
    return ops.arange(task.num_logits, dtype="float32") + task.low


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
    deviation = BASE + SHARE * labels
    return ops.softmax(-0.5 * ops.square((bins(task) - labels) / deviation))


def cross_entropy(task: Task, labels, logits):
    """Loss of each example in nats, float32 `[batch]`.

    Args:
        task: see `targets`.
        labels: see `targets`.
        logits: `[batch, bins]`.
    """
    logits = ops.cast(logits, "float32")
    return -ops.sum(targets(task, labels) * ops.log_softmax(logits), axis=-1)


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
    below = ops.cumsum(probabilities, axis=-1) - probabilities
    share = (level - below) / ops.maximum(probabilities, _SMALLEST)
    # A subtraction, which no backbone has: exports in 8 bits leave the arithmetic
    # of heads in float32 and know it by its operators.
    found = ops.sum(ops.clip(share, 0.0, 1.0), axis=-1) - (0.5 - task.low)
    return ops.clip(found, task.low, task.high)


def answers(task: Task, logits) -> dict:
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
    return {
        name: quantile(task, probabilities, level)
        for name, level in zip(task.outputs, levels, strict=True)
    }


def median(task: Task, logits):
    """The answer in the task's unit, float32 `[batch]`, of logits `[batch, bins]`."""
    return quantile(task, ops.softmax(ops.cast(logits, "float32")), 0.5)
