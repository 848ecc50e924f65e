"""What each kind of task puts on the backbone: layers, loss, predictions and score.

One class for each kind of head. A `Task` is data that travels with weights; `of` gives
the head that it describes. Names of layers are those of every earlier version, so that
old weights load.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from hydranet_tf import distributions, metrics
from hydranet_tf.tasks import (
    BINARY,
    CATEGORICAL,
    DISTRIBUTION,
    REGRESSION,
    VALUE,
    Task,
)

UNITS = 128


class Head(abc.ABC):
    """One task's head.

    Attributes:
        task: that it predicts.
        num_logits: how many the last layer gives.
    """

    def __init__(self, task: Task):
        self.task = task

    @property
    def layer_names(self) -> tuple[str, str]:
        """Names of the layers with weights, in order."""
        return f"{self.task.name}_hidden", f"{self.task.name}_logits"

    @property
    def num_logits(self) -> int:
        return len(self.task.classes)

    def build(self, features, dropout: float, seed: int):
        """A small fully connected network; float32 under mixed precision.

        Args:
            features: `[batch, features]` of the backbone.
            dropout: fraction of features that are dropped in training.
            seed: of the dropout.

        Returns:
            Logits, as `example_losses` takes them.
        """
        hidden, last = self.layer_names
        x = layers.Dense(UNITS, "relu", dtype="float32", name=hidden)(features)
        if dropout:
            x = layers.Dropout(dropout, seed=seed, dtype="float32")(x)
        return self.scaled(layers.Dense(self.num_logits, dtype="float32", name=last)(x))

    def scaled(self, x):
        """Brings what the last layer gives to where labels are expected."""
        return x

    @abc.abstractmethod
    def example_losses(self, labels, logits, half_widths=None):
        """Loss of each example, float32 `[batch]`, in the task's unit or in nats.

        Args:
            labels: `[batch]` in the task's unit or class indices, none missing.
            logits: float32, as `build` gives them.
            half_widths: `[batch]` of a regression's labels that are ranges, 0 where
                one is exact; None where all are.
        """

    @abc.abstractmethod
    def soft_losses(self, soft_labels, logits):
        """The same for soft labels.

        Args:
            soft_labels: probabilities `[batch, classes]`, or `[batch]` in the task's
                unit.
        """

    @abc.abstractmethod
    def predictions(self, logits) -> dict[str, Any]:
        """What the network says, float32, by the names of `task.outputs`.

        Returns:
            `[batch]` in the task's unit within its range, or probabilities
            `[batch, classes]`, in the order of `task.classes`.
        """

    @abc.abstractmethod
    def metric(self, prefix: str = "") -> keras.metrics.Metric:
        """The streaming score of its logits, named by `task.score` behind a prefix."""

    @abc.abstractmethod
    def example_scores(self, labels, logits, half_widths) -> np.ndarray:
        """What each example adds to the score, float64 `[batch]`.

        The absolute error, of a range from its nearer end; or 1.0 where the class is
        right and 0.0 where not. Arguments as in `example_losses`, as numpy has them.
        """

    def nearest_labels(self, labels, half_widths, logits):
        """Labels that metrics compare predictions with: of classes as they are."""
        return labels

    @abc.abstractmethod
    def constant_loss(self, labels: np.ndarray, half_widths: np.ndarray) -> float:
        """Mean loss of the best constant prediction.

        Args:
            labels: numpy `[n]`, n >= 1, none missing.
            half_widths: numpy `[n]`, see `example_losses`; the prediction is that
                which is best for the middles of ranges.
        """


class ValueHead(Head):
    """A regression by one value, trained by its absolute error."""

    @property
    def num_logits(self) -> int:
        return 1

    def scaled(self, x):
        """`centre + spread * x`, `[batch]`: a fresh network gives plausible values."""
        task = self.task
        x = layers.Rescaling(
            task.spread, task.centre, dtype="float32", name=f"{task.name}_scale"
        )(x)
        return layers.Reshape((), dtype="float32", name=task.name)(x)

    def value(self, logits):
        """The prediction in the task's unit, float32 `[batch]`, not yet clipped."""
        return ops.cast(logits, "float32")

    def nearest_labels(self, labels, half_widths, logits):
        """Labels whose distance from a prediction is that of it from a range.

        Args:
            labels: `[batch]`, middles of ranges where these have a width.
            half_widths: `[batch]`, 0 for an exact label.
            logits: see `example_losses`.

        Returns:
            float32 `[batch]`: the prediction where it lies in the range, else the
            nearer end; a missing label stays missing.
        """
        labels = ops.cast(labels, "float32")
        half_widths = ops.cast(half_widths, "float32")
        nearest = ops.clip(
            self.value(logits), labels - half_widths, labels + half_widths
        )
        return ops.where(metrics.label_mask(labels) > 0, nearest, labels)

    def example_losses(self, labels, logits, half_widths=None):
        """The distance from the label or the range."""
        if half_widths is not None:
            labels = self.nearest_labels(labels, half_widths, logits)
        return ops.abs(ops.cast(labels, "float32") - logits)

    def soft_losses(self, soft_labels, logits):
        """Those of the values, which are exact."""
        return self.example_losses(metrics.present_or_zero(soft_labels), logits)

    def predictions(self, logits) -> dict[str, Any]:
        """The value, within the task's range."""
        return {self.task.name: ops.clip(logits, self.task.low, self.task.high)}

    def metric(self, prefix: str = "") -> keras.metrics.Metric:
        return metrics.MaskedMeanAbsoluteError(name=f"{prefix}{self.task.score}")

    def example_scores(self, labels, logits, half_widths) -> np.ndarray:
        nearest = self.nearest_labels(labels, half_widths, logits)
        return np.abs(np.asarray(nearest - self.value(logits), np.float64))

    def constant_loss(self, labels: np.ndarray, half_widths: np.ndarray) -> float:
        """Mean distance from the median."""
        distances = np.maximum(np.abs(labels - np.median(labels)) - half_widths, 0)
        # 0 where every range holds the same value.
        return float(np.mean(distances)) or 1.0


