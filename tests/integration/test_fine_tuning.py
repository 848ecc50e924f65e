"""Fine-tuning: the start counts, small data is used whole, the end says what came."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path

import forks
import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints, heads
from hydranet_tf.config import INHERITED, ConfigError, TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.inference import loading
from hydranet_tf.tasks import DISTRIBUTION, TASKS
from hydranet_tf.training import fine_tuning, initialization, proportions, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 faces in three lists: 24, 8, 8."""
    folder = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 40, side=32)
    return {"data": str(folder), "split_lists": str(folder / "splits")}


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """A run that learned something: epochs of it."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    config = TrainingConfig(
        **data, backbone="tiny", width=8, image_size=32, epochs=3, batch_size=8,
        age_head=DISTRIBUTION, flip_tta=True, optimizer="adamw", learning_rate=2e-3,
        augmentation="none",
    )  # fmt: skip
    train.train(config, workdir)
    return workdir


def tuned(data, base, **changes):
    settings = {**data, "augmentation": "none", "epochs": 2, "start_from": str(base)}
    return TrainingConfig(**{**settings, **initialization.inherited(base), **changes})


def log(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_start_brings_what_it_knows(base, tmp_path):
    expected = {
        "backbone": "tiny", "width": 8, "image_size": 32, "tasks": "age,gender,race",
        "age_head": DISTRIBUTION, "flip_tta": True,
    }  # fmt: skip
    assert initialization.inherited(base) == expected and set(expected) == set(
        INHERITED
    )
    checkpoints.load_model(base).save_to_preset(tmp_path / "preset", {})
    assert initialization.inherited(tmp_path / "preset") == expected
    assert initialization.inherited("") == initialization.inherited(tmp_path) == {}


def test_the_start_is_epoch_0_and_stays_best_where_nothing_is_better(
    data, base, tmp_path, capsys
):
    # A rate that spoils the network.
    config = tuned(
        data, base, optimizer="sgd", learning_rate=30.0, loss_weights="1,1,1"
    )
    config = dataclasses.replace(config, gradient_clip_norm=1.0, momentum=0.0)
    train.train(config, tmp_path / "run")
    rows = log(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    part = sources.open_source(split="validation", **data)
    faces = pipeline.load_faces(part, 32)
    network = checkpoints.load_model(base)
    network.compile(metrics=train.task_metrics(network.tasks))
    batches = pipeline.evaluation_batches(faces, 8)
    scores = network.evaluate(batches, verbose=0, return_dict=True)
    for name in ("age_mae", "gender_accuracy", "race_accuracy"):
        assert rows[0][f"val_{name}"] == pytest.approx(scores[name], rel=1e-4)
    assert all(row["val_age_mae"] > rows[0]["val_age_mae"] for row in rows[1:])
    folder, progress = checkpoints.newest(tmp_path / "run")
    assert folder.name == "best-00000000"
    assert progress.best == rows[0]["val_age_mae"]
    best = checkpoints.load_model(tmp_path / "run")
    for variable, other in zip(
        best.network.weights, network.network.weights, strict=True
    ):
        np.testing.assert_array_equal(variable, other)
    printed = capsys.readouterr().out
    assert "epoch 0, the start | validation age" in printed
    assert "best by age_mae: the start. None of 2 epochs was better" in printed
    assert "gain" not in printed
    # It takes the faces that the run validated on: see test_evaluation.py.
    output = tmp_path / "run" / "report"
    command = f"next: python evaluate.py --model={tmp_path / 'run'} --output={output}"
    assert command in printed.splitlines()


def test_the_end_says_what_was_gained(data, base, tmp_path, capsys):
    config = tuned(data, base, epochs=4, optimizer="adamw", learning_rate=3e-3)
    train.train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    best = min(log(tmp_path / "run"), key=lambda row: row["val_age_mae"])
    assert best["epoch"] > 0, "the test wants a run that gains"
    assert f"best by age_mae: epoch {best['epoch']} of 4" in printed
    assert f"after : age_mae {best['val_age_mae']:.2f} (" in printed
    gain = log(tmp_path / "run")[0]["val_age_mae"] - best["val_age_mae"]
    assert f"gain  : age_mae {gain:+.2f} (" in printed
    assert "only 8 faces to validate" in printed and "--folds=5" in printed
    assert "every layer learns" in printed and "--freeze=backbone" in printed
    # Again, and nothing is trained or scored anew.
    train.train(config, tmp_path / "run")
    assert [row["epoch"] for row in log(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_intervals_of_a_comparison():
    """Paired: the same gain for each face has no width, whatever the faces' spread."""
    before = {"age_mae": np.array([10.0, 2.0, np.nan, 6.0]),
              "gender_accuracy": np.array([0.0, 1.0, 1.0, np.nan])}  # fmt: skip
    after = {"age_mae": before["age_mae"] - 1, "gender_accuracy": np.ones(4)}
    lines = fine_tuning.compared(before, after)
    assert lines[0].startswith("before: age_mae 6.00 (")
    assert lines[1].startswith("after : age_mae 5.00 (")
    assert lines[1].endswith("gender_accuracy 100.00 (100.00 to 100.00)")
    assert lines[2].startswith("gain  : age_mae +1.00 (+1.00 to +1.00), ")
    # One of three was mended.
    assert "gender_accuracy +33.33 (+0.00 to +100.00)" in lines[2]


