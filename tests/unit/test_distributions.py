"""Distributions over years against values worked by hand and by SciPy."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from hydranet_tf import distributions, heads, losses
from hydranet_tf.heads import task_metrics
from hydranet_tf.metrics import MaskedMedianError
from hydranet_tf.tasks import AGE, DISTRIBUTION, MISSING, TASKS, with_head

BY_YEAR = dataclasses.replace(AGE, head=DISTRIBUTION)
# Five bins, 0 to 4.
SHORT = dataclasses.replace(BY_YEAR, high=4.0)


def quantile(probabilities, level, task=SHORT):
    found = distributions.quantile(task, np.array([probabilities], "float32"), level)
    return float(found[0])


def test_only_the_regression_gets_the_other_head():
    tasks = with_head(TASKS, DISTRIBUTION)
    assert [heads.of(task).num_logits for task in tasks] == [121, 1, 5]
    assert tasks[0].outputs == ("age", "age_low", "age_high")
    assert tasks[1:] == TASKS[1:]


@pytest.mark.parametrize(
    ("probabilities", "level", "expected"),
    [
        # All in bin 2, which holds 1.5 to 2.5.
        ([0, 0, 1, 0, 0], 0.5, 2.0),
        ([0, 0, 1, 0, 0], 0.1, 1.6),
        # A fifth in bin 1 (0.5 to 1.5); the median lies 3/8 into bin 2.
        ([0, 0.2, 0.8, 0, 0], 0.5, 1.5 + 3 / 8),
        # A gap between two halves belongs to the upper one.
        ([0.5, 0, 0, 0, 0.5], 0.25, 0.0),
        ([0.5, 0, 0, 0, 0.5], 0.75, 4.0),
        # Ends of the outer bins lie beyond the range and are not predicted.
        ([1, 0, 0, 0, 0], 0.1, 0.0),
        ([0, 0, 0, 0, 1], 0.9, 4.0),
    ],
)
def test_quantiles_by_hand(probabilities, level, expected):
    assert quantile(probabilities, level) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantiles_are_those_of_scipy(level):
    """SciPy inverts the same piecewise constant density by its own code."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        fractions = rng.dirichlet(np.full(121, 0.2))
        edges = np.arange(122) - 0.5
        expected = stats.rv_histogram((fractions, edges), density=False).ppf(level)
        found = quantile(fractions, level, BY_YEAR)
        assert found == pytest.approx(np.clip(expected, 0, 120), abs=2e-3)


def test_predictions_are_the_median_and_an_interval_of_80_percent():
    years = np.arange(121)
    logits = -0.5 * ((years - 40) / 6) ** 2
    found = distributions.predictions(BY_YEAR, logits[np.newaxis].astype("float32"))
    assert tuple(found) == BY_YEAR.outputs
    reach = 6 * stats.norm.ppf(0.9)
    assert float(found["age"][0]) == pytest.approx(40, abs=1e-3)
    assert float(found["age_low"][0]) == pytest.approx(40 - reach, abs=0.05)
    assert float(found["age_high"][0]) == pytest.approx(40 + reach, abs=0.05)


def test_targets_are_bells_that_widen_with_age():
    found = np.asarray(distributions.targets(BY_YEAR, np.array([1.0, 30.0, 80.0])))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), [1, 30, 80])
    std = 0.5 + 0.05 * 30
    ratio = found[1, 33] / found[1, 30]
    assert ratio == pytest.approx(math.exp(-0.5 * (3 / std) ** 2), rel=1e-4)
    mean = (found * np.arange(121)).sum(-1, keepdims=True)
    spread = np.sqrt((found * (np.arange(121) - mean) ** 2).sum(-1))
    np.testing.assert_allclose(spread[1:], [2.0, 4.5], rtol=0.02)


def expected_loss(label, probabilities):
    """Worked with SciPy: distance of the mean, and the divergence from the bell."""
    years = np.arange(121)
    bell = stats.norm.pdf(years, label, 0.5 + 0.05 * label)
    shape = stats.entropy(bell, probabilities)
    return abs(np.average(years, weights=probabilities) - label) + 5 * shape


def test_loss_is_the_distance_of_the_mean_and_of_the_shape():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 121)).astype("float32")
    labels = np.array([25.0, MISSING, 70.0], "float32")
    means, counts, _ = losses.task_losses([BY_YEAR], {"age": labels}, {"age": logits})
    p = np.exp(logits.astype(float))
    expected = np.mean([expected_loss(labels[row], p[row]) for row in (0, 2)])
    assert float(counts["age"]) == 2
    assert float(means["age"]) == pytest.approx(expected, rel=1e-5)


def test_no_loss_is_left_where_the_prediction_is_the_bell():
    labels = np.array([15.0, 40.0, 116.0], "float32")
    years = np.arange(121)
    std = 0.5 + 0.05 * labels[:, np.newaxis]
    logits = -0.5 * ((years - labels[:, np.newaxis]) / std) ** 2
    found = np.asarray(distributions.example_losses(BY_YEAR, labels, logits))
    # The bell of 116 is cut off at 120, which moves its mean by two years or so.
    np.testing.assert_allclose(found[:2], 0, atol=1e-3)
    bell = stats.norm.pdf(years, 116, 6.3)
    assert found[2] == pytest.approx(116 - np.average(years, weights=bell), abs=1e-3)


def test_constant_prediction_is_the_mean_of_the_bells():
    labels = np.array([20.0, 20.0, 31.0, MISSING])
    years = np.arange(121)
    bells = [stats.norm.pdf(years, y, 0.5 + 0.05 * y) for y in (20, 20, 31)]
    # Away from 0, where SciPy divides the smallest numbers by each other.
    mean = np.mean([bell / bell.sum() for bell in bells], axis=0) + 1e-200
    expected = np.mean([expected_loss(y, mean) for y in (20, 20, 31)])
    found = losses.constant_prediction_loss(BY_YEAR, labels)
    assert found == pytest.approx(expected, rel=1e-4)


def test_score_while_training_is_the_error_of_the_median():
    score = task_metrics([BY_YEAR])["age"][0]
    again = MaskedMedianError.from_config(score.get_config())
    logits = np.full((3, 121), -50.0, "float32")
    logits[[0, 1, 2], [30, 40, 50]] = 50
    for metric in (score, again):
        metric.update_state(np.array([33.0, MISSING, 51.0]), logits)
        assert float(metric.result()) == pytest.approx(2.0, abs=1e-4)


def test_a_fresh_head_predicts_the_centre_of_the_task():
    prior = np.array([distributions.prior(BY_YEAR)], "float32")
    found = distributions.predictions(BY_YEAR, prior)
    # A bell around 33 years of deviation 20, cut off at 0.
    cut = stats.truncnorm(-33.5 / 20, 87.5 / 20, 33, 20)
    assert float(found["age"][0]) == pytest.approx(cut.median(), abs=0.1)
    assert float(found["age_low"][0]) == pytest.approx(cut.ppf(0.1), abs=0.1)
