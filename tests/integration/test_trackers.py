"""--tracker: the curves of a run in Weights & Biases and MLflow, without a server."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
import synthetic
from wandb.proto import wandb_internal_pb2

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 24, side=32)


def train(folder: Path, workdir: Path, *more: str, **environment: str):
    """Runs the command in the folder that holds the workdir."""
    return forks.run(
        [
            ROOT / "train.py", f"--data={folder}",
            f"--split_lists={folder / 'splits'}", "--backbone=tiny", "--image_size=32",
            "--batch_size=12", f"--workdir={workdir}", *more,
        ],
        cwd=workdir.parent, env={**os.environ, **environment},
    )  # fmt: skip


def logged(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_mlflow_has_the_curves_and_a_resumed_run_goes_on(folder, tmp_path):
    """Each epoch's values as in metrics.jsonl, read from the store's own tables."""
    workdir = tmp_path / "run"
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for epochs in (1, 2):
        done = train(
            folder, workdir, "--tracker=mlflow", f"--epochs={epochs}",
            MLFLOW_TRACKING_URI=store,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    rows = logged(workdir)
    assert len(rows) == 2
    with sqlite3.connect(tmp_path / "mlflow.db") as tables:
        runs = tables.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        metrics = tables.execute("SELECT key, step, value FROM metrics").fetchall()
        params = dict(tables.execute("SELECT key, value FROM params"))
        experiments = [row[0] for row in tables.execute("SELECT name FROM experiments")]
    ((run, name, status),) = runs
    assert (name, status) == ("run", "FINISHED")
    assert json.loads((workdir / "tracker.json").read_text()) == {"mlflow": run}
    assert "hydranet" in experiments
    assert params["backbone"] == "tiny" and params["batch_size"] == "12"
    for key in ("loss", "val_age_mae", "learning_rate", "alpha"):
        curve = {step: value for found, step, value in metrics if found == key}
        assert curve == pytest.approx({i: row[key] for i, row in enumerate(rows)}), key


def test_wandb_has_the_curves_offline(folder, tmp_path):
    workdir = tmp_path / "run"
    done = train(
        folder, workdir, "--tracker=wandb", "--epochs=2",
        WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads((workdir / "tracker.json").read_text())["wandb"]
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb")
    history, config = records(file)
    rows = logged(workdir)
    assert [row["epoch/epoch"] for row in history] == [0, 1]
    for key in ("loss", "val_age_mae", "alpha"):
        found = [row[f"epoch/{key}"] for row in history]
        assert found == pytest.approx([row[key] for row in rows]), key
    assert config["backbone"] == "tiny" and config["epochs"] == 2


def chunks(content: bytes) -> Iterator[bytes]:
    """The records of an offline run's file: LevelDB's log format behind 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    place, parts = 7, b""
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        # Whole, or the last part of several.
        if kind in (1, 4):
            yield parts
            parts = b""


def records(file: Path) -> tuple[list[dict], dict]:
    """The rows and the settings in the file of an offline run."""
    history, config = [], {}
    for chunk in chunks(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(chunk)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.history.item:
            history.append(
                {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    return history, config


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_missing_package_is_said_in_one_line(folder, tmp_path, tracker):
    """Before the workdir is made."""
    (tmp_path / f"{tracker}.py").write_text(
        f"raise ModuleNotFoundError('none', name='{tracker}')"
    )
    done = train(
        folder, tmp_path / "run", f"--tracker={tracker}", PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"train.py: the package {tracker} is needed here and not installed: "
        f"pip install 'hydranet_tf[{tracker}]' (in a checkout: '.[{tracker}]')"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "environment", "hint"),
    [
        (["--folds=3"], {}, "expected one run"),
        ([], {"TF_CONFIG": json.dumps({
            "cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]},
            "task": {"type": "worker", "index": 0},
        })}, "one of several workers"),
    ],
)  # fmt: skip
def test_what_it_cannot_follow_is_refused(folder, tmp_path, more, environment, hint):
    done = train(folder, tmp_path / "run", "--tracker=wandb", *more, **environment)
    assert done.returncode == 1 and hint in done.stderr
    assert not (tmp_path / "run").exists()