# --- small data


@pytest.mark.parametrize(
    ("count", "replicas", "expected"),
    [
        (2, 1, 2),
        (46, 1, 8),
        (100, 1, 12),
        (256, 1, 32),
        (17000, 1, 32),
        (100, 8, 8),
        (20, 4, 8),
    ],
)
def test_a_batch_suits_the_number_of_faces(count, replicas, expected):
    assert fine_tuning.sized_batch(count, replicas) == expected


def numbered(count):
    examples = sources.Examples(
        np.array([f"{i}" for i in range(count)]),
        {"age": np.arange(count, dtype=np.float32)},
        lambda i: b"",
    )
    images = np.zeros((count, 8, 8, 3), np.uint8)
    return pipeline.Faces(examples, 8, images, ())


@pytest.mark.parametrize(("count", "batch"), [(46, 8), (60, 32), (33, 32), (48, 8)])
def test_no_face_of_a_small_set_is_dropped(count, batch):
    config = TrainingConfig(backbone="tiny", batch_size=batch)
    faces = proportions.drawn(numbered(count), config)
    steps = pipeline.steps_per_epoch(faces, batch)
    assert steps == -(-count // batch)
    batches = pipeline.training_batches(faces, batch, seed=3).take(3 * steps)
    epochs = [[], [], []]
    for i, (_, labels) in enumerate(batches.as_numpy_iterator()):
        epochs[i // steps] += labels["age"].tolist()
    seen = collections.Counter()
    for number, epoch in enumerate(epochs):
        seen.update(epoch)
        assert number or set(epoch) == set(range(count))
    # After three epochs no face was seen twice more than another.
    assert max(seen.values()) - min(seen.values()) <= 1


def test_an_epoch_of_many_batches_is_as_ever():
    config = TrainingConfig(backbone="tiny", batch_size=8)
    assert not proportions.drawn(numbered(161), config).strata


# --- freezing


@pytest.mark.parametrize("part", ["backbone", "0.5"])
def test_what_is_frozen_stays_and_the_rest_learns(data, base, tmp_path, part, capsys):
    config = tuned(data, base, freeze=part, epochs=1, learning_rate=1e-2)
    model = train.train(config, tmp_path / "run").model
    assert "every layer learns" not in capsys.readouterr().out
    before = {v.path: v for v in checkpoints.load_model(base).network.weights}
    headed = {layer for task in TASKS for layer in heads.of(task).layer_names}
    changed = {
        v.path.split("/")[0]
        for v in model.network.weights
        if not np.array_equal(v, before[v.path])
    }
    assert headed <= changed
    layers = [
        x.name for x in model.network.layers if x.weights and x.name not in headed
    ]
    frozen = layers if part == "backbone" else layers[: round(len(layers) / 2)]
    # Moving statistics of normalisation included.
    assert changed.isdisjoint(frozen)
    assert part == "backbone" or changed >= set(layers) - set(frozen)
    # It stays so where the run is loaded and resumed.
    loaded = checkpoints.load_model(tmp_path / "run", checkpoints.LAST)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    again = train.train(dataclasses.replace(config, epochs=2), tmp_path / "run").model
    for variable in again.network.weights:
        if variable.path.split("/")[0] in frozen:
            np.testing.assert_array_equal(variable, before[variable.path])


@pytest.mark.parametrize("part", ["heads", "1.5", "-1"])
def test_what_cannot_be_frozen(part):
    with pytest.raises(ConfigError, match="--freeze must be backbone, or from 0 to 1"):
        TrainingConfig(freeze=part)


# --- cross-validation


def test_folds_score_every_face_by_a_network_that_has_not_seen_it(
    data, base, tmp_path, capsys
):
    config = tuned(data, base, epochs=1, learning_rate=1e-3)
    found = train.cross_validate(config, tmp_path / "runs", 4)
    parts = []
    for fold in range(1, 5):
        run = json.loads((tmp_path / "runs" / f"fold_{fold}" / "run.json").read_text())
        parts.append((run["data"]["train"]["examples"],
                      run["data"]["validation"]["examples"]))  # fmt: skip
    # 24 and 8 faces; those of test are left alone.
    assert parts == [(24, 8)] * 4
    rows = [log(tmp_path / "runs" / f"fold_{i}") for i in range(1, 5)]
    best = [min(r["val_age_mae"] for r in rows_of_one) for rows_of_one in rows]
    assert found["age_mae"] == pytest.approx(np.mean(best), rel=1e-4)
    printed = capsys.readouterr().out
    assert "32 faces, each scored by the one of 4 networks" in printed
    assert f"after : age_mae {found['age_mae']:.2f}" in printed
    with pytest.raises(ConfigError, match="--folds: expected 2 to 32"):
        train.cross_validate(config, tmp_path / "more", 33)


def test_folds_need_no_validation_part(data, base, tmp_path):
    """Faces that are all for training are divided; none at all is an error."""
    names = sorted(path.name for path in Path(data["data"]).glob("*.jpg"))[:12]
    rows = [f"{data['data']}/{name},{name.split('_')[0]},train" for name in names]
    table = tmp_path / "faces.csv"
    table.write_text("path,age,split\n" + "\n".join(rows))
    config = tuned({"data": str(table)}, base, tasks="age", epochs=1)
    faces = train.load(config, ("train", "validation"))
    assert sorted(map(Path, faces.examples.ids)) == sorted(
        Path(row.split(",")[0]) for row in rows
    )
    with pytest.raises(sources.SourceError, match="no usable example in 'validation'"):
        train.load(config, ("test", "validation"))


def test_each_of_a_chain_thaws_more_and_begins_at_the_best_of_the_one_before(
    data, base, tmp_path
):
    """docs/fine_tuning.md: the heads alone, then the end of the backbone, then all."""
    start, trained = base, []
    for number, part in enumerate(("backbone", "0.7", "")):
        config = tuned(data, start, freeze=part, epochs=1, learning_rate=1e-3)
        workdir = tmp_path / str(number)
        model = train.train(config, workdir).model
        best = checkpoints.load_model(start)
        first = np.load(workdir / "start_scores.npz")["age_mae"].mean()
        lists = {"split_lists": data["split_lists"]}
        held = pipeline.load_faces(
            sources.open_source(data["data"], "validation", **lists), 32
        )
        expected = fine_tuning.example_scores(best, held, 8)["age_mae"].mean()
        assert first == pytest.approx(expected, abs=1e-4)
        trained.append(len(model.network.trainable_variables))
        start = workdir
    assert trained == sorted(set(trained))
    assert trained[-1] == len(best.network.weights) - sum(
        "moving" in v.path for v in best.network.weights
    )


def test_folds_get_as_many_of_each_class():
    faces = numbered(20)
    faces.examples.labels["race"] = np.array([0] * 10 + [3] * 10, np.int32)
    numbers = train._fold_numbers(faces, 5, seed=1)
    for fold in range(5):
        assert (numbers[:10] == fold).sum() == (numbers[10:] == fold).sum() == 2
    assert (train._fold_numbers(faces, 5, seed=2) != numbers).any()


@pytest.mark.long
def test_the_command_takes_settings_from_the_start(data, base, tmp_path):
    done = forks.run(
        ["train.py", f"--data={data['data']}", f"--split_lists={data['split_lists']}",
         f"--start_from={base}", "--epochs=1", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: config[name] for name in INHERITED} == initialization.inherited(base)


def test_a_released_network_goes_by_its_name(tmp_path, monkeypatch):
    """From any folder; a folder of that name comes first."""
    monkeypatch.chdir(tmp_path)
    brought = initialization.inherited(loading.DEFAULT)
    assert brought["backbone"] == "dlib_resnet29"
    assert brought == initialization.inherited(loading.released_preset(loading.DEFAULT))
    (tmp_path / loading.DEFAULT).mkdir()
    assert initialization.inherited(loading.DEFAULT) == {}
