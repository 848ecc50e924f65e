"""How often an epoch sees which faces, and how much each counts.

Sources are mixed by `--data_weights`, groups balanced by `--balance`: both by how often
faces are drawn, the second also by weights in the loss (`--balance_by=weights`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data.pipeline import Faces, Stratum, quotas
from hydranet_tf.tasks import MISSING, TASKS, Task

# An epoch of more loses at most a twentieth of the faces to the last batch.
_FEW_BATCHES = 20
# Faces of a group beyond this tell little that the others do not.
_ENOUGH = 1_000
# No face counts more than this many times as much as without balance: a handful of them
# would be learned by heart.
_MOST = 10.0
# Ages are balanced by decade, as the report groups them.
_DECADE = 10
_UNKNOWN = "unknown"


def drawn(faces: Faces, config: TrainingConfig) -> Faces:
    """The faces with the strata or weights that the settings ask for.

    An epoch stays as long as all faces together.

    Raises:
        ConfigError: if the weights are not one positive number for each source, one of
            the sources has no face to train on, or there is nothing to balance.
    """
    parts = _sources(faces, config)
    if not config.balance:
        if not config.data_weights:
            return _rounded_up(faces, config.batch_size)
        return dataclasses.replace(faces, strata=_strata(parts, len(faces)))
    names = group_names(faces, config.balance)
    factors = balanced(names)
    if config.balance_by == "weights":
        weights = np.array([factors[name] for name in names], np.float32)
        # The loss stays as large as it was, on average.
        found = dataclasses.replace(faces, weights=weights / weights.mean())
        if config.data_weights:
            return dataclasses.replace(found, strata=_strata(parts, len(faces)))
        return _rounded_up(found, config.batch_size)
    groups = {}
    for source, (rows, share) in parts.items():
        of_rows = names[rows]
        sums = {
            name: factors[name] * np.sum(of_rows == name)
            for name in dict.fromkeys(of_rows.tolist())
        }
        for name, amount in sums.items():
            title = f"{source} {name}".strip()
            fraction = share * amount / sum(sums.values())
            groups[title] = rows[of_rows == name], fraction
    return dataclasses.replace(faces, strata=_strata(groups, len(faces)))


def group_names(faces: Faces, balance: str) -> np.ndarray:
    """The group of each face, `[n]` texts such as `20-29` or `female, asian`.

    Args:
        faces: to train on.
        balance: names of tasks, joined by commas.

    Raises:
        ConfigError: if a task has no label at all.
    """
    columns = []
    for name in balance.split(","):
        (task,) = (task for task in TASKS if task.name == name.strip())
        labels = faces.examples.labels.get(task.name)
        if labels is None or not (labels != MISSING).any():
            raise ConfigError(f"--balance: no face has a label of {task.name}")
        columns.append([_group(task, label) for label in labels.tolist()])
    return np.array([", ".join(row) for row in zip(*columns, strict=True)])


def balanced(names: Sequence[str]) -> dict[str, float]:
    """What a face of each group counts, by its name; 1 without balance.

    After Cui et al. 2019 ("Class-Balanced Loss Based on Effective Number of Samples",
    CVPR, eq. 3): 1 / E with E = (1 - b^n) / (1 - b) and b = 1 - 1 / 1000, scaled to a
    mean of 1 over the faces, and at most `_MOST`.
    """
    groups, counts = np.unique(names, return_counts=True)
    rest = 1 - 1 / _ENOUGH
    factors = (1 - rest) / (1 - rest**counts)
    factors = factors * counts.sum() / (factors * counts).sum()
    # What capped groups do not get is the others', which may then be capped as well.
    while (factors > _MOST).any():
        factors = np.minimum(factors, _MOST)
        free = factors < _MOST
        left = counts.sum() - (factors * counts)[~free].sum()
        factors[free] *= left / (factors * counts)[free].sum()
    return dict(zip(groups.tolist(), factors.tolist(), strict=True))


def class_weights(
    config: TrainingConfig, labels: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """The class weights that the settings ask for, by task and class.

    Args:
        config: `class_weights` as `race:others=2,black=1.5,gender:balanced`.
        labels: of the training part.

    Raises:
        ConfigError: on another form, or on a task or class that there is not.
    """
    known = {task.name: task for task in config.asked_tasks() if task.classes}
    found, task = {}, None
    for part in filter(None, (p.strip() for p in config.class_weights.split(","))):
        name, colon, rest = part.partition(":")
        if colon:
            task = known.get(name.strip())
        rest = (rest if colon else part).strip()
        if task is not None and rest == "balanced":
            values = labels[task.name]
            names = [task.classes[i] for i in values[values != MISSING]]
            found[task.name] = balanced(names)
            continue
        class_, _, number = rest.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if task is None or class_.strip() not in task.classes or not 0 <= weight < 1e6:
            raise ConfigError(
                "--class_weights: expected TASK:CLASS=NUMBER or TASK:balanced, joined "
                f"by commas, with a TASK out of {', '.join(known)}; got {part!r}"
            )
        found.setdefault(task.name, {})[class_.strip()] = weight
    return found


def lines(training: Faces, validation: Faces, balance: str = "") -> list[str]:
    """What the start of a run prints of its sources and groups, one line each."""
    return [*_source_lines(training, validation), *_group_lines(training, balance)]


def _source_lines(training: Faces, validation: Faces) -> list[str]:
    by_source = training.examples.by_source()
    counts = {name: len(rows) for name, rows in by_source.items()}
    taken = {name: _taken(training, rows) for name, rows in by_source.items()}
    total = sum(taken.values())
    validated = validation.examples.by_source()
    return [
        f"  {name}: {counts[name]:,} faces, {taken[name] / total:.0%} of each epoch; "
        f"{len(validated[name]):,} to validate; labels "
        f"{_labelled(training, rows) or 'none'}"
        for name, rows in by_source.items()
    ]


def _group_lines(training: Faces, balance: str) -> list[str]:
    if not balance:
        return []
    names = group_names(training, balance)
    found = []
    for name in sorted(set(names.tolist())):
        rows = np.flatnonzero(names == name)
        if training.weights is None:
            times = _taken(training, rows) / len(rows)
            effect = f"each seen {times:.2f} times an epoch"
        else:
            times = training.weights[rows].mean()
            effect = f"each counts {times:.2f}"
        share = times * len(rows) / len(names)
        found.append(
            f"  {balance} {name}: {len(rows):,} faces ({len(rows) / len(names):.1%}), "
            f"{effect}, as {share:.1%} would"
        )
    return found


def _taken(faces: Faces, rows: np.ndarray) -> int:
    """How many of these faces an epoch takes; strata are within or around them."""
    if not faces.strata:
        return len(rows)
    # Each face of a stratum is taken as often as the others.
    return round(
        sum(
            stratum.quota * np.isin(stratum.numbers, rows).mean()
            for stratum in faces.strata
        )
    )


def _sources(
    faces: Faces, config: TrainingConfig
) -> dict[str, tuple[np.ndarray, float]]:
    """The faces of each source and its fraction of an epoch, by its name."""
    parts = faces.examples.by_source()
    if not config.data_weights:
        parts = {n: r for n, r in parts.items() if len(r)} or {
            "": np.arange(len(faces))
        }
        return {name: (rows, len(rows) / len(faces)) for name, rows in parts.items()}
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
    return {
        name: (rows, weight / sum(weights))
        for (name, rows), weight in zip(parts.items(), weights, strict=True)
    }


def _strata(
    parts: Mapping[str, tuple[np.ndarray, float]], total: int
) -> tuple[Stratum, ...]:
    counts = quotas([fraction for _, fraction in parts.values()], total)
    return tuple(
        Stratum(name, rows, count)
        for (name, (rows, _)), count in zip(parts.items(), counts, strict=True)
    )


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


def _group(task: Task, label: float) -> str:
    if label == MISSING:
        return f"{task.name} {_UNKNOWN}"
    if task.classes:
        return task.classes[int(label)]
    low = int(label // _DECADE) * _DECADE
    # Padded, so that groups sort by age.
    return f"{low:3d}-{low + _DECADE - 1}"


def _labelled(faces: Faces, rows: np.ndarray) -> str:
    labels = faces.examples.labels
    return ", ".join(
        task.name
        for task in TASKS
        if task.name in labels and (labels[task.name][rows] != MISSING).any()
    )
