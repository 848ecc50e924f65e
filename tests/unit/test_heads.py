"""Heads: what each kind of task makes of its logits, worked by hand."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from hydranet_tf import heads, metrics
from hydranet_tf.tasks import AGE, DISTRIBUTION, GENDER, MISSING, RACE

BY_YEAR = dataclasses.replace(AGE, head=DISTRIBUTION)


@pytest.mark.parametrize(
    ("task", "kind", "width", "metric"),
    [
        (AGE, heads.ValueHead, 1, metrics.MaskedMeanAbsoluteError),
        (BY_YEAR, heads.DistributionHead, 121, metrics.MaskedMedianError),
        (GENDER, heads.BinaryHead, 1, metrics.MaskedAccuracy),
        (RACE, heads.CategoricalHead, 5, metrics.MaskedAccuracy),
        # What `head` says counts for regressions alone.
        (dataclasses.replace(RACE, head=DISTRIBUTION), heads.CategoricalHead, 5,
         metrics.MaskedAccuracy),
    ],
)  # fmt: skip
def test_a_task_describes_its_head(task, kind, width, metric):
    head = heads.of(task)
    assert type(head) is kind and head.num_logits == width
    score = head.metric("val_")
    assert type(score) is metric and score.name == f"val_{task.score}"
    # Weights are found by these names, in every checkpoint and preset.
    features = keras.Input((7,))
    network = keras.Model(features, head.build(features, 0.5, seed=1))
    made = {layer.name: layer for layer in network.layers if layer.weights}
    assert tuple(made) == head.layer_names == (f"{task.name}_hidden",
                                               f"{task.name}_logits")  # fmt: skip
    assert made[f"{task.name}_logits"].kernel.shape == (128, width)
    assert any(isinstance(layer, keras.layers.Dropout) for layer in network.layers)


def test_predictions_by_hand():
    (value,) = heads.of(AGE).predictions(np.float32([[-3, 40, 500]])).values()
    assert np.asarray(value).tolist() == [[0, 40, 120]]
    found = np.asarray(heads.of(GENDER).predictions(np.float32([[2.0]]))["gender"])
    assert found[0, 1] == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.sum() == pytest.approx(1)
    logits = np.log(np.float32([[0.1, 0.2, 0.3, 0.15, 0.25]])) + 7
    found = np.asarray(heads.of(RACE).predictions(logits)["race"])
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.3, 0.15, 0.25]], rtol=1e-5)
    sure = np.where(np.arange(121) == 40, 100, 0).astype(np.float32)[np.newaxis]
    found = heads.of(BY_YEAR).predictions(sure)
    # Bin 40 reaches from 39.5 to 40.5.
    assert [float(v[0]) for v in found.values()] == pytest.approx([40, 39.6, 40.4])


def test_scores_of_examples_by_hand():
    labels, widths = np.array([30.0, 30, MISSING]), np.array([0.0, 5, 0])
    values = np.float32([33, 33, 33])
    found = heads.of(AGE).example_scores(labels, values, widths)
    # The second lies in its range.
    assert found[:2].tolist() == [3, 0]
    logits = np.float32([[0.1], [-0.1], [0.0]])
    found = heads.of(GENDER).example_scores(np.array([1, 1, 0]), logits, np.zeros(3))
    assert found.tolist() == [1, 0, 1]
    found = heads.of(RACE).example_scores(
        np.array([2, 0]), np.float32([[0, 0, 9, 0, 0]] * 2), np.zeros(2)
    )
    assert found.tolist() == [1, 0]


def test_soft_labels_that_are_right_lose_nothing():
    taught = np.float32([[0.1, 0.2, 0.3, 0.15, 0.25]])
    found = heads.of(RACE).soft_losses(taught, np.log(taught))
    assert float(found[0]) == pytest.approx(0, abs=1e-6)
    half = np.float32([[0.5, 0.5]])
    found = heads.of(GENDER).soft_losses(half, np.float32([[math.log(3)]]))
    # KL of (1/2, 1/2) from (1/4, 3/4).
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(found[0]) == pytest.approx(expected, abs=1e-6)
