"""Losses over the labels that are there, and the weights that join them.

One value a task: mean absolute error (years; with the shape of a distribution, where
the head gives one), binary cross-entropy or cross-entropy, each a mean over the
examples that carry the label. Then
`UncertaintyWeights` or `FixedWeights` makes one number of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from hydranet_tf import augmentation, heads, replicas
from hydranet_tf.metrics import label_mask, present_or_zero
from hydranet_tf.tasks import MISSING, REGRESSION, Task

# exp(-s) stays between 1/1100 and 1100: a loss that a network drives to zero
# (a handful of faces learned by heart) cannot blow its weight up without end.
LOG_VARIANCE_BOUND = 7.0


def completed_labels(tasks: Sequence[Task], labels: Mapping) -> dict:
    """Labels of every task, `MISSING` for tasks that the dict does not have.

    Args:
        tasks: what is asked.
        labels: by task name, `[batch]` or `[batch, 1]`; soft labels by
            `task.soft_name`, half the widths of ranges by `task.half_width_name`.

    Returns:
        The same, each label `[batch]`.

    Raises:
        ValueError: if it is not a dict, has a key that no task has, has no label at
            all, or has labels of another shape.
    """
    names = [task.name for task in tasks]
    expected = f"a dict of labels by task name ({', '.join(names)})"
    if not isinstance(labels, Mapping):
        raise ValueError(f"expected {expected}; got {type(labels).__name__}")
    beside = {name for task in tasks for name in (task.soft_name, task.half_width_name)}
    unknown = sorted({*labels} - {*names} - beside)
    if unknown:
        raise ValueError(f"expected {expected}; got {', '.join(unknown)}, too")
    found = dict(labels)
    for name in names:
        if name in labels:
            found[name] = _one_each(name, labels[name], "labels")
    if not any(name in found for name in names):
        raise ValueError(f"expected {expected}; it has none of them")
    first = next(found[name] for name in names if name in found)
    for task in tasks:
        if task.name not in found:
            found[task.name] = ops.full(
                ops.shape(first), MISSING, dtype=task.label_dtype
            )
    return found


def weights_by_task(tasks: Sequence[Task], sample_weight) -> dict | None:
    """Sample weights by task name; None where there are none.

    Args:
        tasks: what is asked.
        sample_weight: None, `[batch]` or `[batch, 1]` for all tasks, or a dict of
            them by task name; a task that it does not name has weights of 1.

    Raises:
        ValueError: on something else.
    """
    if sample_weight is None:
        return None
    names = [task.name for task in tasks]
    if not isinstance(sample_weight, Mapping):
        if isinstance(sample_weight, list | tuple):
            raise ValueError(
                "expected one array of sample weights, or a dict of them by task name "
                f"({', '.join(names)}); got a {type(sample_weight).__name__}"
            )
        sample_weight = dict.fromkeys(names, sample_weight)
    unknown = sorted({*sample_weight} - {*names} - {t.soft_name for t in tasks})
    if unknown:
        raise ValueError(
            f"expected sample weights of {', '.join(names)}; got {', '.join(unknown)}"
        )
    return {
        name: _one_each(name, ops.cast(weights, "float32"), "sample weights")
        for name, weights in sample_weight.items()
        if name in names
    }


def checked_class_weights(
    tasks: Sequence[Task], class_weights: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Class weights as plain dicts.

    Raises:
        ValueError: on a task or class that is not there, or a weight below 0.
    """
    classes = {task.name: task.classes for task in tasks if task.classes}
    for name, weights in class_weights.items():
        wrong = [c for c in weights if c not in classes.get(name, ())]
        if name not in classes or wrong:
            known = "; ".join(f"{n}: {', '.join(c)}" for n, c in classes.items())
            raise ValueError(
                f"class_weights: expected tasks and classes out of {known}; got "
                f"{name}: {', '.join(map(str, wrong or weights))}"
            )
        if not all(0 <= weight < math.inf for weight in weights.values()):
            raise ValueError(
                f"class_weights: expected numbers from 0; {name} has {dict(weights)}"
            )
    return {
        name: {class_: float(weight) for class_, weight in weights.items()}
        for name, weights in class_weights.items()
    }


