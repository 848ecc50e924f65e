"""Streaming scores over the labels that are there."""

from __future__ import annotations

import keras
from keras import ops

from hydranet_tf import distributions
from hydranet_tf.tasks import MISSING, Task, from_config


def label_mask(labels):
    """1.0 where a label is present, 0.0 where it is `MISSING` or NaN, float32."""
    present = ops.logical_and(
        ops.not_equal(labels, MISSING),
        # NaN, which tables have for a blank, is not equal to itself.
        ops.equal(labels, labels),
    )
    return ops.cast(present, "float32")


def present_or_zero(labels):
    """The labels, and 0 where there is none: an index and a number of each task."""
    return ops.where(label_mask(labels) > 0, labels, ops.zeros_like(labels))


@keras.saving.register_keras_serializable("hydranet_tf")
class MeanOfLabels(keras.metrics.Mean):
    """Weighted mean; NaN where nothing was counted, which 0 would hide."""

    def result(self):
        """Scalar of what has been added so far."""
        mean = ops.divide_no_nan(self.total, self.count)
        return ops.where(self.count > 0, mean, float("nan"))

    def _add(self, values, labels, sample_weight) -> None:
        """Adds `[batch]` values of the rows that have a label, by their weights."""
        weights = label_mask(labels)
        # `where` and not a product: a value of a row without label may be NaN.
        values = ops.where(weights > 0, values, 0.0)
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        super().update_state(values, sample_weight=weights)


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedMeanAbsoluteError(MeanOfLabels):
    """Mean of |label - prediction| in the task's unit; missing left out."""

    def __init__(self, name: str = "mae", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]`, predictions `[batch]` and weights `[batch]`."""
        errors = ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32"))
        self._add(errors, y_true, sample_weight)


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedMedianError(MaskedMeanAbsoluteError):
    """The same of the median of a predicted distribution."""

    def __init__(self, task: Task, name: str = "mae", **kwargs):
        super().__init__(name=name, **kwargs)
        self.task = task if isinstance(task, Task) else from_config(task)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]`, logits `[batch, bins]` and weights `[batch]`."""
        median = distributions.median(self.task, y_pred)
        super().update_state(y_true, median, sample_weight)

    def get_config(self):
        return {**super().get_config(), "task": vars(self.task)}


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedAccuracy(MeanOfLabels):
    """Fraction of right classes among the present labels.

    Logits `[batch, 1]` mean class 1 where positive, `[batch, classes]` the
    class of the largest.
    """

    def __init__(self, name: str = "accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]`, logits and weights `[batch]`."""
        if y_pred.shape[-1] == 1:
            predicted = ops.cast(ops.squeeze(y_pred, -1) > 0, "int32")
        else:
            predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        classes = ops.cast(present_or_zero(y_true), "int32")
        right = ops.cast(ops.equal(classes, predicted), "float32")
        self._add(right, y_true, sample_weight)
