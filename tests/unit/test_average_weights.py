"""The mean of two networks' weights, worked by hand."""

import importlib.util

import keras
import numpy as np
import pytest
from conftest import REPOSITORY

from hydranet_tf.model import HydraNet


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "tools/average_weights.py"
    spec = importlib.util.spec_from_file_location("average_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(width=4):
    return HydraNet("tiny", 32, width=width, augmentation="none")


def test_each_weight_is_the_mean(script):
    one, other = network(), network()
    for variable in other.network.variables:
        variable.assign(variable + 1.0)
    before = [keras.ops.convert_to_numpy(v) for v in one.network.variables]
    added = [keras.ops.convert_to_numpy(v) for v in other.network.variables]
    script.averaged(one, other, 0.25)
    for variable, a, b in zip(one.network.variables, before, added, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), a / 4 + b * 3 / 4, rtol=1e-5
        )


def test_other_networks_are_refused(script):
    with pytest.raises(ValueError, match="the same layers"):
        script.averaged(network(4), network(8), 0.5)
