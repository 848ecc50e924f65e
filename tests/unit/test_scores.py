"""Scores against values worked by hand, scikit-learn and scipy."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from hydranet_tf.evaluation import scores, subgroups
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS


def some_classes(n, classes, seed=0, right=0.6):
    """Labels, a tenth of them missing, and probabilities that often agree."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), labels] += 3 * (random.random(n) < right)
    labels[random.random(n) < 0.1] = MISSING
    odds = np.exp(logits)
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def some_ages(n, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(1, 90, size=n).astype(np.float32)
    predictions = (labels + random.normal(1, 7, size=n)).astype(np.float32)
    labels[random.random(n) < 0.1] = MISSING
    return labels, predictions


def test_age_scores_worked_by_hand():
    # Errors 5 (counts for CS@5), -5.5, 0 and one row without a label.
    labels = np.array([20, 30, 40, MISSING], np.float32)
    predictions = np.array([25, 24.5, 40, 99], np.float32)
    found = scores.score(AGE, labels, predictions)
    assert found["mae"].value == pytest.approx(10.5 / 3)
    assert found["cs5"].value == pytest.approx(2 / 3)
    assert found["bias"].value == pytest.approx(-0.5 / 3)
    assert {score.n for score in found.values()} == {3}


def test_class_scores_worked_by_hand():
    # Recalls: white 2/3, black 0/1, asian 1/1; nobody is indian or others.
    labels = np.array([0, 0, 0, 1, 2, MISSING])
    predictions = np.eye(5)[[0, 0, 1, 0, 2, 4]]
    found = scores.score(RACE, labels, predictions)
    assert found["accuracy"].value == pytest.approx(3 / 5)
    assert found["balanced_accuracy"].value == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_age_error_is_that_of_sklearn():
    labels, predictions = some_ages(500)
    kept = labels != MISSING
    expected = metrics.mean_absolute_error(labels[kept], predictions[kept])
    assert scores.score(AGE, labels, predictions)["mae"].value == pytest.approx(
        expected
    )


@pytest.mark.parametrize("task", [GENDER, RACE])
def test_class_scores_are_those_of_sklearn(task):
    labels, predictions = some_classes(400, len(task.classes))
    kept, predicted = labels != MISSING, predictions.argmax(axis=1)
    found = scores.score(task, labels, predictions)
    assert found["accuracy"].value == pytest.approx(
        metrics.accuracy_score(labels[kept], predicted[kept])
    )
    assert found["balanced_accuracy"].value == pytest.approx(
        metrics.balanced_accuracy_score(labels[kept], predicted[kept])
    )
    np.testing.assert_array_equal(
        scores.confusion(labels, predictions),
        metrics.confusion_matrix(
            labels[kept], predicted[kept], labels=range(len(task.classes))
        ),
    )


def test_interval_of_a_mean_is_the_normal_one():
    labels, predictions = some_ages(4000)
    kept = labels != MISSING
    errors = np.abs(predictions[kept].astype(float) - labels[kept])
    half = 1.96 * errors.std() / np.sqrt(len(errors))
    found = scores.score(AGE, labels, predictions)["mae"]
    # 1,000 draws know the ends of an interval to about a twentieth of it.
    assert found.low == pytest.approx(errors.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(errors.mean() + half, abs=0.2 * half)


def test_interval_of_balanced_accuracy_is_that_of_scipy():
    labels, predictions = some_classes(600, 5)
    kept = labels != MISSING
    labels, predictions = labels[kept], predictions[kept]
    expected = scipy.stats.bootstrap(
        (labels, predictions.argmax(axis=1)),
        metrics.balanced_accuracy_score,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = scores.score(RACE, labels, predictions)["balanced_accuracy"]
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    # Right with chance 0.7: of 200 intervals, 190 should hold 0.7. Fewer than
    # 180 or all 200 would be a chance below one in a thousand.
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        right = random.random(300) < 0.7
        predictions = np.eye(2)[right.astype(int)]
        found = scores.score(GENDER, np.ones(300, int), predictions)["accuracy"]
        held += found.low <= 0.7 <= found.high
    assert 180 <= held < 200


def test_same_seed_same_interval():
    labels, predictions = some_ages(200)
    first, again, other = (scores.score(AGE, labels, predictions, s) for s in (3, 3, 4))
    assert first == again
    assert first["mae"].value == other["mae"].value
    assert first["mae"].low != other["mae"].low


def test_blocks_change_nothing(monkeypatch):
    labels, predictions = some_classes(300, 5)
    whole = scores.score(RACE, labels, predictions)
    # 1,000 draws in blocks of 7: the last block is a smaller one.
    monkeypatch.setattr(scores, "_BLOCK_CELLS", 300 * 7)
    blocks = scores.score(RACE, labels, predictions)
    for name in whole:
        assert blocks[name].low == pytest.approx(whole[name].low, abs=0.01)
        assert blocks[name].high == pytest.approx(whole[name].high, abs=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_no_labels_is_no_number(task):
    predictions = (
        np.zeros(3) if task.is_regression else np.full((3, len(task.classes)), 0.2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores.score(task, np.full(3, MISSING), predictions)
    for score in found.values():
        assert score.to_json() == {
            "n": 0, "value": None, "low": None, "high": None, "status": "no labels"
        }  # fmt: skip


def test_one_label_has_no_interval():
    found = scores.score(AGE, np.array([30.0]), np.array([37.0]))["mae"]
    assert (found.n, found.value, found.low, found.high) == (1, 7.0, None, None)


def test_five_thousand_examples_take_less_than_five_seconds():
    ages, guesses = some_ages(5000)
    genders, sides = some_classes(5000, 2)
    races, kinds = some_classes(5000, 5)
    started = time.process_time()
    labels = {"age": ages, "gender": genders, "race": races}
    predictions = {"age": guesses, "gender": sides, "race": kinds}
    for task in TASKS:
        scores.score(task, labels[task.name], predictions[task.name])
    subgroups.by_decade(AGE, ages, guesses)
    subgroups.by_group(TASKS, (GENDER, RACE), labels, predictions)
    assert time.process_time() - started < 5


def test_calibration_worked_by_hand():
    # Four bins. (0.5, 0.75]: 0.55 right, 0.75 wrong, so |1.3 - 1|. (0.75, 1]: 0.9
    # right, 1.0 right, 0.95 wrong, so |2.85 - 2|. One row has no label.
    confidence = np.array([0.55, 0.75, 0.9, 1.0, 0.95, 0.7])
    predictions = np.stack([1 - confidence, confidence], axis=1)
    labels = np.array([1, 0, 1, 1, 0, MISSING])
    found = scores.reliability(labels, predictions, bins=4)
    assert found.error == pytest.approx((0.3 + 0.85) / 5)
    assert found.counts.tolist() == [0, 0, 2, 3]
    assert found.accuracy[2:] == pytest.approx([1 / 2, 2 / 3])
    assert found.confidence[2:] == pytest.approx([0.65, 0.95])
    assert found.to_json()["bins"][1] == {
        "from": 0.25, "to": 0.5, "n": 0, "confidence": None, "accuracy": None
    }  # fmt: skip


def test_calibration_without_labels():
    found = scores.reliability(np.array([MISSING]), np.array([[0.3, 0.7]])).to_json()
    assert (found["ece"], found["status"], found["n"]) == (None, "no labels", 0)


def test_decades_worked_by_hand():
    labels = np.array([5, 9, 10, 35, MISSING], np.float32)
    predictions = np.array([7, 8, 14, 30, 50], np.float32)
    rows = subgroups.by_decade(AGE, labels, predictions)
    assert [(row.name, row.n) for row in rows] == [
        ("0-9", 2), ("10-19", 1), ("20-29", 0), ("30-39", 1)
    ]  # fmt: skip
    assert rows[0].scores["mae"].value == pytest.approx(1.5)
    assert rows[0].scores["bias"].value == pytest.approx(0.5)
    assert rows[2].scores["mae"].to_json()["status"] == "no labels"
    assert rows[3].scores["bias"].value == pytest.approx(-5)
    assert subgroups.by_decade(AGE, np.full(2, MISSING), np.zeros(2)) == []


def grouped(sizes, errors):
    """Groups male x race of given sizes, each with its constant age error."""
    race = np.repeat(np.arange(len(sizes)), sizes)
    n = len(race)
    labels = {"gender": np.zeros(n, int), "race": race, "age": np.full(n, 40.0)}
    predictions = {"age": 40.0 + np.repeat(errors, sizes)}
    return subgroups.by_group([AGE], (GENDER, RACE), labels, predictions)


def test_the_worst_group_has_enough_examples():
    found = grouped([40, 29, 50, 10], errors=[4, 30, 8, 1])
    key = "age.mae"
    assert found.worst(key).name == "male, asian"
    # The small ones stand last, and the one that looks worse is named apart.
    assert [g.name for g in found.ranked(key)] == [
        "male, asian", "male, white", "male, black", "male, indian"
    ]  # fmt: skip
    assert [g.name for g in found.suspects(key)] == ["male, black"]
    # CS@5 is better when high: asian and black are both at 0.
    assert found.worst("age.cs5").name == "male, asian"
    assert found.suspects("age.cs5") == []


def test_thirty_examples_are_enough():
    found = grouped([30, 40], errors=[9, 2])
    assert found.worst("age.mae").name == "male, white"


def test_without_a_large_group_none_is_worst():
    found = grouped([5, 6], errors=[1, 2])
    assert found.worst("age.mae") is None
    assert found.without_worst("age.mae") == "every group is small"
    # Nothing tells those that look worse from chance.
    assert found.suspects("age.mae") == []


def test_nobody_is_worst_where_all_are_alike():
    found = grouped([40, 60, 10], errors=[3, 3, 9])
    assert found.worst("age.mae") is None
    assert found.without_worst("age.mae") == "no group is worse than another"
    assert [g.name for g in found.suspects("age.mae")] == ["male, asian"]
    alone = grouped([40], errors=[3])
    assert alone.worst("age.mae").name == "male, white"


def test_of_equally_bad_groups_the_larger_is_named():
    assert (
        grouped([31, 90, 40], errors=[7, 7, 1]).worst("age.mae").name == "male, black"
    )


def test_groups_are_scored_apart_and_missing_labels_are_in_none():
    labels = {
        "age": np.array([10, 20, 30, MISSING, 50], np.float32),
        "gender": np.array([0, 1, 1, 1, MISSING]),
        "race": np.array([0, 2, 2, 2, 2]),
    }
    predictions = {
        "age": np.array([11, 22, 34, 60, 90], np.float32),
        "gender": np.eye(2)[[0, 0, 1, 1, 1]],
        "race": np.eye(5)[[0, 2, 0, 2, 2]],
    }
    found = subgroups.by_group(TASKS, (GENDER, RACE), labels, predictions)
    assert found.left_out == 1
    assert len(found.rows) == 10
    rows = {row.name: row for row in found.rows}
    women = rows["female, asian"]
    assert women.n == 3
    assert women.scores["age.mae"].value == pytest.approx(3)
    assert women.scores["age.mae"].n == 2
    assert women.scores["gender.accuracy"].value == pytest.approx(2 / 3)
    assert women.scores["race.accuracy"].value == pytest.approx(2 / 3)
    assert rows["male, white"].scores["age.mae"].value == pytest.approx(1)
    assert rows["male, others"].n == 0
    assert rows["male, others"].scores["race.accuracy"].value is None
