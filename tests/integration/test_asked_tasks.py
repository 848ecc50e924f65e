"""Some of the tasks: what nothing teaches is refused, what is not asked is nowhere."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.evaluation import evaluate
from hydranet_tf.exporting import export
from hydranet_tf.inference import runtimes
from hydranet_tf.photos import predict
from hydranet_tf.training import train
from hydranet_tf.training.callbacks import StopOnNonFinite, TrainingDiverged
from hydranet_tf.training.workdir import WorkdirError

COUNT = 30


def write_table(folder: Path, columns: str, blank: dict | None = None) -> Path:
    """Faces with those columns; in splits that `blank` names, its tasks are blank."""
    rows = zip(*synthetic.labels_of(COUNT), strict=True)
    lines = [f"path,{columns},split"]
    for i, (age, gender, race) in enumerate(rows):
        name = f"{i}.jpg"
        if not (folder / name).exists():
            synthetic.picture(age, gender, race, 32, i).save(folder / name)
        split = "validation" if i < 8 else "train"
        cells = {"age": age, "gender": gender, "race": race}
        cells |= dict.fromkeys((blank or {}).get(split, ()), "")
        lines.append(
            ",".join([name, *(str(cells[c]) for c in columns.split(",")), split])
        )
    path = folder / "faces.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(data, **others) -> TrainingConfig:
    return TrainingConfig(
        **{
            "data": str(data), "backbone": synthetic.stem(), "image_size": 32,
            "epochs": 1, "batch_size": 8, "augmentation": "none", "width": 8, **others,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def ages(tmp_path_factory):
    """A run on ages alone, its report, its exports and a table of predictions."""
    folder = tmp_path_factory.mktemp("ages")
    data = write_table(folder, "age")
    config = settings(data, tasks="age", age_head="distribution")
    train.train(config, folder / "run")
    evaluate.evaluate_model(folder / "run", str(data), "validation", folder / "report")
    export.export_run(
        folder / "run", folder / "out", export.Request(("litert", "preset")),
        report=folder / "report",
    )  # fmt: skip
    predict.predict(
        [str(folder / "0.jpg")], folder / "out" / "hydranet.tflite",
        folder / "rows.csv", detector=None,
    )  # fmt: skip
    return folder


def test_what_is_not_asked_is_nowhere(ages, capsys):
    model = checkpoints.load_model(ages / "run")
    assert set(model.output) == {"age"}
    (row,) = (ages / "run" / "metrics.jsonl").read_text().splitlines()
    assert "val_age_mae" in row and "gender" not in row and "beta" not in row
    report = json.loads((ages / "report" / "report.json").read_text())
    assert list(report["tasks"]) == ["age"]
    for path in ("hydranet.tflite", "preset"):
        loaded = runtimes.load(ages / "out" / path)
        assert [task.name for task in loaded.tasks] == ["age"]
        found = loaded.predictions(np.zeros((2, 32, 32, 3), np.uint8))
        assert set(found) == {"age", "age_low", "age_high"}
    for card in (ages / "out").rglob("MODEL_CARD.md"):
        assert "gender:" not in card.read_text()
    with open(ages / "rows.csv", newline="") as file:
        (face,) = csv.DictReader(file)
    assert face["status"] == "ok" and float(face["age"]) > 0
    assert {face["gender"], face["race"]} == {""}
    predict.predict(
        [str(ages / "0.jpg")], ages / "out" / "hydranet.tflite", detector=None
    )
    line = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r".*0\.jpg: \d+ years \(\d+ to \d+\)", line)


def test_a_task_that_nothing_teaches_is_refused(tmp_path):
    data = write_table(tmp_path, "age,gender", {"train": ["gender"]})
    with pytest.raises(ConfigError, match="label of gender, race.*Give --tasks=age,"):
        train.train(settings(data), tmp_path / "run")
    # The workdir may be used once that is mended.
    train.train(settings(data, tasks="age"), tmp_path / "run")


def test_a_monitor_that_nothing_can_be_told_by_is_refused(tmp_path):
    data = write_table(tmp_path, "age,gender", {"validation": ["gender"]})
    config = settings(data, tasks="age,gender", monitor="gender_accuracy")
    with pytest.raises(ConfigError, match="no face of the validation.*=age_mae"):
        train.train(config, tmp_path / "run")


def test_a_score_without_labels_is_a_dash(tmp_path, capsys):
    data = write_table(tmp_path, "age,gender", {"validation": ["gender"]})
    train.train(settings(data, tasks="age,gender"), tmp_path / "run")
    (row,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert "val_gender_accuracy" not in row and "val_gender_loss" not in row
    assert row["gender_accuracy"] >= 0 and math.isfinite(row["val_loss"])
    printed = capsys.readouterr().out
    assert "gender -" in printed.partition("validation age")[2]


@pytest.mark.parametrize("tasks", ["", "age,age", "age,beauty", "age;gender"])
def test_other_tasks_are_refused(tasks):
    with pytest.raises(ConfigError, match="--tasks must be some of age, gender, race"):
        TrainingConfig(tasks=tasks)


def test_settings_of_tasks_that_are_not_asked(tmp_path):
    with pytest.raises(ConfigError, match="known are gender_accuracy"):
        train.train(TrainingConfig(tasks="gender"), tmp_path / "run")
    with pytest.raises(ConfigError, match="2 numbers"):
        TrainingConfig(tasks="age,race", loss_weights="1,1,1")
    config = TrainingConfig(tasks="race, age", loss_weights="2,1", monitor="age_mae")
    assert [task.name for task in config.asked_tasks()] == ["race", "age"]
    assert config.fixed_loss_weights() == (2, 1)
    assert TrainingConfig(tasks="age").conflicts(config)


def test_validation_that_diverges_stops_the_run(tmp_path):
    callback = StopOnNonFinite({"age_mae": 12000.0})
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": -2.0, "val_race_mae": math.nan})
    for logs in (
        {"val_loss": math.inf},
        {"val_loss": 1.0, "val_age_mae": math.nan},
        {"val_loss": 1.0, "val_age_mae": 12001.0},
    ):
        with pytest.raises(TrainingDiverged, match="in epoch 3.*--learning_rate"):
            callback.on_epoch_end(2, {"loss": 1.0, **logs})
    data = write_table(tmp_path, "age,gender,race")
    others = {"backbone": "tiny", "optimizer": "sgd", "learning_rate": 1e4, "epochs": 3}
    config = settings(data, **others)
    with pytest.raises(TrainingDiverged, match="validation's age_mae became"):
        train.train(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/best-*"))


def test_another_set_of_tasks_is_another_run(ages):
    again = settings(ages / "faces.csv", tasks="age,race", age_head="distribution")
    with pytest.raises(WorkdirError, match="--tasks: 'age' before"):
        train.train(again, ages / "run")
