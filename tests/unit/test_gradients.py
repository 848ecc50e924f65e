"""Clipping and accumulation against values worked by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.training import train


def stepped(gradients, **settings):
    """A weight from 0 after these gradients, at a rate of 1."""
    config = TrainingConfig(
        optimizer="sgd", momentum=0.0, learning_rate=1.0, weight_decay=0.0, **settings
    )
    optimizer = train.make_optimizer(config, 10)
    weights = [keras.Variable(np.zeros(2, "float32")) for _ in gradients[0]]
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], weights)
    return [keras.ops.convert_to_numpy(w) for w in weights]


def test_the_norm_of_all_gradients_is_clipped():
    # sqrt(9 + 16 + 144) = 13.
    a, b = stepped([[[3.0, 4.0], [0.0, 12.0]]], gradient_clip_norm=6.5)
    np.testing.assert_allclose(a, [-1.5, -2.0], rtol=1e-6)
    np.testing.assert_allclose(b, [0.0, -6.0], rtol=1e-6)


def test_a_smaller_norm_is_left_alone():
    (a,) = stepped([[[3.0, 4.0]]], gradient_clip_norm=6.5)
    np.testing.assert_allclose(a, [-3.0, -4.0], rtol=1e-6)


def test_accumulated_gradients_are_averaged_and_then_clipped():
    three = [[[9.0, 0.0]], [[0.0, 12.0]], [[0.0, 0.0]]]
    (a,) = stepped(three[:2], accumulate_steps=3)
    np.testing.assert_array_equal(a, [0.0, 0.0])
    (a,) = stepped(three, accumulate_steps=3)
    np.testing.assert_allclose(a, [-3.0, -4.0], rtol=1e-6)
    (a,) = stepped(three, accumulate_steps=3, gradient_clip_norm=2.5)
    np.testing.assert_allclose(a, [-1.5, -2.0], rtol=1e-6)


def test_float16_has_its_loss_scaled():
    optimizer = train.make_optimizer(TrainingConfig(precision="mixed_float16"), 10)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    weight = keras.Variable([1.0, 1.0])
    optimizer.build([weight])
    scale = float(optimizer.scale_loss(np.float32(1.0)))
    assert scale > 1
    optimizer.apply([keras.ops.convert_to_tensor([np.inf, 1.0])], [weight])
    np.testing.assert_array_equal(weight, [1.0, 1.0])
    assert float(optimizer.scale_loss(np.float32(1.0))) == scale / 2


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("gradient_clip_norm", -1.0, "0 or more"),
        ("accumulate_steps", 0, "above 0"),
        ("ema_momentum", 1.0, "from 0 to below 1"),
    ],
)
def test_values_that_make_no_sense(setting, value, expected):
    with pytest.raises(ConfigError, match=f"--{setting} must be {expected}"):
        TrainingConfig(**{setting: value})
