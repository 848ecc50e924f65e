"""Labels that are ranges: losses, scores and reports, by values worked by hand."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import synthetic

from hydranet_tf import distributions, heads, losses
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.evaluation import evaluate, findings, scores
from hydranet_tf.heads import task_metrics
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import AGE, DISTRIBUTION, GENDER, MISSING, with_head
from hydranet_tf.training import distillation, train

(BY_DISTRIBUTION,) = with_head([AGE], DISTRIBUTION)


def test_a_value_loses_its_distance_from_the_range():
    """20-29 is 24.5 and 4.5: 25 is inside, 31 is 2 above it, 15 is 5 below."""
    labels, widths = np.array([24.5] * 3 + [40.0]), np.array([4.5] * 3 + [0.0])
    logits = np.array([25.0, 31.0, 15.0, 43.0], np.float32)
    found = losses.example_losses(AGE, labels, logits, None, widths)
    np.testing.assert_allclose(found, [0, 2, 5, 3], atol=1e-5)


def logits_of(fractions):
    """Logits of the given probabilities by year; nothing elsewhere."""
    values = np.full(heads.of(BY_DISTRIBUTION).num_logits, 1e-12)
    for year, fraction in fractions.items():
        values[year] = fraction
    return np.log(values)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("fractions", "expected"),
    [
        # All inside 20-29, wherever: nothing is lost.
        ({20: 0.5, 29: 0.5}, 0.0),
        ({24: 1.0}, 0.0),
        # Half of it inside; the mean, 25, too: -5 ln 0.5.
        ({19: 0.25, 25: 0.5, 31: 0.25}, 5 * math.log(2)),
        # The mean is 0.5 * 25 + 0.5 * 45 = 35, which is 6 above 29.
        ({25: 0.5, 45: 0.5}, 6 + 5 * math.log(2)),
        # 0.2 inside; the mean is 0.2 * 20 + 0.8 * 15 = 16, 4 below.
        ({20: 0.2, 15: 0.8}, 4 + 5 * math.log(5)),
    ],
)
def test_a_distribution_loses_what_is_not_inside(fractions, expected):
    found = distributions.example_losses(
        BY_DISTRIBUTION, np.array([24.5]), logits_of(fractions), np.array([4.5])
    )
    assert distributions.SHAPE == 5
    assert float(found[0]) == pytest.approx(expected, abs=1e-3)


def test_an_open_range_reaches_to_the_end():
    """70+ is 95 and 25."""
    found = distributions.example_losses(
        BY_DISTRIBUTION, np.array([95.0] * 2),
        np.concatenate([logits_of({120: 0.5, 70: 0.5}), logits_of({69: 1.0})]),
        np.array([25.0] * 2),
    )  # fmt: skip
    assert float(found[0]) == pytest.approx(0, abs=1e-4)
    # The mean is 1 below, and the probability of all other years 51 * 1e-12.
    assert float(found[1]) == pytest.approx(1 - 5 * math.log(51e-12), rel=1e-3)


@pytest.mark.parametrize("task", [AGE, BY_DISTRIBUTION])
def test_exact_labels_among_ranges_are_as_ever(task):
    rng = np.random.default_rng(0)
    shape = (3, heads.of(task).num_logits) if task.is_distribution else (3,)
    logits = rng.normal(size=shape).astype(np.float32)
    labels = np.array([30.0, MISSING, 50.0])
    expected = losses.example_losses(task, labels, logits)
    found = losses.example_losses(task, labels, logits, None, np.zeros(3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_constant_prediction_of_ranges():
    """The middles 10, 20, 40 have the median 20; it is 10, 0, 20 away, less 4, 5, 5."""
    found = losses.constant_prediction_loss(
        AGE, np.array([10.0, 20.0, 40.0, MISSING]), np.array([4.0, 5.0, 5.0, 0.0])
    )
    assert found == pytest.approx((6 + 0 + 15) / 3)


def test_mixed_faces_lose_by_their_own_ranges():
    labels = {"age": np.array([24.5, 60.0]), "age_half_width": np.array([4.5, 0.0])}
    logits = {"age": np.array([31.0, 62.0], np.float32)}
    means, *_ = losses.task_losses([AGE], labels, logits, 0.5)
    # Shares of the partner are 0.5 * 0.5 / 2 and 0.5 * 1.5 / 2. The first face is 2
    # from its range and 29 from 60; the second 2 from 60 and 33 from 29.
    a, b = 0.125, 0.375
    expected = ((1 - a) * 2 + a * 29 + (1 - b) * 2 + b * 33) / 2
    assert float(means["age"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["value", DISTRIBUTION])
def test_a_network_scores_the_distance(head):
    tasks = with_head([AGE, GENDER], head)
    model = HydraNet(synthetic.stem(), 32, width=4, tasks=tasks, augmentation="none")
    model.compile(optimizer="sgd", metrics=task_metrics(tasks))
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    logits = model.predict(images, verbose=0)["age"]
    if head == DISTRIBUTION:
        logits = np.asarray(distributions.median(tasks[0], logits))
    labels = np.array([logits[0] + 10, logits[1] + 10, logits[2] - 3, MISSING])
    widths = np.array([4.0, 12.0, 0.0, 0.0])
    targets = {"age": labels, "age_half_width": widths, "gender": np.zeros(4, int)}
    found = model.evaluate(images, targets, verbose=0, return_dict=True)
    # 6 from the first, inside the second, 3 from the third.
    assert found["age_mae"] == pytest.approx(3, abs=1e-2)


def test_scores_and_confusion_of_ranges():
    # 3-9, 10-19, 20-29, 70+ and an exact 33.
    labels = np.array([6.0, 14.5, 14.5, 24.5, 95.0, 33.0])
    widths = np.array([3.0, 4.5, 4.5, 4.5, 25.0, 0.0])
    predictions = np.array([9.6, 12.0, 25.0, 28.0, 66.0, 30.0])
    compared = scores.compared_to_ranges(labels, widths, predictions)
    np.testing.assert_allclose(compared - labels, [0.6, 0, 6, 0, -4, -3])
    found = scores.score(AGE, labels, compared)
    assert found["mae"].value == pytest.approx(13.6 / 6)
    assert found["bias"].value == pytest.approx(-0.4 / 6)
    assert found["cs5"].value == pytest.approx(5 / 6)
    measured = scores.range_scores(AGE, labels, widths, predictions)
    assert measured["names"] == ["3-9", "10-19", "20-29", "70+"]
    # 9.6 is nearer to 10-19 than to 3-9; 66 to 70+ than to 20-29.
    assert measured["counts"] == [
        [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]
    ]  # fmt: skip
    assert measured["scores"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert measured["scores"]["within_one"]["value"] == 1
    inside = scores.interval_scores(labels, predictions - 1, predictions + 1, 0, widths)
    # All but 25 (24 to 26 and 10-19), 66 (65 to 67 and 70+) and 30 (29 to 31 and 33).
    assert inside["coverage"].value == pytest.approx(3 / 6)
    assert inside["width"].value == pytest.approx(2)


def test_exact_labels_have_no_ranges():
    labels = np.array([6.0, 14.0])
    assert scores.range_scores(AGE, labels, None, labels) is None
    assert scores.range_scores(AGE, labels, np.zeros(2), labels) is None
    found = findings.find(
        [AGE], np.array(["a", "b"]), {"age": labels}, {"age": labels + 1}
    )
    assert found.ranges == {"age": None} and found.scores["age"]["mae"].value == 1


def test_teachers_know_where_in_a_range_a_face_is(tmp_path):
    """The label is what of 20-29 is nearest to their prediction, and then blended."""
    examples = sources.Examples(
        np.array(["a", "b", "c"]),
        {"age": np.array([24.5, 24.5, MISSING]), "age_half_width": np.array([4.5] * 3)},
        lambda i: b"",
    )
    faces = pipeline.Faces(examples, 32, None, ())
    (tmp_path / "t.csv").write_text("id,predicted_age\na,27\nb,33\nc,50\n")
    config = TrainingConfig(teacher=str(tmp_path / "t.csv"), distillation_weight=0.5)
    found = distillation.blended(faces, config).soft_labels["age_soft_labels"]
    np.testing.assert_allclose(found[:2], [27, (29 + 33) / 2])


@pytest.mark.parametrize("head", ["value", DISTRIBUTION])
def test_a_run_on_ranges_and_its_report(tmp_path, undrawn, head):
    rng = np.random.default_rng(4)
    (tmp_path / "faces").mkdir()
    with open(tmp_path / "faces" / "fairface_label_train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "age", "gender", "race", "split"])
        for i in range(24):
            low = int(rng.integers(0, 7)) * 10
            name = f"{i}.png"
            synthetic.picture(low + 5, i % 2, 2, 32, i).save(tmp_path / "faces" / name)
            age = "more than 70" if i == 0 else f"{low}-{low + 9}"
            part = "val" if i % 3 == 0 else "train"
            table.writerow([name, age, ("Male", "Female")[i % 2], "East Asian", part])
    data = str(tmp_path / "faces")
    config = TrainingConfig(
        data=data, backbone=synthetic.stem(), width=8, image_size=32, epochs=1,
        batch_size=8, age_head=head, augmentation="none",
    )  # fmt: skip
    train.train(config, tmp_path / "run")
    (row,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(row)["val_age_mae"]

    output = tmp_path / "report"
    content = evaluate.evaluate_model(tmp_path / "run", data, "validation", output)

    # The same distance, by another way.
    found = content["tasks"]["age"]
    assert found["scores"]["mae"]["value"] == pytest.approx(logged, rel=1e-4)
    assert found["ranges"]["names"][-1] == "70+"
    assert np.sum(found["ranges"]["counts"]) == 8
    text = (output / "report.md").read_text()
    assert "Labels that are ranges" in text and "| 70+ " in text
    with open(output / "predictions.csv") as file:
        labels = {row["id"]: row["age"] for row in csv.DictReader(file)}
    assert labels["0.png"] == "70+" and set(labels) >= {"3.png"}
    assert all("-" in label or "+" in label for label in labels.values())
    assert content["tasks"]["race"]["labelled"] == 8
