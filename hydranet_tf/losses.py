"""Losses over the labels that are there, and the weights that join them.

One value a task: mean absolute error (years; with the shape of a distribution, where
the head gives one), binary cross-entropy or cross-entropy, each a mean over the
examples that carry the label. Then
`UncertaintyWeights` or `FixedWeights` makes one number of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from hydranet_tf import distributions, mixup, replicas
from hydranet_tf.tasks import BINARY, MISSING, REGRESSION, Task

# exp(-s) stays between 1/1100 and 1100: a loss that a network drives to zero
# (a handful of faces learned by heart) cannot blow its weight up without end.
LOG_VARIANCE_BOUND = 7.0


def label_mask(labels):
    """1.0 where a label is present, 0.0 where it is `MISSING`, float32."""
    return ops.cast(ops.not_equal(labels, MISSING), "float32")


def example_losses(task: Task, labels, logits, soft_labels=None):
    """Loss of each example of one task; meaningless where the label misses.

    Args:
        task: decides the kind of loss.
        labels: `[batch]`, years or class indices.
        logits: `[batch]` years; `[batch, bins]` of a distribution over
            years; `[batch, 1]` logit of class 1; or `[batch, classes]`.
        soft_labels: stand for the labels: probabilities `[batch, classes]` of a
            task with classes, `[batch]` years.

    Returns:
        float32 `[batch]`: the task's unit (years), or nats.
    """
    logits = ops.cast(logits, "float32")
    if soft_labels is not None:
        if task.classes:
            return _divergences(task, soft_labels, logits)
        labels = soft_labels
    # MISSING is no class index: without this, the gather below would be asked
    # for entry -1 and the masked row could hold anything.
    present = ops.maximum(labels, 0)
    if task.is_distribution:
        return distributions.example_losses(task, present, logits)
    if task.kind == REGRESSION:
        return ops.abs(ops.cast(present, "float32") - logits)
    if task.kind == BINARY:
        target = ops.cast(present, "float32")
        logit = ops.squeeze(logits, axis=-1)
        return keras.ops.binary_crossentropy(target, logit, from_logits=True)
    return ops.sparse_categorical_crossentropy(
        ops.cast(present, "int32"), logits, from_logits=True
    )


def _divergences(task: Task, soft_labels, logits):
    """KL(soft labels || answer): the cross-entropy where a label is sure.

    Not the cross-entropy of all, which a right network could not bring to 0: learned
    weights take what is left of a loss for its noise.
    """
    if task.kind == BINARY:
        logits = ops.concatenate([ops.zeros_like(logits), logits], -1)
    return distributions.divergences(soft_labels, ops.log_softmax(logits))


def task_losses(
    tasks: Sequence[Task], labels: Mapping, logits: Mapping, largest_share: float = 0.0
) -> tuple[dict, dict]:
    """Mean loss of each task over its present labels.

    Under several replicas these are the labels of all of them: a mean of the
    replicas' own means would weigh a label by how few its replica has.

    Args:
        tasks: what is asked.
        labels: `[batch]` by task name; soft labels by `task.soft_name`, see
            `example_losses`, where there are some.
        logits: by task name, see `example_losses`.
        largest_share: of another face in an image, see `mixup`. Both faces' labels
            count, by their shares.

    Returns:
        Two dicts by task name: float32 scalars, 0 where no example of the
        batch has the label; and the number of present labels, float32.
    """
    sums, counts = [], []
    for task in tasks:
        own, soft = labels[task.name], labels.get(task.soft_name)
        faces = [(own, soft, 1.0)]
        if largest_share:
            share = mixup.shares(ops.shape(own)[0], largest_share)
            other = None if soft is None else mixup.partners(soft)
            faces = [(own, soft, 1.0 - share), (mixup.partners(own), other, share)]
        total = count = 0.0
        for hard, soft, weight in faces:
            mask = label_mask(hard)
            count += ops.sum(weight * mask)
            found = example_losses(task, hard, logits[task.name], soft)
            # `where` and not a product: a masked row's loss may be infinite.
            total += ops.sum(weight * ops.where(mask > 0, found, 0.0))
        sums.append(total)
        counts.append(count)
    # Together, because each sum over replicas is a message of its own.
    both = replicas.total(ops.stack([ops.stack(sums), ops.stack(counts)]))
    sums, counts = ops.unstack(both)
    names = [task.name for task in tasks]
    means = ops.unstack(sums / ops.where(counts > 0, counts, 1.0))
    counts = ops.unstack(counts)
    return dict(zip(names, means, strict=True)), dict(zip(names, counts, strict=True))


def constant_answer_loss(task: Task, labels) -> float:
    """What the best constant answer would lose on these labels.

    Args:
        labels: numpy `[n]`; `MISSING` is left out.

    Returns:
        Mean distance from the median (years), for a distribution that of the
        mean and its shape, see `distributions.constant_loss`; or the entropy of
        the class frequencies (nats). 1.0 where there is no label or only one
        value.
    """
    import numpy as np

    labels = np.asarray(labels)
    labels = labels[labels != MISSING]
    if len(np.unique(labels)) < 2:
        return 1.0
    if task.is_distribution:
        return distributions.constant_loss(task, labels)
    if task.is_regression:
        return float(np.mean(np.abs(labels - np.median(labels))))
    share = np.bincount(labels.astype(int)) / labels.size
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)))


@keras.saving.register_keras_serializable("hydranet_tf")
class UncertaintyWeights(keras.layers.Layer):
    """Learns how much each task's loss counts.

    After Kendall, Gal and Cipolla 2018 (arXiv:1705.07115, eq. 7 to 10). With
    a Laplace likelihood of scale b for a regression, s = log b gives
    `exp(-s) * MAE + s`; for a classification with s = log sigma^2 it is
    `exp(-s) * CE + s / 2`. The weights (alpha, beta, gamma) are `exp(-s)`.
    The total may be negative; only the scores of the tasks say how good a
    network is.

    Each s starts where it would settle for a network that always gives the
    best constant answer, so that no task rules the first epochs because of
    its unit. A task without a label in the batch adds nothing.

    Args:
        kinds: kind of each task, in order.
        constant_losses: what a constant answer loses at each task, see
            `constant_answer_loss`.
        rate: learning rate of the s relative to the network's, exact for
            optimisers of the Adam family, whose steps do not depend on the
            gradient's scale. (The trained variable is s / rate.)
    """

    def __init__(
        self,
        kinds: Sequence[str],
        constant_losses: Sequence[float],
        rate: float = 10.0,
        name: str = "uncertainty_weights",
        **kwargs,
    ):
        # float32 whatever the precision of the network: s moves by steps that
        # 16 bits would round away.
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.kinds = tuple(kinds)
        self.constant_losses = tuple(constant_losses)
        self.rate = rate
        # Factor of s in its task's term.
        self._factors = [1.0 if k == REGRESSION else 0.5 for k in self.kinds]
        # The minimum of exp(-s) * L + f * s over s is at s = log(L / f).
        self._start = [
            math.log(loss / factor)
            for loss, factor in zip(constant_losses, self._factors, strict=True)
        ]
        self.offsets = self.add_weight(
            shape=(len(self.kinds),),
            initializer="zeros",
            constraint=_Within(self._start, rate, LOG_VARIANCE_BOUND),
            name="log_variance_offsets",
        )
        self.built = True

    def log_variances(self):
        """s of each task, float32 `[tasks]`."""
        return ops.convert_to_tensor(self._start) + self.rate * self.offsets

    def assign_log_variances(self, values) -> None:
        """Goes on from other values of s, `[tasks]`: those of an earlier run."""
        self.offsets.assign(
            (ops.convert_to_tensor(values) - ops.convert_to_tensor(self._start))
            / self.rate
        )

    def task_weights(self):
        """exp(-s) of each task (alpha, beta, gamma), float32 `[tasks]`."""
        return ops.exp(-self.log_variances())

    def call(self, losses, counts):
        """Joins the tasks' losses.

        Args:
            losses: `[tasks]`, the mean loss of each.
            counts: `[tasks]`, how many labels each mean stands on.

        Returns:
            The total, a scalar.
        """
        present = ops.cast(counts > 0, "float32")
        s = self.log_variances()
        terms = ops.exp(-s) * losses
        terms = terms + ops.convert_to_tensor(self._factors) * s
        return ops.sum(present * terms)

    def get_config(self):
        return {
            **super().get_config(),
            "kinds": self.kinds,
            "constant_losses": self.constant_losses,
            "rate": self.rate,
        }


class _Within(keras.constraints.Constraint):
    """Holds start + rate * value to [-bound, bound]."""

    def __init__(self, start, rate, bound):
        self.low = [(-bound - s) / rate for s in start]
        self.high = [(bound - s) / rate for s in start]

    def __call__(self, value):
        return ops.clip(
            value,
            ops.convert_to_tensor(self.low),
            ops.convert_to_tensor(self.high),
        )


@keras.saving.register_keras_serializable("hydranet_tf")
class FixedWeights(keras.layers.Layer):
    """Joins the tasks' losses with weights chosen beforehand.

    Args:
        weights: one factor a task, in order.
    """

    def __init__(self, weights: Sequence[float], name: str = "fixed_weights", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.weights_given = tuple(float(weight) for weight in weights)
        self.built = True

    def task_weights(self):
        """The weights as given, float32 `[tasks]`."""
        return ops.convert_to_tensor(self.weights_given, dtype="float32")

    def call(self, losses, counts):
        """Joins the losses; see `UncertaintyWeights.call`."""
        del counts  # A task without labels has loss 0 and adds nothing.
        return ops.sum(self.task_weights() * losses)

    def get_config(self):
        return {**super().get_config(), "weights": self.weights_given}
