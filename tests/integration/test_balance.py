"""Balance between groups by sampling, weights and classes; values worked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import synthetic

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.errors import HydraNetError
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import proportions, train

SETTINGS = {"backbone": "tiny", "image_size": 32, "batch_size": 10}


def faces_of(races, ages=None, source=None):
    """Faces of black pictures with these labels."""
    count = len(races)
    examples = sources.Examples(
        np.array([f"{i}" for i in range(count)]),
        {
            "age": np.array(ages if ages is not None else [30] * count, np.float32),
            "gender": np.zeros(count, np.int32),
            "race": np.array(races, np.int32),
        },
        lambda i: b"",
        source_names=() if source is None else ("a", "b"),
        source=None if source is None else np.array(source),
    )
    return pipeline.Faces(examples, 32, np.zeros((count, 32, 32, 3), np.uint8), ())


def test_small_groups_count_alike_and_large_ones_by_their_size():
    """1 / E, E = 1000 (1 - 0.999^n): about n for few, 1000 for very many."""
    names = ["few"] * 100 + ["some"] * 200 + ["many"] * 20_000
    found = proportions.balanced(names)
    few, some, many = (1000 * (1 - 0.999**n) for n in (100, 200, 20_000))
    assert few == pytest.approx(95.2, abs=0.05) and many == pytest.approx(1000)
    # Each of the few would count 10.5 times one of the many, and the cap of ten times
    # the mean does not bind: the mean is near that of the many.
    assert found["few"] / found["many"] == pytest.approx(many / few, rel=1e-9)
    assert found["few"] / found["some"] == pytest.approx(some / few, rel=1e-9)
    mean = np.mean([found[name] for name in names])
    assert mean == pytest.approx(1)


def test_a_handful_is_not_learned_by_heart():
    found = proportions.balanced(["few"] * 2 + ["many"] * 5_000)
    assert found["few"] == pytest.approx(10)
    # 5,002 faces in all, of which the two stand for 20.
    assert found["many"] == pytest.approx((5_002 - 20) / 5_000)


def test_sampling_draws_small_groups_more_often():
    races = [0] * 60 + [1] * 30 + [2] * 10
    config = TrainingConfig(**SETTINGS, balance="race")
    found = proportions.drawn(faces_of(races), config)
    quotas = {s.name: s.quota for s in found.strata}
    # 60 / E(60), 30 / E(30), 10 / E(10) are 1.030, 1.015 and 1.005: of 100 faces
    # 33.8, 33.3 and 33.0.
    assert quotas == {"white": 34, "black": 33, "asian": 33}
    batches = pipeline.training_batches(found, 10, seed=0).take(10)
    seen = np.concatenate([labels["race"] for _, labels in batches.as_numpy_iterator()])
    assert np.bincount(seen).tolist() == [34, 33, 33]
    lines = proportions.lines(found, found, "race")
    assert lines[0] == (
        "  race asian: 10 faces (10.0%), each seen 3.30 times an epoch, as 33.0% would"
    )


def test_weights_leave_the_order_and_change_the_loss():
    races = [0] * 60 + [1] * 30 + [MISSING] * 10
    config = TrainingConfig(**SETTINGS, balance="race", balance_by="weights")
    found = proportions.drawn(faces_of(races), config)
    assert found.weights.mean() == pytest.approx(1, rel=1e-5)
    # 30 / 60 but for E's curve: 1.015 / 1.030.
    ratio = found.weights[60] / found.weights[0]
    assert ratio == pytest.approx((1 - 0.999**60) / (1 - 0.999**30), rel=1e-5)
    batches = pipeline.training_batches(found, 10, seed=0).take(10)
    for _, labels, weights in batches.as_numpy_iterator():
        expected = [
            {0: found.weights[0], 1: found.weights[60], -1: found.weights[99]}[race]
            for race in labels["race"].tolist()
        ]
        np.testing.assert_allclose(weights, expected)
    assert any(
        "race unknown" in line for line in proportions.lines(found, found, "race")
    )
    # Those that are judged are not weighed.
    ((_, _),) = pipeline.evaluation_batches(found, 100).take(1).as_numpy_iterator()


def test_ages_are_balanced_by_decade_and_tasks_together():
    faces = faces_of([0, 0, 1, 1], [9.5, 10, 19.9, MISSING])
    names = proportions.group_names(faces, "age,race").tolist()
    assert names == ["  0-9, white", " 10-19, white", " 10-19, black",
                     "age unknown, black"]  # fmt: skip


def test_groups_are_balanced_within_each_source():
    faces = faces_of(
        [0] * 30 + [1] * 10 + [0] * 50 + [1] * 10, source=[0] * 40 + [1] * 60
    )
    config = TrainingConfig(**SETTINGS, balance="race", data_weights="1,1")
    quotas = {s.name: s.quota for s in proportions.drawn(faces, config).strata}
    assert quotas["a white"] + quotas["a black"] == 50
    assert quotas["b white"] + quotas["b black"] == 50
    assert quotas["a black"] > 12 and quotas["b black"] > 8


@pytest.mark.parametrize("balance", ["height", "race,race2", "race;age"])
def test_what_cannot_be_balanced(balance):
    with pytest.raises(
        ConfigError, match="--balance must be some of age, gender, race"
    ):
        TrainingConfig(**SETTINGS, balance=balance)


def test_balance_wants_labels():
    config = TrainingConfig(**SETTINGS, balance="race")
    with pytest.raises(ConfigError, match="no face has a label of race"):
        proportions.drawn(faces_of([MISSING] * 20), config)


def test_class_weights_by_task():
    labels = {"race": np.array([0] * 90 + [2] * 10), "gender": np.zeros(100, int)}
    config = TrainingConfig(
        **SETTINGS, class_weights="race:balanced,gender:female=2.5,male=0.5"
    )
    found = proportions.class_weights(config, labels)
    assert found["gender"] == {"female": 2.5, "male": 0.5}
    # 90 * w = 10 * v but for E's curve, and a mean of 1 over the faces.
    assert found["race"]["asian"] / found["race"]["white"] == pytest.approx(
        (1 - 0.999**90) / (1 - 0.999**10)
    )
    mean = 0.9 * found["race"]["white"] + 0.1 * found["race"]["asian"]
    assert mean == pytest.approx(1)


@pytest.mark.parametrize(
    "text", ["female=2", "age:old=2", "race:martian=1", "race:white=x", "race:white=-1"]
)
def test_class_weights_that_make_no_sense(text):
    config = TrainingConfig(**SETTINGS, class_weights=text)
    with pytest.raises(ConfigError, match="expected TASK:CLASS=NUMBER"):
        proportions.class_weights(config, {})


@pytest.mark.parametrize("by", ["sampling", "weights"])
def test_a_run_with_balance(tmp_path, capsys, by):
    folder = synthetic.write_folder(tmp_path / "faces", 40, side=32)
    config = TrainingConfig(
        data=str(folder), split_lists=str(folder / "splits"), width=8, epochs=1,
        backbone=synthetic.stem(), image_size=32, balance="race", balance_by=by,
        class_weights="gender:balanced",
    )  # fmt: skip
    model = train.train(config, tmp_path / "run").model
    printed = capsys.readouterr().out
    assert "race asian:" in printed and "would" in printed
    assert set(model.class_weights["gender"]) == {"male", "female"}
    with pytest.raises(HydraNetError, match="--balance: 'race' before, '' now"):
        train.train(dataclasses.replace(config, balance=""), tmp_path / "run")
