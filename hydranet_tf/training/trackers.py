"""The curves of a run: for TensorBoard, Weights & Biases or MLflow.

TensorBoard's are a picture of metrics.jsonl. The other two have Keras callbacks of
their own and their own settings in the environment, which count here: where a run goes
(`WANDB_MODE`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`) and who
may write there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import decoding, pipeline
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.io import atomic
from hydranet_tf.training import optimizers, strategies
from hydranet_tf.worst_predictions import format_prediction, worst

WANDB, MLFLOW = "wandb", "mlflow"
NAMES = (WANDB, MLFLOW)
# In the workdir: under which id the tracker knows the run, so that it goes on there
# when it is resumed.
FILE = "tracker.json"
_PROJECT = "hydranet"

_CURVES = "tensorboard"
_VALIDATION = "val_"

# Epochs between two pictures of the worst faces: one more pass over the validation part
# each time.
WORST_EVERY = 5
SHOWN = 16
_WORST_FOLDER = Path(_CURVES, "largest_errors")
_ACROSS = 8
_SIDE, _TEXT, _GAP = 120, 15, 6
_INK, _SOFT, _PAPER = "#222222", "#5A5A5A", "#FFFFFF"


class Curves(keras.callbacks.Callback):
    """Draws what the log holds, then every epoch that joins it.

    Event files only grow, and each start of a run makes new ones: after a kill
    they hold epochs that the log has dropped, and after a hundred restarts there
    are two hundred of them. So a start removes them and draws the log again. Not
    Keras' callback, whose files cannot be written for an epoch that is past.

    Args:
        workdir: of the run.
        logged: gives the rows of the log so far, see `callbacks.logged`.
    """

    def __init__(self, workdir: Path, logged: Callable[[], Iterable[Mapping]]):
        super().__init__()
        self.folder = workdir / _CURVES
        self.logged = logged
        self._writers = {}

    def on_train_begin(self, logs=None):
        self.on_train_end()
        for part in ("train", "validation"):
            folder = self.folder / part
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writers[part] = tf.summary.create_file_writer(str(folder))
        for row in self.logged():
            values = {k: v for k, v in row.items() if k not in ("epoch", "step")}
            self._draw(row["epoch"] - 1, values)

    def on_epoch_end(self, epoch, logs=None):
        self._draw(epoch, logs or {})

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()

    def _draw(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            part = "validation" if name.startswith(_VALIDATION) else "train"
            with self._writers[part].as_default():
                tag = f"epoch_{name.removeprefix(_VALIDATION)}"
                tf.summary.scalar(tag, float(value), step=epoch)
        for writer in self._writers.values():
            writer.flush()


class WorstFaces(keras.callbacks.Callback):
    """Every `WORST_EVERY` epochs a picture a task, for TensorBoard: its worst faces.

    Each has its label and the prediction below it. They show early what a score hides:
    wrong labels, bad crops, a group that is not understood. They are the data owner's
    pictures in the run's own folder.

    Args:
        workdir: of the run.
        faces: of the validation part.
        batch_size: faces that are predicted at once.
    """

    def __init__(self, workdir: Path, faces: Faces, batch_size: int):
        super().__init__()
        self.folder = workdir / _WORST_FOLDER
        self.faces = faces
        self.batch_size = batch_size
        self._inference_model = None
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % WORST_EVERY:
            return
        with optimizers.averaged(self.model):
            predictions = self._predictions()
        # Made late: a start that ends before the first pictures leaves no file.
        self._writer = self._writer or tf.summary.create_file_writer(str(self.folder))
        with self._writer.as_default():
            for task in self.model.tasks:
                labels = self.faces.examples.labels.get(task.name)
                if labels is None:
                    continue
                rows = worst(task, labels, predictions[task.name], SHOWN)
                if len(rows):
                    captions = [
                        (
                            format_prediction(task, labels[row]),
                            format_prediction(task, predictions[task.name][row]),
                        )
                        for row in rows
                    ]
                    title = f"{task.name}, after epoch {epoch + 1}, worst first"
                    picture = grid([self._image(row) for row in rows], captions, title)
                    tf.summary.image(task.name, np.asarray(picture)[None], step=epoch)
        # Whole whenever the run may end.
        self._writer.flush()

    def _predictions(self) -> dict[str, np.ndarray]:
        # Once: each would be compiled anew.
        self._inference_model = self._inference_model or self.model.inference_model()
        # All of one size, so that nothing is compiled for a last smaller one.
        batches = pipeline.validation_batches(self.faces, self.batch_size, False)
        batches = batches.take(math.ceil(len(self.faces) / self.batch_size))
        parts = [
            self._inference_model.predict_on_batch(images)
            for images, _ in batches.as_numpy_iterator()
        ]
        return {
            name: np.concatenate([part[name] for part in parts])[: len(self.faces)]
            for name in parts[0]
        }

    def _image(self, row: int) -> np.ndarray:
        if self.faces.images is not None:
            return self.faces.images[row]
        encoded = self.faces.examples.read(int(row))
        return decoding.decode_and_resize(encoded, self.faces.image_size)


def grid(
    images: Sequence[np.ndarray], captions: Sequence[tuple[str, str]], title: str
) -> Image.Image:
    """Images row by row, each with its label and the prediction below it.

    Args:
        images: uint8 `[side, side, 3]`.
        captions: of each image its label and the prediction, in words.
        title: stands above, with what a label is.
    """
    across = min(_ACROSS, len(images))
    wide, high = _SIDE + _GAP, _SIDE + 2 * _TEXT + 2 * _GAP
    down = math.ceil(len(images) / across)
    head = 2 * _TEXT + 2 * _GAP
    font = ImageFont.load_default(12)
    lines = f"{title}\nlabel: what annotators saw in the picture"
    drawn = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(
        across * wide, math.ceil(drawn.multiline_textbbox((0, 0), lines, font)[2])
    )
    picture = Image.new("RGB", (width + _GAP, head + down * high), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((_GAP, _GAP), lines, _INK, font)
    for i, (image, (label, prediction)) in enumerate(
        zip(images, captions, strict=True)
    ):
        x, y = _GAP + i % across * wide, head + i // across * high
        face = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        picture.paste(face, (x, y))
        draw.text((x, y + _SIDE + 2), f"label {label}", _SOFT, font)
        draw.text((x, y + _SIDE + 2 + _TEXT), f"prediction {prediction}", _INK, font)
    return picture


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
    if strategies.from_environment():
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
