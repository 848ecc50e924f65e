"""The validation of several sources, each scored by itself."""

from __future__ import annotations

import keras
import numpy as np

from hydranet_tf.data import pipeline
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.tasks import MISSING, score_name


def callbacks(validation: Faces, batch_size: int) -> list[keras.callbacks.Callback]:
    """The callback that scores sources, where there are several."""
    if not validation.examples.source_names:
        return []
    return [SourceScores(validation, batch_size)]


class SourceScores(keras.callbacks.Callback):
    """Adds `val_NAME/SCORE` of each source to the logs of an epoch.

    Validation goes source after source, and its scores are means over what it has
    seen so far: two of them, at the end of one source and of the next, tell the mean
    over the second. So each face is looked at once. Comes before the callbacks that
    read the logs. A source without a label of a task has no such score.

    Args:
        validation: faces of several sources, see `Examples.source_names`.
        batch_size: of the validation.
    """

    def __init__(self, validation: Faces, batch_size: int):
        super().__init__()
        steps = pipeline.source_steps(validation, batch_size)
        ends = np.cumsum(list(steps.values())) - 1
        self._source_at = dict(zip(ends.tolist(), steps, strict=True))
        rows = validation.examples.by_source()
        self._counts = {
            name: {
                task: int(np.sum(values[rows[name]] != MISSING))
                for task, values in validation.examples.labels.items()
            }
            for name in steps
        }
        self._scores = {}

    def on_test_begin(self, logs=None):
        self._scores = {}
        self._sums = {}
        self._seen = {}

    def on_test_batch_end(self, batch, logs=None):
        name = self._source_at.get(batch)
        if name is None:
            return
        for task in self.model.tasks:
            added = self._counts[name].get(task.name, 0)
            if not added:
                continue
            seen = self._seen.get(task.name, 0) + added
            total = float(logs[score_name(task)]) * seen
            score = (total - self._sums.get(task.name, 0.0)) / added
            self._scores[f"{name}/{score_name(task)}"] = score
            self._seen[task.name], self._sums[task.name] = seen, total

    def on_epoch_end(self, epoch, logs=None):
        logs.update((f"val_{name}", score) for name, score in self._scores.items())
