"""Two faces in one image: pixels and losses against values worked by hand."""

import math

import keras
import numpy as np
import pytest

from hydranet_tf import losses
from hydranet_tf.augmentation import Mixup
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import MISSING, TASKS

SIDE = 32


def test_pixels_by_hand():
    images = np.zeros((2, 1, 1, 3), "uint8")
    images[1] = 100
    # Two rows of at most 0.4: shares of 0.1 and 0.3.
    mixed = np.asarray(Mixup(0.4)(images, training=True))
    np.testing.assert_allclose(mixed[:, 0, 0, 0], [10.0, 70.0], rtol=1e-6)
    np.testing.assert_array_equal(Mixup(0.4)(images), images)


def test_losses_by_hand():
    """Both labels count by their shares; what is missing counts nothing."""
    labels = {
        "age": np.array([20.0, 50.0], "float32"),
        "gender": np.array([MISSING, 1], "int32"),
        "race": np.array([MISSING, MISSING], "int32"),
    }
    logits = {
        "age": np.array([23.0, 49.0], "float32"),
        "gender": np.array([[0.0], [2.0]], "float32"),
        "race": np.zeros((2, 5), "float32"),
    }
    means, counts, _ = losses.task_losses(TASKS, labels, logits, largest_fraction=0.4)
    age = (0.9 * 3 + 0.1 * 27) + (0.7 * 1 + 0.3 * 29)
    assert float(means["age"]) == pytest.approx(age / 2)
    # Row 0 has no label of its own, and a tenth of row 1's.
    gender = (0.1 * math.log(2) + 0.7 * math.log(1 + math.exp(-2))) / (0.1 + 0.7)
    assert float(means["gender"]) == pytest.approx(gender, rel=1e-5)
    assert float(means["race"]) == 0
    found = {name: float(count) for name, count in counts.items()}
    assert found == pytest.approx({"age": 2.0, "gender": 0.8, "race": 0.0})


def test_the_network_sees_mixed_faces_in_training_alone():
    keras.utils.set_random_seed(0)
    even = losses.FixedWeights([1.0] * len(TASKS))
    model = HydraNet("tiny", SIDE, augmentation="none", mixup=0.5, weighting=even)
    model.compile()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, SIDE, SIDE, 3)).astype("float32")
    labels = {
        "age": np.array([3, 30, 60, 90], "float32"),
        "gender": np.array([0, 1, 1, 0], "int32"),
        "race": np.array([0, 1, 2, 4], "int32"),
    }
    fraction = np.array([1, 3, 5, 7])[:, None, None, None] * 0.5 / 8
    mixed = (1 - fraction) * images + fraction * images[[3, 0, 1, 2]]
    logits = model(images, training=True)
    for name, values in model.network(mixed, training=True).items():
        np.testing.assert_allclose(logits[name], values, rtol=1e-4, atol=1e-4)

    def expected(largest_fraction):
        means, *_ = losses.task_losses(TASKS, labels, logits, largest_fraction)
        return sum(float(mean) for mean in means.values())

    def found(training):
        return float(model.compute_loss(y=labels, y_pred=logits, training=training))

    assert found(training=True) == pytest.approx(expected(0.5), rel=1e-6)
    assert found(training=False) == pytest.approx(expected(0.0), rel=1e-6)
    assert abs(expected(0.5) - expected(0.0)) > 0.1


def test_it_is_kept_with_the_network_and_not_in_a_preset(tmp_path):
    model = HydraNet("tiny", SIDE, mixup=0.25)
    copy = HydraNet.from_config(model.get_config())
    assert copy.mixup == copy.get_layer("mixup").largest == 0.25
    model.save_to_preset(tmp_path / "preset", origin={})
    released = HydraNet.from_preset(tmp_path / "preset")
    assert released.mixup == 0
    assert "mixup" not in [layer.name for layer in released.layers]
