"""How much of an epoch each of several sources is: --data_weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.strata import Stratum, quotas
from hydranet_tf.tasks import MISSING, TASKS

# An epoch of more loses at most a twentieth of the faces to the last batch.
_FEW_BATCHES = 20


def drawn(faces: Faces, config: TrainingConfig) -> Faces:
    """The faces with the strata that the settings ask for, one for each source.

    An epoch stays as long as all faces together; a source takes its part of it.

    Raises:
        ConfigError: if the weights are not one positive number for each source, or
            one of the sources has no face to train on.
    """
    if not config.data_weights:
        return _rounded_up(faces, config.batch_size)
    parts = faces.examples.by_source()
    try:
        weights = [float(text) for text in config.data_weights.split(",")]
    except ValueError:
        weights = []
    usable = all(0 < weight < math.inf for weight in weights)
    if len(weights) != len(parts) or not usable:
        raise ConfigError(
            "--data_weights: expected a number above 0 for each source of --data "
            f"({', '.join(parts) or 'one'}), joined by commas; got "
            f"{config.data_weights!r}"
        )
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        raise ConfigError(
            f"--data_weights: {', '.join(empty)} has no face to train on; leave it out "
            "of --data and --data_weights"
        )
    counts = quotas(weights, len(faces))
    strata = tuple(
        Stratum(name, rows, count)
        for (name, rows), count in zip(parts.items(), counts, strict=True)
    )
    return dataclasses.replace(faces, strata=strata)


def _rounded_up(faces: Faces, batch_size: int) -> Faces:
    """Where an epoch has few batches: filled up, so that it leaves out no face.

    What fills the last batch is another part of the faces in each epoch.
    """
    count = len(faces)
    if not batch_size <= count < _FEW_BATCHES * batch_size or not count % batch_size:
        return faces
    quota = math.ceil(count / batch_size) * batch_size
    everyone = Stratum("all", np.arange(count), quota)
    return dataclasses.replace(faces, strata=(everyone,))


def lines(training: Faces, validation: Faces) -> list[str]:
    """What the start of a run prints of its sources, one line each."""
    by_source = training.examples.by_source()
    counts = {name: len(rows) for name, rows in by_source.items()}
    taken = counts | {s.name: s.quota for s in training.strata if s.name in counts}
    total = sum(taken.values())
    validated = validation.examples.by_source()
    return [
        f"  {name}: {counts[name]:,} faces, {taken[name] / total:.0%} of each epoch; "
        f"{len(validated[name]):,} to validate; labels "
        f"{_labelled(training, rows) or 'none'}"
        for name, rows in by_source.items()
    ]


def _labelled(faces: Faces, rows: np.ndarray) -> str:
    labels = faces.examples.labels
    return ", ".join(
        task.name
        for task in TASKS
        if task.name in labels and (labels[task.name][rows] != MISSING).any()
    )
