"""Losses and learned weights against values worked by hand."""

import math

import keras
import numpy as np
import pytest

from hydranet_tf import losses
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS

LABELS = {
    "age": np.array([20.0, 50.0, MISSING], "float32"),
    "gender": np.array([0, MISSING, 1], "int32"),
    "race": np.array([MISSING, 2, 4], "int32"),
}
LOGITS = {
    "age": np.array([23.0, 49.0, 1e30], "float32"),
    "gender": np.array([[0.0], [99.0], [2.0]], "float32"),
    "race": np.array([[1e9, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], "float32"),
}


def task_losses(labels=LABELS, logits=LOGITS):
    return tuple(
        {name: float(value) for name, value in found.items()}
        for found in losses.task_losses(TASKS, labels, logits)
    )


def test_values_by_hand():
    means, counts, emphasis = task_losses()
    assert means["age"] == pytest.approx((3 + 1) / 2)
    # -log sigmoid(0 towards male) and -log sigmoid(2).
    gender = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert means["gender"] == pytest.approx(gender, rel=1e-5)
    race = (math.log(5) + math.log(4 + math.e) - 1) / 2
    assert means["race"] == pytest.approx(race, rel=1e-5)
    assert counts == {"age": 2, "gender": 2, "race": 2}
    assert emphasis == {"age": 1, "gender": 1, "race": 1}


def test_missing_rows_change_nothing():
    rows = {"age": [0, 1], "gender": [0, 2], "race": [1, 2]}
    for task in TASKS:
        kept = rows[task.name]
        alone, *_ = losses.task_losses(
            [task],
            {task.name: LABELS[task.name][kept]},
            {task.name: LOGITS[task.name][kept]},
        )
        assert float(alone[task.name]) == task_losses()[0][task.name]


def test_batch_without_any_label_of_a_task():
    labels = {**LABELS, "race": np.full(3, MISSING, "int32")}
    means, counts, emphasis = task_losses(labels)
    assert means["race"] == counts["race"] == emphasis["race"] == 0
    weights = learned()
    total = joined(weights, list(means.values()), list(emphasis.values()))
    s = np.asarray(weights.log_variances())
    expected = math.exp(-s[0]) * means["age"] + s[0]
    expected += math.exp(-s[1]) * means["gender"] + s[1] / 2
    assert float(total) == pytest.approx(expected, rel=1e-5)


CONSTANT = (12.0, math.log(2), 1.4)


def learned(constant=CONSTANT, rate=10.0):
    return losses.UncertaintyWeights([t.kind for t in TASKS], constant, rate)


def joined(weights, values, emphasis=(1, 1, 1)):
    return weights(np.array(values, "float32"), np.array(emphasis, "float32"))


def test_start_is_the_minimum_for_the_constant_prediction():
    constant = (12.0, 0.69, 1.4)
    s = np.asarray(learned(constant).log_variances(), float)

    def term(value, loss, factor):
        return math.exp(-value) * loss + factor * value

    for value, loss, factor in zip(s, constant, (1, 0.5, 0.5), strict=True):
        here = term(value, loss, factor)
        assert here < term(value + 0.01, loss, factor)
        assert here < term(value - 0.01, loss, factor)


def test_learned_weights_settle_at_the_likelihoods_scale():
    """With losses held still, exp(-s) tends to 1/L and to 1/(2 L)."""
    import tensorflow as tf

    weights = learned()
    optimizer = keras.optimizers.Adam(3e-3)
    for _ in range(300):
        with tf.GradientTape() as tape:
            total = joined(weights, [5.0, 0.2, 0.5])
        gradients = tape.gradient(total, weights.trainable_weights)
        optimizer.apply(gradients, weights.trainable_weights)
    np.testing.assert_allclose(
        weights.task_weights(), [1 / 5, 1 / 0.4, 1 / 1.0], rtol=0.02
    )


def test_adam_moves_log_variances_at_their_own_rate():
    import tensorflow as tf

    for rate in (1.0, 10.0):
        weights = learned(rate=rate)
        before = np.asarray(weights.log_variances())
        optimizer = keras.optimizers.Adam(1e-3)
        with tf.GradientTape() as tape:
            total = joined(weights, [1.0, 0.1, 0.1])
        gradients = tape.gradient(total, weights.trainable_weights)
        optimizer.apply(gradients, weights.trainable_weights)
        moved = before - np.asarray(weights.log_variances())
        np.testing.assert_allclose(moved, rate * 1e-3, rtol=1e-2)


def test_log_variances_stay_within_their_bound():
    weights = learned()
    constraint = weights.offsets.constraint
    weights.offsets.assign(constraint(np.array([-99.0, 99.0, 0.0], "float32")))
    s = np.asarray(weights.log_variances())
    np.testing.assert_allclose(s, [-7, 7, math.log(1.4 / 0.5)], rtol=1e-5)


def test_log_variances_are_float32_under_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        weights = learned()
        assert weights.offsets.dtype == "float32"
        assert (
            keras.backend.standardize_dtype(joined(weights, [1e6, 1.0, 1.0]).dtype)
            == "float32"
        )
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def test_fixed_weights_are_a_plain_sum():
    total = joined(losses.FixedWeights([0.1, 1, 2]), [5.0, 0.2, 0.5])
    assert float(total) == pytest.approx(0.5 + 0.2 + 1.0)


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        (AGE, np.array([10.0, 20.0, 60.0, MISSING]), (10 + 0 + 40) / 3),
        (GENDER, np.array([0, 1, 1, 1, MISSING]),
         -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))),
        (RACE, np.array([0, 1, 2, 3, 4]), math.log(5)),
        (RACE, np.array([2, 2, 2]), 1.0),
        (AGE, np.array([MISSING, MISSING]), 1.0),
        (AGE, np.array([10.0, np.nan, 20.0, MISSING]), 5.0),
    ],
)  # fmt: skip
def test_constant_prediction_loss(task, labels, expected):
    assert losses.constant_prediction_loss(task, labels) == pytest.approx(expected)


