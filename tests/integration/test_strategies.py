"""The same batch on one device and on several gives the same network."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import workers

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.training import strategies

pytestmark = pytest.mark.long

WORKER = Path(__file__).parents[1] / "replica_worker.py"
# On two idle cores a minute is enough for the slowest.
SECONDS = 500


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the worker found, by the kind of devices."""
    folder = tmp_path_factory.mktemp("replicas")

    def start(name, backend, strategy, devices, *cases, **environment):
        command = [sys.executable, WORKER, folder / f"{name}.npz", strategy]
        log = folder / f"{name}-{len(environment)}-{environment.get('INDEX')}.log"
        process = workers.start(
            [*command, devices, *cases], log, KERAS_BACKEND=backend,
            # Only the time to compile: rounding is compared, not speed.
            XLA_FLAGS="--xla_backend_optimization_level=0", **environment,
        )  # fmt: skip
        return process, log

    def pair(name, backend, *cases):
        addresses = workers.free_addresses(2)
        return [
            start(
                name, backend, "multi_worker", 1, *cases,
                INDEX=str(i), TF_CONFIG=workers.tf_config(addresses, i),
            )
            for i in range(2)
        ]  # fmt: skip

    found, both = {}, ("plain", "clipped", "worst_predictions")
    # Two processes at a time, for two cores.
    for started in (
        lambda: [
            start("one", "tensorflow", "one_device", 1, *both, "bfloat16"),
            start("mirrored", "tensorflow", "mirrored", 2, *both, "float16"),
        ],
        lambda: pair("two_workers", "tensorflow", "plain", "keras_alone"),
        lambda: pair("jax", "jax", "plain"),
    ):
        processes, logs = zip(*started(), strict=True)
        workers.finish(processes, logs, SECONDS)
    for path in folder.glob("*.npz"):
        with np.load(path) as arrays:
            found[path.stem] = dict(arrays)
    return found


def of(run, beginning):
    part = {
        name.removeprefix(beginning): value
        for name, value in run.items()
        if name.startswith(beginning)
    }
    assert part
    return part


SEVERAL = ("mirrored", "two_workers", "jax")


@pytest.mark.parametrize("name", SEVERAL)
def test_losses_and_scores_equal_those_of_one_device(runs, name):
    expected = of(runs["one"], "plain/epoch/")
    found = of(runs[name], "plain/epoch/")
    assert set(found) == set(expected)
    assert {"age_loss", "race_accuracy", "val_loss", "val_race_loss"} <= set(found)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", SEVERAL)
def test_the_loss_of_every_step_is_that_of_the_whole_batch(runs, name):
    for key in ("loss", "age_loss", "gender_loss", "race_loss"):
        np.testing.assert_allclose(
            runs[name][f"plain/step/{key}"],
            runs["one"][f"plain/step/{key}"],
            rtol=1e-5,
            err_msg=key,
        )


@pytest.mark.parametrize(
    ("name", "case"),
    [*((name, "plain") for name in SEVERAL), ("mirrored", "clipped")],
)
def test_weights_move_as_on_one_device(runs, name, case):
    """After one step of plain gradient descent that is the gradient."""
    for when in ("first", "last"):
        expected = of(runs["one"], f"{case}/{when}/")
        found = of(runs[name], f"{case}/{when}/")
        begun = of(runs["one"], f"{case}/begun/")
        assert set(found) == set(expected) == set(begun)
        for key, value in expected.items():
            moved = np.abs(value - begun[key]).max()
            assert moved > 0, key
            # The rounding of the weight itself, and of its change.
            atol = 1e-3 * moved + 2e-7 * np.abs(value).max()
            np.testing.assert_allclose(found[key], value, rtol=0, atol=atol)


