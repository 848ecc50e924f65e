"""The curves of a run for Weights & Biases or MLflow, by their own Keras callbacks.

Each package has its own settings in the environment, and they count here: where a run
goes (`WANDB_MODE`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`)
and who may write there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import keras

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.io import atomic
from hydranet_tf.training import cluster

WANDB, MLFLOW = "wandb", "mlflow"
NAMES = (WANDB, MLFLOW)
# In the workdir: under which id the tracker knows the run, so that it goes on there
# when it is resumed.
FILE = "tracker.json"
_PROJECT = "hydranet"


@contextlib.contextmanager
def started(
    name: str, config: TrainingConfig, workdir: Path
) -> Iterator[list[keras.callbacks.Callback]]:
    """Begins a run of a tracker, or goes on with that of the workdir; ends it after.

    Args:
        name: of `NAMES`.
        config: kept as the run's parameters.
        workdir: its last part is the run's name.

    Yields:
        Callbacks for `train`.

    Raises:
        ImportError: if the tracker's package is not installed.
        ConfigError: in a process that is one of several workers.
    """
    if cluster.from_environment():
        raise ConfigError(
            "--tracker: expected a run of one process; this is one of several workers "
            "(TF_CONFIG). Their curves are in the workdir: TensorBoard draws them"
        )
    run = {WANDB: _wandb, MLFLOW: _mlflow}[name]
    with run(config, workdir, _known(name, workdir)) as (key, callback):
        yield [_Remember(workdir, {name: key}), callback]


def _known(name: str, workdir: Path) -> str | None:
    path = workdir / FILE
    return json.loads(path.read_text()).get(name) if path.exists() else None


class _Remember(keras.callbacks.Callback):
    """Keeps the run's id in the workdir, which is there when training begins."""

    def __init__(self, workdir: Path, key: dict[str, str]):
        super().__init__()
        self._path, self._text = workdir / FILE, json.dumps(key)

    def on_train_begin(self, logs=None):
        atomic.write_text(self._path, self._text)


@contextlib.contextmanager
def _wandb(config: TrainingConfig, workdir: Path, known: str | None) -> Iterator[tuple]:
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    run = wandb.init(
        id=known,
        resume="allow" if known else None,
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        name=workdir.resolve().name,
        config=dataclasses.asdict(config),
    )
    with run:
        yield run.id, WandbMetricsLogger()


@contextlib.contextmanager
def _mlflow(
    config: TrainingConfig, workdir: Path, known: str | None
) -> Iterator[tuple]:
    import mlflow
    from mlflow.keras import MlflowCallback

    if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
        mlflow.set_experiment(_PROJECT)
    with mlflow.start_run(run_id=known, run_name=workdir.resolve().name) as run:
        # MLflow refuses other values for those of a run that goes on, as of --epochs.
        if not known:
            mlflow.log_params(dataclasses.asdict(config))
        yield run.info.run_id, MlflowCallback()
        # Metrics are sent beside the training.
        mlflow.flush_async_logging()
