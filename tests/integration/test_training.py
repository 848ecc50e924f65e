"""Training runs: what they write, resume, refuse and learn."""

import contextlib
import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.heads import task_metrics
from hydranet_tf.tasks import TASKS
from hydranet_tf.training import train
from hydranet_tf.training.callbacks import ProgressBar, TrainingDiverged
from hydranet_tf.training.workdir import WorkdirError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 60, side=32)


@pytest.fixture(scope="module")
def settings(folder):
    return TrainingConfig(
        data=str(folder),
        split_lists=str(folder / "splits"),
        backbone=synthetic.stem(),
        image_size=32,
        epochs=2,
        batch_size=12,
        optimizer="adamw",
        learning_rate=1e-3,
    )


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    """The workdir of a finished run of two epochs, and what the run printed."""
    workdir = tmp_path_factory.mktemp("finished")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train.train(settings, workdir)
    return workdir, printed.getvalue()


@pytest.fixture(scope="module")
def finished(first):
    return first[0]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, for tests that change it."""
    return shutil.copytree(finished, tmp_path / "run")


def log(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Seen(keras.callbacks.Callback):
    """Notes what a callback of one's own is told, and what is on disk by then."""

    def __init__(self, workdir):
        super().__init__()
        self.workdir, self.epochs, self.checkpoints = Path(workdir), [], []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, logs["val_age_mae"]))
        saved = self.workdir.glob("checkpoints/last-*")
        self.checkpoints.append(sorted(path.name for path in saved))