def test_sample_weights_by_hand():
    """The mean is a weighted one; the mean weight scales loss and log-variance."""
    weights = {"age": np.array([3.0, 1.0, 9.0], "float32")}
    found = losses.task_losses(TASKS, LABELS, LOGITS, sample_weights=weights)
    means, sums, emphasis = ({k: float(v) for k, v in part.items()} for part in found)
    assert means["age"] == pytest.approx((3 * 3 + 1 * 1) / 4)
    assert (sums["age"], emphasis["age"]) == (4, 2)
    assert means["gender"] == task_losses()[0]["gender"] and emphasis["gender"] == 1
    layer = learned()
    s = np.asarray(layer.log_variances())
    one = [means["age"], 0, 0]
    expected = 2 * (math.exp(-s[0]) * means["age"] + s[0])
    assert float(joined(layer, one, (2, 0, 0))) == pytest.approx(expected, rel=1e-5)
    fixed = losses.FixedWeights([0.5, 1, 1])
    assert float(joined(fixed, one, (2, 0, 0))) == pytest.approx(means["age"])


def test_class_weights_by_hand():
    by_class = {"race": {"asian": 3.0, "others": 0.5}}
    found = losses.task_losses(TASKS, LABELS, LOGITS, class_weights=by_class)
    means, sums, emphasis = ({k: float(v) for k, v in part.items()} for part in found)
    # The second face is asian, the third others.
    asian, others = math.log(5), math.log(4 + math.e) - 1
    assert means["race"] == pytest.approx((3 * asian + 0.5 * others) / 3.5, rel=1e-5)
    assert (sums["race"], emphasis["race"]) == (3.5, 1.75)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"age": {"young": 2.0}}, "got age: young"),
        ({"race": {"martian": 2.0}}, "got race: martian"),
        ({"race": {"asian": -1.0}}, "numbers from 0"),
        ({"race": {"asian": math.nan}}, "numbers from 0"),
    ],
)
def test_class_weights_of_nothing_are_refused(given, hint):
    with pytest.raises(ValueError, match=hint):
        losses.checked_class_weights(TASKS, given)


def test_learned_weights_without_labels_start_at_what_tasks_expect():
    found = losses.learned_weights(TASKS)
    # Of a normal distribution the mean distance from the middle is 0.8 of the std.
    np.testing.assert_allclose(
        found.constant_losses,
        [20 * math.sqrt(2 / math.pi), math.log(2), math.log(5)],
        rtol=0.03,
    )
    labels = {
        "age": np.array([10.0, 20.0, 60.0]),
        "gender": np.array([0, 1, 1, 1]),
        "race": np.array([0, 1]),
    }
    found = losses.learned_weights(TASKS, labels, rate=3.0)
    expected = [losses.constant_prediction_loss(t, labels[t.name]) for t in TASKS]
    assert list(found.constant_losses) == expected and found.rate == 3.0
