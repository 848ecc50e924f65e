"""Streaming scores against values worked by hand."""

import numpy as np
import pytest

from hydranet_tf import heads, metrics
from hydranet_tf.tasks import MISSING, TASKS, score_name


def test_mean_absolute_error_over_batches_of_unequal_presence():
    score = metrics.MaskedMeanAbsoluteError()
    score.update_state(np.array([10.0, MISSING]), np.array([14.0, 77.0]))
    score.update_state(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    # Four labels, not two batches: (4 + 0 + 0 + 2) / 4.
    assert float(score.result()) == pytest.approx(1.5)


def test_accuracy_of_a_yes_no_question():
    score = metrics.MaskedAccuracy()
    score.update_state(
        np.array([0, 1, 1, MISSING]), np.array([[-1.0], [3.0], [-2.0], [9.0]])
    )
    assert float(score.result()) == pytest.approx(2 / 3)


def test_accuracy_of_classes():
    score = metrics.MaskedAccuracy()
    logits = np.eye(5, dtype="float32")[[0, 1, 2, 3]]
    score.update_state(np.array([0, 4, 2, MISSING]), logits)
    assert float(score.result()) == pytest.approx(2 / 3)


def test_no_label_at_all_is_no_score():
    score = metrics.MaskedAccuracy()
    score.update_state(np.array([MISSING]), np.array([[1.0]]))
    assert np.isnan(score.result())


def test_every_task_has_its_score():
    made = heads.task_metrics(TASKS)
    names = [f"{task}_{score.name}" for task, (score,) in made.items()]
    assert names == [score_name(task) for task in TASKS]
    assert names == ["age_mae", "gender_accuracy", "race_accuracy"]


@pytest.mark.parametrize(
    "score", [metrics.MaskedAccuracy, metrics.MaskedMeanAbsoluteError]
)
def test_weights_and_blanks(score):
    """Of three labels one is NaN; the others count 1 and 3."""
    score = score()
    predictions = np.array([[1.0], [-1.0], [1.0]])
    if score.name == "mae":
        predictions = np.array([2.0, 1.0, 7.0])
    weights = np.array([[1.0], [3.0], [9.0]])
    score.update_state(np.array([1.0, 1.0, np.nan]), predictions, sample_weight=weights)
    assert float(score.result()) == 0.25
