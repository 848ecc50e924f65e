"""Functions of images that are compiled to one loop over their pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras

# Side in pixels below which compiling, half a second for each shape, is not worth it.
_SMALLEST = 96


def fused(function: Callable) -> Callable:
    """Has TensorFlow compile a function of `(images, ...)` by XLA.

    Operation by operation, each of dozens would write a batch of images to memory and
    the next read it again: augmentation took a fifth of a training step on a CPU, and
    takes a twentieth. The convolutions of a network are slower under XLA there, so the
    step as a whole is not compiled. JAX compiles a step anyway.

    Args:
        function: of Keras operations alone, without variables or random draws (XLA
            would draw again for each use of a number). The images, its first argument,
            are `[batch, side, side, 3]`.
    """
    compiled = None

    @functools.wraps(function)
    def call(images, *arguments):
        nonlocal compiled
        if keras.backend.backend() != "tensorflow" or images.shape[1] < _SMALLEST:
            return function(images, *arguments)
        if compiled is None:
            import tensorflow as tf

            compiled = tf.function(function, jit_compile=True, autograph=False)
        return compiled(images, *arguments)

    return call