def _one_each(name: str, values, what: str):
    """`[batch]` of `[batch]` or `[batch, 1]`; broadcasting would mix the rows."""
    values = ops.convert_to_tensor(values)
    shape = values.shape
    if len(shape) == 2 and shape[1] == 1:
        return ops.squeeze(values, -1)
    if len(shape) != 1:
        raise ValueError(
            f"expected {what} of {name} of the shape [batch]; got {list(shape)}"
        )
    return values


def example_losses(task: Task, labels, logits, soft_labels=None, half_widths=None):
    """Loss of each example of one task; meaningless where the label misses.

    Args:
        task: decides the kind of loss, see `heads`.
        labels: `[batch]`, years or class indices.
        logits: `[batch]` years; `[batch, bins]` of a distribution over
            years; `[batch, 1]` logit of class 1; or `[batch, classes]`.
        soft_labels: stand for the labels: probabilities `[batch, classes]` of a
            task with classes, `[batch]` years.
        half_widths: `[batch]` of a regression's labels that are ranges, 0 where one
            is exact. A value loses its distance from the range, a distribution what
            `distributions.example_losses` says. Soft labels are exact.

    Returns:
        float32 `[batch]`: the task's unit (years), or nats.
    """
    head, logits = heads.of(task), ops.cast(logits, "float32")
    if soft_labels is not None:
        return head.soft_losses(soft_labels, logits)
    # MISSING is not a class index: without this, a gather would be asked for entry -1
    # and the masked row could hold anything.
    return head.example_losses(present_or_zero(labels), logits, half_widths)


