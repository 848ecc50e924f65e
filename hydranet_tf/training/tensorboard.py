"""The curves of a run for TensorBoard: a picture of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras
import tensorflow as tf

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
