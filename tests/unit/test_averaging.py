"""Averaged weights: by hand, and where they are used."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.training import optimizers, train

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 60, side=32)
    return TrainingConfig(
        data=str(folder),
        split_lists=str(folder / "splits"),
        backbone=synthetic.stem(),
        image_size=32,
        width=8,
        batch_size=12,
        epochs=1,
        ema_momentum=0.7,
    )


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A finished run of one epoch, and what training returned."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(settings, workdir).model


def values(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_weights}


def test_the_average_by_hand():
    config = TrainingConfig(ema_momentum=0.7, optimizer="sgd", weight_decay=0.0)
    weight = keras.Variable([1.0, -2.0])
    optimizer, seen = train.make_optimizer(config, 10), []
    for gradient in ([1.0, 2.0], [0.5, 0.5], [-1.0, 3.0]):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        seen.append(keras.ops.convert_to_numpy(weight).astype(float))
    # The first step starts the average at its own weights.
    by_hand = seen[0]
    for later in seen[1:]:
        by_hand = 0.7 * by_hand + 0.3 * later
    optimizer.finalize_variable_values([weight])
    np.testing.assert_allclose(weight, by_hand, rtol=1e-6)


def test_the_best_checkpoint_holds_the_average_and_the_last_does_not(run):
    workdir, returned = run
    best = values(checkpoints.load_model(workdir, checkpoints.BEST))
    last = values(checkpoints.load_model(workdir, checkpoints.LAST))
    expected = values(returned)
    assert set(best) == set(last) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(best[path], value, err_msg=path)
    assert any((last[path] != best[path]).any() for path in best)


def test_the_average_is_what_was_validated(settings, run):
    workdir, _ = run
    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    model = checkpoints.load_model(workdir, checkpoints.BEST)
    train.compile_model(model, settings, 1)
    part = sources.open_source(
        settings.data, "validation", split_lists=settings.split_lists
    )
    scores = model.evaluate(
        pipeline.evaluation_batches(pipeline.load_faces(part, 32), 12),
        return_dict=True,
        verbose=0,
    )
    assert json.loads(line)["val_age_mae"] == pytest.approx(scores["age_mae"], rel=1e-5)


def test_training_goes_on_from_the_weights_bit_for_bit(settings, run, tmp_path):
    workdir, _ = run
    twice = dataclasses.replace(settings, epochs=2)
    unbroken = values(train.train(twice, tmp_path / "unbroken").model)
    resumed = values(train.train(twice, workdir).model)
    for path, value in unbroken.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)


def test_weights_come_back_to_the_bit_and_after_an_error(run):
    _, model = run
    # The network at the end is averaged; move it away from that.
    for variable in model.trainable_variables:
        variable.assign(variable * 1.1)
    before = values(model)
    with pytest.raises(KeyError), optimizers.averaged(model):
        assert any((values(model)[p] != v).any() for p, v in before.items())
        raise KeyError
    for path, value in before.items():
        np.testing.assert_array_equal(values(model)[path], value)