def task_losses(
    tasks: Sequence[Task],
    labels: Mapping,
    logits: Mapping,
    largest_fraction: float = 0.0,
    sample_weights: Mapping | None = None,
    class_weights: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[dict, dict, dict]:
    """Weighted mean loss of each task over its present labels.

    Under several replicas these are the labels of all of them: a mean of the
    replicas' own means would weigh a label by how few its replica has.

    Args:
        tasks: what is asked.
        labels: `[batch]` by task name; soft labels by `task.soft_name`, see
            `example_losses`, where there are some.
        logits: by task name, see `example_losses`.
        largest_fraction: of another face in an image, see `Mixup`. Both faces' labels
            count, by their shares.
        sample_weights: `[batch]` by task name; 1 where there are none.
        class_weights: by task and class name, what a label of the class counts.

    Returns:
        Three dicts by task name, float32 scalars: the weighted mean loss, 0 where no
        example of the batch has the label; the sum of the weights of the present
        labels, without any weights their number; and their mean weight, without any
        weights 1, and 0 where no label is present.
    """
    sums, weights, counts = [], [], []
    for task in tasks:
        own, soft = labels[task.name], labels.get(task.soft_name)
        own_weights = _label_weights(task, own, sample_weights, class_weights)
        widths = labels.get(task.half_width_name)
        faces = [(own, soft, widths, own_weights, 1.0)]
        if largest_fraction:
            fraction = augmentation.fractions(ops.shape(own)[0], largest_fraction)
            other = [
                None if values is None else augmentation.partners(values)
                for values in (own, soft, widths, own_weights)
            ]
            faces = [
                (own, soft, widths, own_weights, 1.0 - fraction),
                (*other, fraction),
            ]
        total = weight = count = 0.0
        for hard, soft, widths, of_label, fraction in faces:
            mask = label_mask(hard)
            counted = fraction * mask
            weighted = counted if of_label is None else counted * of_label
            count += ops.sum(counted)
            weight += ops.sum(weighted)
            found = example_losses(task, hard, logits[task.name], soft, widths)
            # `where` and not a product: a masked row's loss may be infinite.
            total += ops.sum(weighted * ops.where(mask > 0, found, 0.0))
        sums.append(total)
        weights.append(weight)
        counts.append(count)
    # Together, because each sum over replicas is a message of its own.
    together = ops.stack([ops.stack(sums), ops.stack(weights), ops.stack(counts)])
    sums, weights, counts = ops.unstack(replicas.total(together))
    means = ops.divide_no_nan(sums, weights)
    emphasis = ops.divide_no_nan(weights, counts)

    def by_name(values) -> dict:
        return dict(
            zip([task.name for task in tasks], ops.unstack(values), strict=True)
        )

    return by_name(means), by_name(weights), by_name(emphasis)


def _label_weights(task: Task, labels, sample_weights, class_weights):
    """What each label counts, `[batch]`; None where all count the same."""
    weights = (sample_weights or {}).get(task.name)
    by_class = (class_weights or {}).get(task.name)
    if by_class:
        of_classes = ops.convert_to_tensor(
            [by_class.get(name, 1.0) for name in task.classes], "float32"
        )
        classes = ops.take(of_classes, ops.cast(present_or_zero(labels), "int32"))
        weights = classes if weights is None else weights * classes
    return weights


def any_present(labels) -> bool:
    """Whether one of the labels, numpy `[n]`, is there."""
    return bool(((labels != MISSING) & (labels == labels)).any())


def constant_prediction_loss(task: Task, labels, half_widths=None) -> float:
    """What the best constant prediction would lose on these labels.

    Args:
        labels: numpy `[n]`; `MISSING` and NaN are left out.
        half_widths: numpy `[n]`, see `example_losses`; the prediction is that which is
            best for the middles of ranges.

    Returns:
        Mean distance from the median (years), for a distribution that of the
        mean and its shape, see `distributions.constant_loss`; or the entropy of
        the class frequencies (nats). 1.0 where there is no label or only one
        value.
    """
    labels = np.asarray(labels)
    kept = (labels != MISSING) & ~np.isnan(labels)
    labels = labels[kept]
    if len(np.unique(labels)) < 2:
        return 1.0
    widths = np.zeros(len(labels)) if half_widths is None else half_widths[kept]
    return heads.of(task).constant_loss(labels, widths)


def learned_weights(
    tasks: Sequence[Task], labels: Mapping | None = None, rate: float = 10.0
) -> UncertaintyWeights:
    """Loss weights that are learned, started where labels say.

    Args:
        tasks: what is asked, in order.
        labels: numpy `[n]` by task name. None stands for labels as tasks expect
            them: of a regression spread normally around its centre, of classes as
            many of each.
        rate: see `UncertaintyWeights`.
    """
    if labels is None:
        labels = {task.name: _expected_labels(task) for task in tasks}
    constant = [
        constant_prediction_loss(
            task, labels[task.name], labels.get(task.half_width_name)
        )
        for task in tasks
    ]
    return UncertaintyWeights([task.kind for task in tasks], constant, rate)


def _expected_labels(task: Task):
    if task.classes:
        return np.arange(len(task.classes))
    normal = statistics.NormalDist(task.centre, task.spread)
    levels = (np.arange(200) + 0.5) / 200
    return np.clip([normal.inv_cdf(p) for p in levels], task.low, task.high)


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
    best constant prediction, so that no task rules the first epochs because of
    its unit. A task without a label in the batch adds nothing.

    Args:
        kinds: kind of each task, in order.
        constant_losses: what a constant prediction loses at each task, see
            `constant_prediction_loss`.
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

    def call(self, losses, emphasis):
        """Joins the tasks' losses.

        Args:
            losses: `[tasks]`, the weighted mean loss of each.
            emphasis: `[tasks]`, the mean weight of the labels that each mean stands
                on; 0 without any.

        Returns:
            The total, a scalar. Weights count for the whole likelihood of a label,
            so that twice as large ones double the total and leave the learned
            weights as they are.
        """
        s = self.log_variances()
        terms = ops.exp(-s) * losses
        terms = terms + ops.convert_to_tensor(self._factors) * s
        return ops.sum(emphasis * terms)

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

    def call(self, losses, emphasis):
        """Joins the losses; see `UncertaintyWeights.call`."""
        return ops.sum(self.task_weights() * emphasis * losses)

    def get_config(self):
        return {**super().get_config(), "weights": self.weights_given}
