"""Several sources in one run: joined, drawn in proportion, scored each by itself."""

from __future__ import annotations

import collections
import csv
import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.data.pipeline import Stratum, epoch_order, quotas
from hydranet_tf.evaluation import evaluate
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import (
    callbacks,
    proportions,
    train,
)

pytestmark = pytest.mark.slow


def write_table(folder, count, split=None):
    """A table beside its pictures; ages and genders alone, as All-Age-Faces has."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    with open(folder / "asian_faces.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "age", "gender", "race", "split"])
        for i in range(count):
            age, gender = int(rng.integers(2, 80)), int(rng.integers(0, 2))
            synthetic.picture(age, gender, 0, 32, i).save(folder / f"{i}.png")
            part = split or ("train", "validation")[i % 4 == 0]
            table.writerow([f"{i}.png", age, gender, "", part])
    return folder / "asian_faces.csv"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """`--data` and `--split_lists` of a folder of 24 + 8 faces, a table of 21 + 7."""
    root = tmp_path_factory.mktemp("both")
    folder = synthetic.write_folder(root / "named", 40, side=32)
    table = write_table(root / "table", 28)
    return {"data": f"{folder},{table}", "split_lists": f"{folder / 'splits'},"}


@pytest.fixture(scope="module")
def settings(both):
    return TrainingConfig(
        **both, backbone=synthetic.stem(), image_size=32, width=8, epochs=2,
        batch_size=5, optimizer="adamw", learning_rate=1e-3, data_weights="1,2",
        cache="none",
    )  # fmt: skip


# --- joined


def test_joined_sources_keep_their_examples(both):
    joined = sources.open_source(split="train", **both)
    folder, table = both["data"].split(",")
    first = sources.open_source(folder, "train", split_lists=f"{folder}/splits")
    second = sources.open_source(table, "train")
    assert joined.source_names == ("named", "asian_faces")
    assert joined.source.tolist() == [0] * 24 + [1] * 21
    assert joined.ids.tolist() == [*first.ids, *second.ids]
    for name in ("age", "gender", "race"):
        expected = np.concatenate([first.labels[name], second.labels[name]])
        np.testing.assert_array_equal(joined.labels[name], expected)
    assert (joined.labels["race"][24:] == MISSING).all()
    assert joined.read(23) == first.read(23) and joined.read(24) == second.read(0)
    assert joined.read(44) == second.read(20)
    # A selection knows where its examples are from, the digest which are whose.
    assert joined.select([30, 2]).source.tolist() == [1, 0]
    other = dataclasses.replace(joined, source=1 - joined.source)
    assert other.digest() != joined.digest()
    assert joined.select(np.arange(45)[::-1]).digest() == joined.digest()


def test_ids_that_two_sources_use_get_the_name_of_their_source(tmp_path):
    tables = [write_table(tmp_path / name, 4) for name in ("a", "b")]
    joined = sources.open_source(f"{tables[0]},{tables[1]}", "validation")
    assert joined.source_names == ("a_asian_faces", "b_asian_faces")
    assert joined.ids.tolist() == ["a_asian_faces/0.png", "b_asian_faces/0.png"]


def test_a_source_may_lack_a_split_but_not_all_may(tmp_path):
    first = write_table(tmp_path / "a", 4)
    second = write_table(tmp_path / "b", 4, split="train")
    joined = sources.open_source(f"{first},{second}", "validation")
    assert joined.source_names == ("a_asian_faces", "b_asian_faces")
    assert joined.source.tolist() == [0]
    with pytest.raises(SourceError, match="no usable example in 'test'"):
        sources.open_source(f"{first},{second}", "test")


def test_a_comma_in_a_name_is_no_second_source(tmp_path):
    folder = synthetic.write_folder(tmp_path / "faces, all", 4)
    assert len(sources.open_source(folder, "all")) == 4


@pytest.mark.parametrize(
    ("data", "lists", "message"),
    [
        ("a,a", "", "expected different sources.*'a,a'"),
        ("a,", "", "expected different sources"),
        ("a,b", "x", "lists for each of the 2 sources.*got 'x'"),
        ("a,b", "x,y,z", "lists for each of the 2 sources"),
    ],
)
def test_sources_that_cannot_be_told_apart(data, lists, message):
    with pytest.raises(SourceError, match=message):
        sources.listed(data, lists)


# --- in proportion


def test_quotas_are_the_largest_remainders():
    # 10 * (1, 2, 4) / 7 = 1.43, 2.86, 5.71: the two largest remainders get one more.
    assert quotas([1, 2, 4], 10) == [1, 3, 6]
    assert quotas([2, 1], 9) == [6, 3]
    # Nothing that is wanted is left out.
    assert quotas([1, 1000], 10) == [1, 9]
    assert quotas([0, 1], 4) == [0, 4]


def test_an_epoch_takes_the_quotas_and_no_face_twice_before_all_were_seen():
    plan = (
        Stratum("many", np.arange(10), 4),
        Stratum("few", np.arange(10, 13), 5),
    )
    epochs = [epoch_order(plan, seed=1, epoch=e) for e in range(15)]
    for order in epochs:
        assert (order < 10).sum() == 4 and (order >= 10).sum() == 5
    # 5 epochs of 4 show the ten twice each; 3 epochs of 5 the three five times each.
    seen = collections.Counter(np.concatenate(epochs[:5]).tolist())
    assert all(seen[number] == 2 for number in range(10))
    seen = collections.Counter(np.concatenate(epochs[:3]).tolist())
    assert all(seen[number] == 5 for number in (10, 11, 12))
    # Mixed, different each time, and the same again when asked again.
    assert len({tuple(order) for order in epochs}) == 15
    assert epochs[3].tolist() == epoch_order(plan, 1, 3).tolist()
    assert epochs[3].tolist() != epoch_order(plan, 2, 3).tolist()
    assert any((order[:5] < 10).any() and (order[:5] >= 10).any() for order in epochs)


def faces_of(both, config):
    joined = sources.open_source(split="train", **both)
    return proportions.drawn(pipeline.load_faces(joined, 32), config)


def numbers(batches):
    """Ages are told apart by their source: those of the table have no race."""
    return [
        [(float(a), int(r)) for a, r in zip(y["age"], y["race"], strict=True)]
        for _, y in batches.as_numpy_iterator()
    ]


def test_batches_come_in_proportion_and_from_any_step(both, settings):
    faces = faces_of(both, settings)
    # 45 faces an epoch: 15 of the folder, 30 of the table.
    assert [s.quota for s in faces.strata] == [15, 30]
    assert pipeline.steps_per_epoch(faces, 5) == 9
    seen = numbers(pipeline.training_batches(faces, 5, seed=2).take(18))
    missing = [race == MISSING for batch in seen[:9] for _, race in batch]
    assert sum(missing) == 30 and len(missing) == 45
    again = pipeline.training_batches(faces, 5, seed=2, skip_batches=4).take(14)
    assert numbers(again) == seen[4:]
    second = pipeline.training_batches(faces, 5, seed=2, first_epoch=1).take(9)
    assert numbers(second) == seen[9:]


@pytest.mark.parametrize("weights", ["1", "1,2,3", "1,0", "1,inf", "much,little"])
def test_weights_that_are_not_one_for_each_source(both, settings, weights):
    config = dataclasses.replace(settings, data_weights=weights)
    with pytest.raises(ConfigError, match="each source of --data .named, asian_faces"):
        faces_of(both, config)


def test_weights_want_several_sources(both, settings):
    folder = both["data"].split(",")[0]
    alone = {"data": folder, "split_lists": f"{folder}/splits"}
    with pytest.raises(ConfigError, match="each source of --data .one"):
        faces_of(alone, settings)


# --- scored


def test_validation_goes_source_after_source(both):
    joined = sources.open_source(split="validation", **both)
    faces = pipeline.load_faces(joined, 32)
    assert pipeline.source_steps(faces, 5) == {"named": 2, "asian_faces": 2}
    assert pipeline.validation_steps(faces, 5) == 4
    batches = list(pipeline.validation_batches(faces, 5).take(8).as_numpy_iterator())
    ages = [labels["age"].tolist() for _, labels in batches]
    expected = joined.labels["age"].tolist()
    blank = [float(MISSING)]
    assert ages[:2] == [expected[:5], expected[5:8] + 2 * blank]
    assert ages[2:4] == [expected[8:13], expected[13:15] + 3 * blank]
    assert ages[4:] == ages[:4]


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train.train(settings, workdir)
    return workdir


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_each_source_is_scored_by_itself(both, settings, finished):
    """The logged scores are those of the saved network on one source alone."""
    model = checkpoints.load_model(finished, checkpoints.LAST)
    part = sources.open_source(split="validation", **both)
    faces = pipeline.load_faces(part, 32)
    logits = model.predict(faces.images, verbose=0)
    row = rows(finished)[-1]
    for name, chosen in part.by_source().items():
        errors = np.abs(logits["age"][chosen] - part.labels["age"][chosen])
        assert row[f"val_{name}/age_mae"] == pytest.approx(errors.mean(), rel=1e-4)
        right = (logits["gender"][chosen, 0] > 0) == part.labels["gender"][chosen]
        found = row[f"val_{name}/gender_accuracy"]
        assert found == pytest.approx(right.mean(), abs=1e-5)
    assert "val_named/race_accuracy" in row
    assert "val_asian_faces/race_accuracy" not in row
    both_together = np.abs(logits["age"] - part.labels["age"]).mean()
    assert row["val_age_mae"] == pytest.approx(both_together, rel=1e-4)


def test_a_run_says_what_it_trains_on(settings, tmp_path, capsys):
    config = dataclasses.replace(settings, epochs=1, monitor="asian_faces/age_mae")
    train.train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "named: 24 faces, 33% of each epoch; 8 to validate" in printed
    assert "asian_faces: 21 faces, 67% of each epoch; 7 to validate" in printed
    assert "labels age, gender\n" in printed and "race -" in printed
    folder, progress = checkpoints.newest(tmp_path / "run")
    assert progress.best == rows(tmp_path / "run")[0]["val_asian_faces/age_mae"]


def test_an_unknown_source_in_monitor(settings, tmp_path):
    config = dataclasses.replace(settings, monitor="other/age_mae")
    with pytest.raises(ConfigError, match="known are.*asian_faces/age_mae"):
        train.train(config, tmp_path)


def test_a_run_that_is_broken_off_goes_on_to_the_same_network(
    settings, finished, tmp_path, monkeypatch
):
    """SIGTERM in the second epoch, and the same command again."""
    show = callbacks.ProgressBar.on_train_batch_end

    def interrupting(self, batch, logs=None):
        show(self, batch, logs)
        # The twelfth step of 18, the third of the second epoch.
        if self.model.optimizer.iterations == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.ProgressBar, "on_train_batch_end", interrupting)
        with pytest.raises(callbacks.Preempted, match="saved at step 12"):
            train.train(settings, tmp_path / "run")
    model = train.train(settings, tmp_path / "run").model
    expected = checkpoints.load_model(finished, checkpoints.LAST)
    for variable, other in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy(), variable.path)
    last, before = rows(tmp_path / "run")[-1], rows(finished)[-1]
    for name in before:
        if "second" not in name:
            assert last[name] == before[name], name


def test_evaluation_writes_a_report_for_each_source(both, finished, tmp_path, undrawn):
    found = evaluate.evaluate_sources(
        finished, both["data"], "validation", tmp_path,
        split_lists=both["split_lists"],
    )  # fmt: skip
    assert list(found) == ["named", "asian_faces"]
    for name, count in (("named", 8), ("asian_faces", 7)):
        content = json.loads((tmp_path / name / "report.json").read_text())
        assert content["data"]["examples"] == count
        assert found[name]["tasks"] == content["tasks"]
