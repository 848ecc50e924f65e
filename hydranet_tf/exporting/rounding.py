"""Kernels that were fine-tuned from 8 bits, made ready to be rounded to 8 bits again.

A network that started at kernels in 8 bits moves them by fractions of a step. Rounded
to the nearest step they fall back to where they began, all in the same direction: the
sum over thousands of weights is lost, and with it what was learned (measured: 73 % of
the weights, single ages by up to 10 years). Rounded up or down at random, with the odds
of where a weight lies between two steps, they keep that sum (stochastic rounding, Gupta
et al. 2015, arXiv:1502.02551).
"""

from __future__ import annotations

import keras
import numpy as np

from hydranet_tf import presets
from hydranet_tf.model import HydraNet

# The mean distance from the nearest step, in steps, is 1/4 of kernels that know no
# grid. Below the first of these nothing has moved; from the second on it is that of
# kernels of their own, whose nearest step is the better choice.
_MOVED, _OWN = 1e-3, 0.22
# Of fewer weights the mean says nothing.
_FEWEST = 256
# Rounding of float32 in a weight that lies on its step.
_ON_STEP = 1e-3


def prepared(model: HydraNet) -> HydraNet:
    """A copy whose kernels near an 8-bit grid lie on it; the model itself without any.

    Args:
        model: in float32.
    """
    kernels = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.network.variables
    }
    near = {name: kernel for name, kernel in kernels.items() if near_grid(kernel)}
    if not near:
        return model
    copy = HydraNet.from_config(model.get_config())
    copy.network.set_weights(model.network.get_weights())
    random = np.random.default_rng(0)
    for variable in copy.network.variables:
        if variable.path in near:
            variable.assign(rounded(near[variable.path], random))
    return copy


def near_grid(kernel: np.ndarray) -> bool:
    """Whether a kernel was moved a little from the grid that 8 bits would give it."""
    if kernel.size < _FEWEST or kernel.ndim < 2:
        return False
    steps = kernel / _step(kernel)
    distance = np.abs(steps - np.round(steps)).mean()
    return bool(_MOVED < distance < _OWN)


def rounded(kernel: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The kernel on its 8-bit grid, each weight on one of the two steps around it.

    The largest weight of an output stays: it makes the grid. So a converter that rounds
    to the nearest step finds nothing to round.
    """
    step = _step(kernel)
    steps = kernel / step
    nearest = np.round(steps)
    either = np.floor(steps + random.random(steps.shape, np.float32))
    on_step = np.abs(steps - nearest) < _ON_STEP
    return (np.where(on_step, nearest, either) * step).astype(kernel.dtype)


def _step(kernel: np.ndarray) -> np.ndarray:
    axes = presets.axes_within_an_output(kernel.shape)
    largest = np.abs(kernel).max(axes, keepdims=True)
    return np.where(largest > 0, largest, 1) / np.float32(presets.LARGEST)