class DistributionHead(ValueHead):
    """A regression by a probability for each whole unit, see `distributions`."""

    @property
    def num_logits(self) -> int:
        return len(distributions.prior(self.task))

    def scaled(self, x):
        """Logits around a wide bell at the task's centre, `[batch, bins]`."""
        prior = distributions.prior(self.task)
        return layers.Rescaling(1.0, prior, dtype="float32", name=self.task.name)(x)

    def value(self, logits):
        """The median."""
        return distributions.median(self.task, logits)

    def example_losses(self, labels, logits, half_widths=None):
        """See `distributions.example_losses`."""
        return distributions.example_losses(self.task, labels, logits, half_widths)

    def predictions(self, logits) -> dict[str, Any]:
        """The median and the ends of an interval."""
        return distributions.predictions(self.task, logits)

    def metric(self, prefix: str = "") -> keras.metrics.Metric:
        return metrics.MaskedMedianError(self.task, name=f"{prefix}{self.task.score}")

    def constant_loss(self, labels: np.ndarray, half_widths: np.ndarray) -> float:
        """That of the mean of all bells."""
        return distributions.constant_loss(self.task, labels, half_widths)


class CategoricalHead(Head):
    """A choice out of several classes, trained by cross-entropy."""

    def class_logits(self, logits):
        """One for each class, `[batch, classes]`."""
        return logits

    def example_losses(self, labels, logits, half_widths=None):
        """The cross-entropy."""
        return ops.sparse_categorical_crossentropy(
            ops.cast(labels, "int32"), self.class_logits(logits), from_logits=True
        )

    def soft_losses(self, soft_labels, logits):
        """KL(soft labels || prediction): the cross-entropy where a label is sure.

        Not the cross-entropy of all, which a right network could not bring to 0:
        learned weights take what is left of a loss for its noise.
        """
        logs = ops.log_softmax(self.class_logits(logits))
        return distributions.divergences(soft_labels, logs)

    def predictions(self, logits) -> dict[str, Any]:
        """Probabilities."""
        return {self.task.name: ops.softmax(self.class_logits(logits))}

    def metric(self, prefix: str = "") -> keras.metrics.Metric:
        return metrics.MaskedAccuracy(name=f"{prefix}{self.task.score}")

    def example_scores(self, labels, logits, half_widths) -> np.ndarray:
        return (self.likeliest(np.asarray(logits)) == labels).astype(np.float64)

    def likeliest(self, logits: np.ndarray) -> np.ndarray:
        """The class of the largest logit, int `[batch]`."""
        return logits.argmax(axis=1)

    def constant_loss(self, labels: np.ndarray, half_widths: np.ndarray) -> float:
        """The entropy of the classes' frequencies, in nats."""
        fraction = np.bincount(labels.astype(int)) / labels.size
        fraction = fraction[fraction > 0]
        return float(-np.sum(fraction * np.log(fraction)))


class BinaryHead(CategoricalHead):
    """A choice out of two classes by one logit, that of the second."""

    @property
    def num_logits(self) -> int:
        return 1

    def class_logits(self, logits):
        """The logit of the first class is 0."""
        return ops.concatenate([ops.zeros_like(logits), logits], -1)

    def example_losses(self, labels, logits, half_widths=None):
        """The binary cross-entropy."""
        target = ops.cast(labels, "float32")
        logit = ops.squeeze(logits, axis=-1)
        return ops.binary_crossentropy(target, logit, from_logits=True)

    def likeliest(self, logits: np.ndarray) -> np.ndarray:
        return (logits[:, 0] > 0).astype(int)


_HEADS: dict[tuple[str, str], type[Head]] = {
    (REGRESSION, VALUE): ValueHead,
    (REGRESSION, DISTRIBUTION): DistributionHead,
    (BINARY, VALUE): BinaryHead,
    (CATEGORICAL, VALUE): CategoricalHead,
}


def of(task: Task) -> Head:
    """The head that a task describes."""
    # `head` is of regressions alone, whatever it says of others.
    head = task.head if task.kind == REGRESSION else VALUE
    return _HEADS[task.kind, head](task)


def task_metrics(tasks: Sequence[Task]) -> dict[str, list[keras.metrics.Metric]]:
    """The score of each task, in the form that `Model.compile` takes."""
    # Keras puts the output's name before a metric's, but not where there is one alone.
    prefix = f"{tasks[0].name}_" if len(tasks) == 1 else ""
    return {task.name: [of(task).metric(prefix)] for task in tasks}
