"""Temperatures of heads, against known ones and scikit-learn."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hydranet_tf import heads
from hydranet_tf.evaluation import scores
from hydranet_tf.tasks import AGE, DISTRIBUTION, GENDER, MISSING, RACE

BY_YEAR = dataclasses.replace(AGE, head=DISTRIBUTION)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(probabilities, rng):
    return np.array([rng.choice(len(p), p=p) for p in probabilities])


@pytest.mark.parametrize("task", [RACE, BY_YEAR])
@pytest.mark.parametrize("true", [0.5, 2.5])
def test_the_temperature_that_made_the_labels_is_found(task, true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4000, heads.of(task).num_logits))
    labels = drawn(softmax(logits / true), rng)
    found = scores.fit_temperatures([task], {task.name: logits}, {task.name: labels})
    assert found[task.name] == pytest.approx(true, rel=0.08)


def test_a_yes_no_question_is_logistic_regression_without_an_intercept():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (3000, 1))
    labels = (rng.random(3000) < 1 / (1 + np.exp(-logits[:, 0] / 1.7))).astype(int)
    slope = LogisticRegression(C=np.inf, fit_intercept=False).fit(logits, labels).coef_
    found = scores.fit_temperatures([GENDER], {"gender": logits}, {"gender": labels})
    assert found["gender"] == pytest.approx(1 / slope[0, 0], rel=0.01)


def test_missing_labels_take_no_part():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (500, 5))
    labels = drawn(softmax(logits / 2), rng)
    alone = scores.fit_temperatures([RACE], {"race": logits}, {"race": labels})
    more = np.concatenate([logits, 100 * logits])
    missing = np.concatenate([labels, np.full(500, MISSING)])
    assert scores.fit_temperatures([RACE], {"race": more}, {"race": missing}) == alone
    none = np.full(500, MISSING)
    assert scores.fit_temperatures([RACE], {"race": logits}, {"race": none}) == {
        "race": 1.0
    }


def test_a_value_has_no_temperature():
    assert (
        scores.fit_temperatures([AGE], {"age": np.zeros(3)}, {"age": np.ones(3)}) == {}
    )
