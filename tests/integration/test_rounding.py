"""A network fine-tuned from kernels in 8 bits keeps what it learned in 8 bits."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from small_network import random_images, random_model

from hydranet_tf.exporting import litert, quantization


def steps_of(kernel):
    """A kernel in steps of its grid, and the step: per output, as LiteRT has them."""
    step = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True) / 127
    return kernel / step, step


@pytest.fixture(scope="module")
def tuned():
    """On the grid first, then each kernel moved by a fifth of a step to higher ages.

    Returns:
        The model, and the ages that it predicted before.
    """
    model = random_model()
    images = random_images(16).astype(np.float32)
    kernels = [v for v in model.network.trainable_variables if len(v.shape) > 1]
    for kernel in kernels:
        steps, step = steps_of(kernel.numpy())
        kernel.assign(np.round(steps) * step)
    before = model.inference_model().predict_on_batch(images)["age"]
    with tf.GradientTape() as tape:
        age = tf.reduce_mean(model.network(images, training=False)["age"])
    gradients = tape.gradient(age, [kernel.value for kernel in kernels])
    for kernel, gradient in zip(kernels, gradients, strict=True):
        if gradient is None:
            continue  # Of another head.
        steps, step = steps_of(kernel.numpy())
        moved = steps + 0.2 * np.sign(gradient)
        # The largest make the grid, which stays.
        kernel.assign(np.where(np.abs(steps) > 126.5, steps, moved) * step)
    return model, before


def test_it_is_near_the_grid_and_comes_to_lie_on_it(tuned):
    model, _ = tuned
    names = [
        v.path for v in model.network.variables if quantization.near_grid(v.numpy())
    ]
    assert len(names) > 5
    copy = quantization.near_grid_rounded(model)
    for variable, prepared in zip(
        model.network.variables, copy.network.variables, strict=True
    ):
        before, after = variable.numpy(), prepared.numpy()
        if variable.path not in names:
            np.testing.assert_array_equal(after, before)
            continue
        steps, step = steps_of(after)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert (np.abs(after - before) < 1.001 * step).all()
        # Nearest rounding would lose a fifth of a step, always in one direction.
        assert abs((after - before).mean() / step.mean()) < 0.05
    assert quantization.near_grid_rounded(copy) is copy


def test_other_kernels_stay_as_they_are():
    model = random_model()
    assert quantization.near_grid_rounded(model) is model
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    assert not quantization.near_grid(kernel)
    steps, step = steps_of(kernel)
    assert not quantization.near_grid(np.round(steps) * step)
    assert quantization.near_grid((np.round(steps) + 0.1) * step)
    assert not quantization.near_grid(np.zeros((3, 3, 32, 32), np.float32))


@pytest.mark.parametrize("variant", ["dynamic", "int8"])
def test_fine_tuning_survives_an_export_in_8_bits(tuned, variant):
    model, before = tuned
    images = random_images(16)
    network = model.inference_model()
    after = network.predict_on_batch(images.astype(np.float32))["age"]
    learned = np.abs(after - before).mean()
    assert learned > 1

    def exported(network):
        content = litert.convert(network, variant, representative_faces=images)
        signature = Interpreter(model_content=content).get_signature_runner()
        dtype = signature.get_input_details()["images"]["dtype"]
        return np.concatenate(
            [signature(images=image[None].astype(dtype))["age"] for image in images]
        )

    found = exported(quantization.near_grid_rounded(model).inference_model())
    assert np.abs(found - after).mean() < 0.3 * learned
    # Without it the grid takes back most of what was learned.
    lost = exported(network)
    assert np.abs(lost - after).mean() > 0.6 * learned
