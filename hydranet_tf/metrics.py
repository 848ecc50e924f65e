"""Streaming scores over the labels that are there."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from hydranet_tf import distributions
from hydranet_tf.losses import label_mask
from hydranet_tf.tasks import Task, from_config


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedMeanAbsoluteError(keras.metrics.Mean):
    """Mean of |label - prediction| in the task's unit; missing left out."""

    def __init__(self, name: str = "mae", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]` and predictions `[batch]`."""
        del sample_weight  # Presence of the label is the only weight.
        errors = ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32"))
        super().update_state(errors, sample_weight=label_mask(y_true))


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedMedianError(MaskedMeanAbsoluteError):
    """The same of the median of a predicted distribution."""

    def __init__(self, task: Task, name: str = "mae", **kwargs):
        super().__init__(name=name, **kwargs)
        self.task = task if isinstance(task, Task) else from_config(task)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]` and logits `[batch, bins]`."""
        super().update_state(y_true, distributions.median(self.task, y_pred))

    def get_config(self):
        return {**super().get_config(), "task": vars(self.task)}


@keras.saving.register_keras_serializable("hydranet_tf")
class MaskedAccuracy(keras.metrics.Mean):
    """Share of right classes among the present labels.

    Logits `[batch, 1]` mean class 1 where positive, `[batch, classes]` the
    class of the largest.
    """

    def __init__(self, name: str = "accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds labels `[batch]` and logits."""
        del sample_weight  # Presence of the label is the only weight.
        if y_pred.shape[-1] == 1:
            predicted = ops.cast(ops.squeeze(y_pred, -1) > 0, "int32")
        else:
            predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        right = ops.equal(ops.cast(y_true, "int32"), predicted)
        super().update_state(
            ops.cast(right, "float32"), sample_weight=label_mask(y_true)
        )


def score_name(task: Task) -> str:
    """Name of a task's score in logs, for example `age_mae`."""
    return f"{task.name}_mae" if task.is_regression else f"{task.name}_accuracy"


def task_metrics(tasks: Sequence[Task]) -> dict[str, list[keras.metrics.Metric]]:
    """The score of each task, in the form that `Model.compile` takes."""
    return {task.name: [_metric(task)] for task in tasks}


def _metric(task: Task) -> keras.metrics.Metric:
    if task.is_distribution:
        return MaskedMedianError(task)
    return MaskedMeanAbsoluteError() if task.is_regression else MaskedAccuracy()