@pytest.fixture(scope="module")
def longer(settings, finished, tmp_path_factory):
    """A copy of the run after the same command, and after one for a third epoch.

    Between the two its log got lines that belong to no checkpoint.
    """
    workdir = shutil.copytree(finished, tmp_path_factory.mktemp("longer") / "run")
    train.train(settings, workdir)
    rows = log(workdir)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 9}\n{"epoch": 4, "st')
    settings, seen = dataclasses.replace(settings, epochs=3), Seen(workdir)
    history = train.train(settings, workdir, callbacks=[seen])
    return SimpleNamespace(
        workdir=workdir, settings=settings, before=rows, seen=seen, history=history
    )


def test_callbacks_are_called_and_the_history_is_of_the_whole_run(longer):
    run, seen, history = longer.workdir, longer.seen, longer.history
    rows = log(run)
    assert history.epoch == [0, 1, 2]
    assert history.history["val_age_mae"] == [row["val_age_mae"] for row in rows]
    assert "epoch" not in history.history
    assert history.model.count_params() > 0
    # Of the third epoch alone, and before its checkpoint.
    assert seen.epochs == [(2, pytest.approx(rows[2]["val_age_mae"]))]
    (names,) = seen.checkpoints
    steps = [int(name.partition("-")[2]) for name in names]
    assert max(steps) == checkpoints.newest(run, "last")[1].step * 2 // 3
    # A run that has ended says the same.
    assert train.train(longer.settings, run).history == history.history


def test_a_run_writes_what_is_needed_to_repeat_it(settings, first):
    workdir, printed = first
    assert TrainingConfig.from_json((workdir / "config.json").read_text()) == settings
    run = json.loads((workdir / "run.json").read_text())
    part = sources.open_source(settings.data, "train", split_lists=settings.split_lists)
    assert run["data"]["train"]["digest"] == part.digest()
    assert run["data"]["train"]["examples"] == len(part) == 36
    assert run["versions"]["keras"] == keras.__version__
    rows = log(workdir)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [3, 6]
    for name in ("loss", "age_mae", "val_age_mae", "val_race_accuracy", "alpha",
                 "beta", "gamma", "learning_rate", "images_per_second"):  # fmt: skip
        assert all(math.isfinite(row[name]) for row in rows), name
    found = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert {"last-00000003", "last-00000006"} <= found
    assert "epoch 2/2" in printed and "alpha" in printed and "img/s" in printed


def test_tensorboard_shows_the_task_weights(finished):
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(
        str(finished / "tensorboard" / "train"), size_guidance={"tensors": 0}
    )
    events.Reload()
    tags = events.Tags()["tensors"]
    for name in ("epoch_alpha", "epoch_beta", "epoch_gamma", "epoch_age_mae"):
        assert len(events.Tensors(name)) == 2 and name in tags


def test_logged_scores_are_those_of_the_checkpoint(settings, finished):
    model = checkpoints.load_model(finished, checkpoints.LAST)
    part = sources.open_source(
        settings.data, "validation", split_lists=settings.split_lists
    )
    faces = pipeline.load_faces(part, 32)
    logits = model.predict(faces.images, verbose=0)
    error = np.abs(logits["age"] - part.labels["age"]).mean()
    right = (logits["race"].argmax(-1) == part.labels["race"]).mean()
    row = log(finished)[-1]
    assert row["val_age_mae"] == pytest.approx(error, rel=1e-4)
    assert row["val_race_accuracy"] == pytest.approx(right, rel=1e-4)
    assert row["alpha"] == pytest.approx(model.task_weights()["alpha"])


def test_finished_run_is_not_trained_again_unless_longer(longer):
    assert len(longer.before) == 2
    assert [row["step"] for row in log(longer.workdir)] == [3, 6, 9]


def test_a_rate_that_jumps_is_said(settings, tmp_path, capsys):
    """At the end of a cosine it is 0, in the middle of a longer one half."""
    settings = dataclasses.replace(settings, epochs=1, schedule="cosine")
    train.train(settings, tmp_path)
    train.train(settings, tmp_path)
    assert "learning rate goes on" not in capsys.readouterr().out
    train.train(dataclasses.replace(settings, epochs=2), tmp_path)
    assert "goes on at 0.0005, and was 0 before" in capsys.readouterr().out


def test_a_loss_below_0_is_explained_once(capsys):
    bar = ProgressBar(epochs=3, batch_size=8)
    bar.set_model(SimpleNamespace(tasks=[], task_weights=dict))
    bar.set_params({"steps": 1})
    for epoch, loss in enumerate((0.5, -6.7, -6.8)):
        bar.on_epoch_begin(epoch)
        bar.on_epoch_end(epoch, {"loss": loss, "seconds": 1, "images_per_second": 8})
    printed = capsys.readouterr().out
    assert printed.count("a loss below 0 is right") == 1
    assert printed.index("epoch 2/3") < printed.index("below 0") < printed.index("3/3")


def test_log_lines_after_the_checkpoint_are_dropped(longer):
    rows = log(longer.workdir)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert "loss" in rows[-1]


def test_other_settings_do_not_touch_a_workdir(settings, run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    other = dataclasses.replace(settings, learning_rate=5e-4)
    with pytest.raises(WorkdirError, match="--learning_rate: 0.001 before"):
        train.train(other, run)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_other_data_do_not_resume_a_run(settings, run, tmp_path):
    folder = synthetic.write_folder(tmp_path / "others", 60, side=32, seed=9)
    moved = dataclasses.replace(
        settings, data=str(folder), split_lists=str(folder / "splits"), epochs=3
    )
    with pytest.raises(WorkdirError, match="not what this run began with"):
        train.train(moved, run)


def test_folder_with_other_things_is_refused(settings, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(WorkdirError, match="not empty"):
        train.train(settings, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_workdir_that_cannot_be_written(settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError, match="cannot write to workdir"):
        train.train(settings, tmp_path / "file" / "run")


def test_unknown_monitor_names_the_known(settings, tmp_path):
    with pytest.raises(ConfigError, match="age_mae, gender_accuracy"):
        train.train(dataclasses.replace(settings, monitor="beauty"), tmp_path)


def test_diverged_run_says_where_and_keeps_its_checkpoint(settings, run):
    # A label that no reading lets through, so that epoch 3 meets no number.
    settings = dataclasses.replace(settings, epochs=4)
    part = sources.open_source(settings.data, "train", split_lists=settings.split_lists)
    poisoned = {**part.labels, "age": np.full(len(part), np.inf, "float32")}
    load = train.load

    def poison(config, splits):
        faces = load(config, splits)
        if splits == ["validation"]:
            return faces
        examples = dataclasses.replace(faces.examples, labels=poisoned)
        object.__setattr__(examples, "digest", part.digest)
        return dataclasses.replace(faces, examples=examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load", poison)
        with pytest.raises(TrainingDiverged, match="became inf at step 7"):
            train.train(settings, run)
    assert len(log(run)) == 2
    model = train.train(settings, run).model
    assert [row["epoch"] for row in log(run)] == [1, 2, 3, 4]
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_early_stopping_counts_across_a_resume(settings, tmp_path, monkeypatch):
    # Nothing is ever better than the first epoch.
    monkeypatch.setattr(
        checkpoints, "better", lambda monitor, score, best: best is None
    )
    settings = dataclasses.replace(settings, epochs=2, patience=3)
    train.train(settings, tmp_path)
    train.train(dataclasses.replace(settings, epochs=9), tmp_path)
    assert [row["epoch"] for row in log(tmp_path)] == [1, 2, 3, 4]
    train.train(dataclasses.replace(settings, epochs=9), tmp_path)
    assert len(log(tmp_path)) == 4


def test_32_faces_are_learned_by_heart(tmp_path):
    folder = synthetic.write_folder(tmp_path, 32, side=32)
    faces = pipeline.load_faces(sources.open_source(str(folder), "all"), 32)
    config = TrainingConfig(
        backbone="tiny", image_size=32, augmentation="none", batch_size=32,
        optimizer="adam", learning_rate=3e-3, schedule="cosine", epochs=200,
    )  # fmt: skip
    model = train.build_model(config, faces)
    train.compile_model(model, config, steps_per_epoch=1)
    batches = pipeline.training_batches(faces, 32, seed=0)
    model.fit(batches, steps_per_epoch=200, verbose=0, shuffle=False)
    scores = model.evaluate(
        pipeline.evaluation_batches(faces, 32), return_dict=True, verbose=0
    )
    assert scores["gender_accuracy"] > 0.95
    assert scores["race_accuracy"] > 0.95
    assert scores["age_mae"] < 1


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    # Steps 0, 5, 10, 55 and 100 of ten epochs with ten steps each.
    [
        ("constant", 0.0, (1, 1, 1, 1, 1)),
        ("constant", 1.0, (0, 0.5, 1, 1, 1)),
        ("cosine", 1.0, (0, 0.5, 1, 0.5, 0)),
    ],
)
def test_schedules_by_hand(schedule, warmup, expected):
    config = TrainingConfig(
        schedule=schedule, warmup_epochs=warmup, epochs=10, learning_rate=0.2
    )
    optimizer = train.make_optimizer(config, steps_per_epoch=10)
    found = []
    for step in (0, 5, 10, 55, 100):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate) / 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_decay_shrinks_kernels_and_nothing_else(settings, optimizer):
    config = dataclasses.replace(
        settings, optimizer=optimizer, weight_decay=0.5, learning_rate=0.1
    )
    part = sources.open_source(settings.data, "all")
    model = train.build_model(config, pipeline.load_faces(part, 32))
    train.compile_model(model, config, steps_per_epoch=1)
    # Within the bound of the log-variances.
    for weight in model.trainable_variables:
        weight.assign(np.full(weight.shape, 0.25))
    zeros = [np.zeros(w.shape, "float32") for w in model.trainable_variables]
    model.optimizer.apply(
        [keras.ops.convert_to_tensor(z) for z in zeros], model.trainable_variables
    )
    for weight in model.trainable_variables:
        expected = 0.25 * (0.95 if weight.name == "kernel" else 1.0)
        np.testing.assert_allclose(weight, expected, rtol=1e-6, err_msg=weight.path)


def test_compiled_scores_are_those_of_the_tasks(settings):
    part = sources.open_source(settings.data, "all")
    model = train.build_model(settings, pipeline.load_faces(part, 32))
    train.compile_model(model, settings, steps_per_epoch=1)
    assert set(task_metrics(TASKS)) == set(model.output)