@pytest.mark.parametrize("name", SEVERAL)
def test_log_variances_are_learned_as_on_one_device(runs, name):
    expected = runs["one"]["plain/log_variances"]
    np.testing.assert_allclose(
        runs[name]["plain/log_variances"], expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "case"), [("mirrored", "float16"), ("one", "bfloat16")]
)
def test_with_16_bits_the_loss_is_near_and_kept_in_32(runs, name, case):
    """With loss scaling over replicas; and compiled by XLA."""
    found = of(runs[name], f"{case}/")
    losses, expected = found["step/loss"], runs["one"]["plain/step/loss"]
    # Before the first step, whatever the optimiser.
    np.testing.assert_allclose(losses[0], expected[0], rtol=0.01)
    assert losses[0] != expected[0]
    assert np.isfinite(losses).all()
    assert found["log_variances"].dtype == np.float32
    begun, last = of(found, "begun/"), of(found, "last/")
    for key, value in last.items():
        assert np.isfinite(value).all() and (value != begun[key]).any(), key


def test_the_worst_predictions_are_shown_as_on_one_device(runs):
    """Drawn between epochs, with the average of weights that all devices hold."""
    found = of(runs["mirrored"], "worst_predictions/")
    expected = of(runs["one"], "worst_predictions/")
    assert found["steps"] == expected["steps"] == 15
    shown = {"picture/age", "picture/gender", "picture/race"}
    assert set(found) == set(expected) == {"steps", *shown}
    for name in sorted(shown):
        assert found[name].shape == expected[name].shape, name
        # Rounding may turn a last digit below a face, no face.
        assert (found[name] != expected[name]).mean() < 0.01, name


def test_the_second_half_of_each_batch_has_no_race(runs):
    """Or the tests above would say nothing about replicas without a label."""
    counts = runs["one"]["plain/races_by_half"]
    assert counts[0] > 0 and counts[1] == 0


def test_our_strategy_is_still_needed(runs):
    assert runs["two_workers"]["keras_alone/failed"].item(), (
        "Keras now trains under MultiWorkerMirroredStrategy as it is: remove "
        "MultiWorkerStrategy from training/strategies.py, and use TensorFlow's"
    )


def start(strategy, tmp_path, **settings):
    return strategies.start(TrainingConfig(strategy=strategy, **settings), tmp_path)


def test_one_device_is_chosen_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with start("auto", tmp_path) as devices:
        assert (devices.strategy, devices.replicas) == ("one_device", 1)
        assert devices.folder == tmp_path
        devices.agree(anything=1)


TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'


@pytest.mark.parametrize(
    ("strategy", "tf_config", "message"),
    [
        ("multi_worker", "", "needs TF_CONFIG to name two workers"),
        ("one_device", TWO, "TF_CONFIG names 2 workers"),
        ("mirrored", TWO, "use --strategy=multi_worker"),
        ("auto", "alpha,beta", "TF_CONFIG must name the workers"),
        ("tpu", "", "found no TPU"),
    ],
)
def test_a_strategy_that_does_not_fit(
    tmp_path, monkeypatch, strategy, tf_config, message
):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(ConfigError, match=message), start(strategy, tmp_path):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 9}, "multiple of their number: got 9 for 2 devices"),
        ({"xla": True}, "--xla does not go together with 2 devices"),
        ({"accumulate_steps": 2}, "--accumulate_steps does not go together"),
    ],
)
def test_settings_that_several_devices_cannot_have(
    tmp_path, monkeypatch, settings, message
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(strategies, "_bring_up_tensorflow", lambda *_: (2, None, None))
    with pytest.raises(ConfigError, match=message):
        with start("mirrored", tmp_path, **settings):
            pass


def test_batch_norm_is_synchronised_at_every_depth():
    inner = keras.Sequential([keras.layers.BatchNormalization()])
    inputs = keras.Input((2,))
    outer = keras.Model(inputs, keras.layers.BatchNormalization()(inner(inputs)))
    strategies.synchronise_batch_norm(outer)
    assert inner.layers[0].synchronized and outer.layers[-1].synchronized
