"""The curves of a run for TensorBoard: a picture of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from hydranet_tf.data import decoding, pipeline
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.training import optimizers
from hydranet_tf.worst_predictions import format_prediction, worst

_FOLDER = "tensorboard"
_VALIDATION = "val_"


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
        self.folder = workdir / _FOLDER
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


# Faces of the validation part that a run answers worst, for TensorBoard.
#
# They show early what a score hides: wrong labels, bad crops, a group that is not
# understood. They are the data owner's pictures in the run's own folder.


# One more pass over the validation part each time.
EVERY = 5
SHOWN = 16

_WORST_FOLDER = Path("tensorboard", "largest_errors")
_ACROSS = 8
_SIDE, _TEXT, _GAP = 120, 15, 6
_INK, _SOFT, _PAPER = "#222222", "#5A5A5A", "#FFFFFF"


class WorstFaces(keras.callbacks.Callback):
    """Every `EVERY` epochs a picture a task: its worst answers, label and answer below.

    Args:
        workdir: of the run.
        faces: of the validation part.
        batch_size: faces that are answered at once.
    """

    def __init__(self, workdir: Path, faces: Faces, batch_size: int):
        super().__init__()
        self.folder = workdir / _WORST_FOLDER
        self.faces = faces
        self.batch_size = batch_size
        self._inference_model = None
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % EVERY:
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
        draw.text((x, y + _SIDE + 2 + _TEXT), f"answer {prediction}", _INK, font)
    return picture
