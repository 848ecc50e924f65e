"""A run that starts at the network of another one."""

import json

import keras
import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.errors import HydraNetError
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import AGE, DISTRIBUTION, TASKS, with_head
from hydranet_tf.training import initialization, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return synthetic.tiny_run(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    """The workdir of a run with one value for age and learned loss weights."""
    workdir = tmp_path_factory.mktemp("first") / "run"
    # The rate moves the loss weights within the few steps.
    train.train(TrainingConfig(**settings, learning_rate=1e-2), workdir)
    return workdir


# Steps this small change nothing that counts.
STILL = {"optimizer": "sgd", "learning_rate": 1e-12, "epochs": 2}


def arrays(network):
    return {v.path: keras.ops.convert_to_numpy(v) for v in network.trainable_variables}


def test_larger_images_go_on_with_the_whole_network(settings, first, tmp_path):
    asked = {**settings, **STILL, "image_size": 48, "start_from": str(first)}
    second = train.train(TrainingConfig(**asked), tmp_path / "run").model
    assert second.image_size == 48
    begun = checkpoints.load_model(first)
    before, after = arrays(begun.network), arrays(second.network)
    assert before.keys() == after.keys()
    for path, array in before.items():
        np.testing.assert_allclose(after[path], array, atol=1e-6, err_msg=path)
    # The learned weights moved in the first run and go on from there.
    weights = begun.task_weights()
    fresh = train.build_model(
        TrainingConfig(**settings), train.load(TrainingConfig(**settings), ["train"])
    ).task_weights()
    assert abs(weights["alpha"] / fresh["alpha"] - 1) > 0.01
    assert second.task_weights() == pytest.approx(weights, rel=1e-5)
    start = json.loads((tmp_path / "run" / "run.json").read_text())["start"]
    assert start["path"] == str(first)
    assert start["parts"] == (
        "backbone, head of age, head of gender, head of race, loss weights"
    )


def test_a_head_that_predicts_something_else_starts_anew(settings, tmp_path):
    preset = tmp_path / "preset"
    old = HydraNet(
        synthetic.stem(), 32, width=8, seed=3, tasks=with_head(TASKS, DISTRIBUTION)
    )
    for variable in old.network.trainable_variables:
        variable.assign(keras.ops.full(variable.shape, 0.25))
    old.save_to_preset(preset, {})
    asked = {**settings, **STILL, "start_from": str(preset)}
    new = train.train(TrainingConfig(**asked), tmp_path / "run").model
    for path, array in arrays(new.network).items():
        if path.startswith(f"{AGE.name}_"):
            assert np.abs(array - 0.25).max() > 1e-3, path
        else:
            np.testing.assert_allclose(array, 0.25, atol=1e-6, err_msg=path)
    start = json.loads((tmp_path / "run" / "run.json").read_text())["start"]
    assert start["parts"] == "backbone, head of gender, head of race"


def test_a_resumed_run_does_not_look_for_its_start_again(settings, first, tmp_path):
    moved = tmp_path / "moved"
    preset = checkpoints.load_model(first)
    preset.save_to_preset(moved, {})
    asked = {**settings, "start_from": str(moved)}
    train.train(TrainingConfig(**asked), tmp_path / "run")
    moved.rename(tmp_path / "elsewhere")
    train.train(TrainingConfig(**{**asked, "epochs": 2}), tmp_path / "run")
    assert checkpoints.newest(tmp_path / "run", checkpoints.LAST)[1].epoch == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 16}, "--backbone=stem --width=8; this run has .*--width=16"),
        ({"start_from": "nowhere"}, "expected a workdir .* got nowhere"),
    ],
)
def test_what_cannot_be_started_from(settings, first, tmp_path, changes, message):
    asked = TrainingConfig(**{**settings, "start_from": str(first), **changes})
    with pytest.raises(HydraNetError, match=message):
        train.train(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(HydraNetError, match=message):
        initialization.read(asked)


def test_only_one_start(settings):
    with pytest.raises(ConfigError, match="--start_from must be empty where"):
        TrainingConfig(**settings, start_from="a", backbone_weights="b.npz")
