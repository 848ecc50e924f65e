"""The mean of two networks' weights, worked by hand."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from hydranet_tf import checkpoints
from hydranet_tf.model import HydraNet


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "tools/average_weights.py"
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best checkpoint has 1 in its first weight, and whose last has 2."""
    workdir = tmp_path_factory.mktemp("run")
    model = network()
    model.compile(keras.optimizers.SGD())
    (workdir / "config.json").write_text("{}")
    (workdir / "model.json").write_text(json.dumps(model.get_config()))
    for value, kind in (1, checkpoints.BEST), (2, checkpoints.LAST):
        first = model.network.variables[0]
        first.assign(keras.ops.full(first.shape, value))
        checkpoints.save(workdir, kind, model, checkpoints.Progress(step=value))
    return workdir


@pytest.mark.parametrize(("last", "value"), [(False, 1), (True, 2)])
def test_the_last_checkpoint_is_taken_where_it_is_asked_for(script, run, last, value):
    loaded, which = script.network(run, last)
    assert which == (checkpoints.LAST if last else checkpoints.BEST)
    assert np.all(keras.ops.convert_to_numpy(loaded.network.variables[0]) == value)


def test_a_path_without_a_network_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="neither a workdir nor a preset"):
        script.network(tmp_path, last=True)
