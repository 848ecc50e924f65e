"""Which predictions count as the worst, worked by hand."""

import numpy as np
import pytest

from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE
from hydranet_tf.worst_predictions import format_prediction, worst


def test_ages_by_their_distance():
    labels = np.array([10.0, 20.0, MISSING, 40.0, 50.0, 60.0])
    predictions = np.array([13.0, 12.0, 90.0, 40.0, 58.0, 59.0])
    # Off by 3, 8, unknown, 0, 8, 1: the earlier of two equals first.
    assert worst(AGE, labels, predictions, 10).tolist() == [1, 4, 0, 5]
    assert worst(AGE, labels, predictions, 2).tolist() == [1, 4]


def test_classes_by_what_the_label_got():
    labels = np.array([0, 1, 2, MISSING, 0, 3])
    predictions = np.array(
        [
            [0.1, 0.5, 0.4, 0, 0],
            [0.6, 0.3, 0.1, 0, 0],
            [0.3, 0.3, 0.4, 0, 0],
            [1, 0, 0, 0, 0],
            [0.05, 0, 0, 0, 0.95],
            # The label got little and still the most: a right prediction.
            [0.19, 0.2, 0.2, 0.21, 0.2],
        ]
    )
    assert worst(RACE, labels, predictions, 10).tolist() == [4, 0, 1]


@pytest.mark.parametrize("task", [AGE, RACE])
def test_nothing_to_find(task):
    labels = np.full(3, MISSING)
    predictions = np.zeros(3) if task.is_regression else np.eye(5)[:3]
    assert worst(task, labels, predictions, 5).size == 0


def test_in_words():
    assert format_prediction(AGE, 33.6) == "34 years"
    assert format_prediction(GENDER, 1) == "female"
    assert format_prediction(GENDER, np.array([0.926, 0.074])) == "male 93 %"
