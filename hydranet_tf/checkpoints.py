"""Checkpoints of a run: the last and the best, whole and verified.

    workdir/
        config.json  run.json  model.json  tasks.json  metrics.jsonl
        checkpoints/last-00000530/  weights.npz  training.npz  state.json  SHA256SUMS
        checkpoints/best-00000424/  ...
        temperatures.json  of one of the checkpoints, where they were fitted

A checkpoint is a folder that appears by one rename, named by the optimiser's
steps; `sha256sum -c SHA256SUMS` in it tells whether it is whole. Two of each kind
are kept, so that a damaged newest one does not end a run. Nothing in it is ever
unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import keras
import numpy as np
from absl import logging

from hydranet_tf import losses
from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import array_file, atomic
from hydranet_tf.model import HydraNet

LAST = "last"
BEST = "best"

FOLDER = "checkpoints"
_WEIGHTS = "weights.npz"
_TRAINING = "training.npz"
_STATE = "state.json"
_SUMS = "SHA256SUMS"
_TEMPERATURES = "temperatures.json"
_KEPT = 2
# What `Progress` may hold, by the type that is written for it.
_TYPES = {"int": int, "bool": bool, "float | None": (int, float, type(None)),
          "list | None": (list, type(None))}  # fmt: skip
# What a description in an unknown form raises on its way to a network.
_UNUSABLE = (
    AttributeError, KeyError, OSError, OverflowError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
_WEIGHTINGS = (losses.UncertaintyWeights, losses.FixedWeights)


class CheckpointError(HydraNetError, RuntimeError):
    """A checkpoint that is missing, damaged or does not fit."""


@dataclasses.dataclass
class Progress:
    """How far a run has come; what a resumed run must know.

    Attributes:
        epoch: epochs completed.
        step: optimiser steps completed.
        best: the best monitored score so far; None before the first.
        epochs_without_gain: epochs since `best`.
        finished: whether the run ended as planned.
        batch: batches used of the epoch in progress, 0 between epochs.
        running: sums of that epoch's losses and scores so far, in the order
            of `model.metrics_variables`.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    epochs_without_gain: int = 0
    finished: bool = False
    batch: int = 0
    running: list | None = None


def running_scores(model: HydraNet) -> list:
    """The sums of losses and scores as they stand, for `Progress.running`."""
    # float32 becomes a longer float and comes back from JSON as it was.
    return [keras.ops.convert_to_numpy(v).tolist() for v in model.metrics_variables]


def set_running_scores(model: HydraNet, values: list) -> None:
    """Assigns what `running_scores` gave.

    Raises:
        CheckpointError: if it came from a network with other scores.
    """
    variables = model.metrics_variables
    shapes = [np.shape(value) for value in values]
    expected = [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise CheckpointError(
            f"the checkpoint holds {len(values)} sums of scores where this version "
            f"has {len(variables)}; go on with the version that wrote it"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def save(workdir: Path, kind: str, model: HydraNet, progress: Progress) -> Path:
    """Writes a checkpoint and removes those it makes needless.

    Args:
        workdir: of the run.
        kind: `LAST` or `BEST`.
        model: compiled; its optimiser and random state are saved too.
        progress: of the run.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: if it cannot be written (disk full, no permission);
            what was saved before is untouched.
    """
    folder = workdir / FOLDER
    target = folder / f"{kind}-{progress.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # The same step again: a run resumed before this save.
            shutil.rmtree(target)
        with atomic.new_folder(target) as temporary:
            array_file.save(temporary / _WEIGHTS, _weights(model))
            array_file.save(temporary / _TRAINING, _training_variables(model))
            state = json.dumps(dataclasses.asdict(progress), indent=2)
            (temporary / _STATE).write_text(state)
            names = (_WEIGHTS, _TRAINING, _STATE)
            sums = "".join(f"{array_file.sha256(temporary / n)}  {n}\n" for n in names)
            (temporary / _SUMS).write_text(sums)
    except OSError as error:
        raise CheckpointError(
            f"could not write checkpoint {target}: {error}. The last good "
            "checkpoint is kept; free space or mend the permissions, then "
            "start the same command again to go on from it"
        ) from error
    # Of a later step is only what a run left that was resumed from before it: a
    # damaged one, or a best one of epochs that have been trained anew.
    found = _found(workdir, kind)
    kept = [path for path in found if path.name <= target.name][:_KEPT]
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    return target


def restore(workdir: Path, model: HydraNet) -> Progress | None:
    """Brings a compiled model to the state of the last good checkpoint.

    Returns:
        How far the run had come, or None if there is no checkpoint.

    Raises:
        CheckpointError: if there are checkpoints but none is whole, or it is
            of another network.
    """
    folder, progress = _newest_whole(workdir, LAST)
    if folder is None:
        return None
    model.optimizer.build(model.trainable_variables)
    _load(folder / _WEIGHTS, _weights(model), "another network")
    _load(folder / _TRAINING, _training_variables(model), "another optimiser")
    return progress


def load_model(workdir: str | Path, which: str = BEST) -> HydraNet:
    """Loads the network of a run, for evaluation or export.

    Args:
        workdir: of the run.
        which: `BEST` or `LAST`; a run without a best one gives its last.

    Raises:
        CheckpointError: if the folder is not a workdir, its description is not
            of a HydraNet, or it holds no whole checkpoint.
    """
    workdir = Path(workdir)
    description = workdir / "model.json"
    if not description.is_file():
        raise CheckpointError(
            f"{workdir} is not a workdir of a training run: it has no model.json"
        )
    folder, _ = newest(workdir, which)
    try:
        config = json.loads(description.read_text(encoding="utf-8"))
        _check_weighting(config["weighting"])
        model = HydraNet.from_config(config)
    except _UNUSABLE as error:
        raise CheckpointError(
            f"{description} does not describe a network that this version can "
            f"make: {error!r}. Bring the file back from a copy, or use the version "
            "that wrote it"
        ) from error
    _load(folder / _WEIGHTS, _weights(model), "another network")
    model.temperatures = temperatures_of(workdir, folder.name)
    return model


def keep_temperatures(workdir: Path, checkpoint: str, values: dict) -> None:
    """Keeps the temperatures that were fitted for a checkpoint.

    Raises:
        CheckpointError: if they cannot be written.
    """
    text = json.dumps({"checkpoint": checkpoint, "temperatures": values}, indent=2)
    try:
        atomic.write_text(workdir / _TEMPERATURES, text + "\n")
    except OSError as error:
        raise CheckpointError(
            f"could not write {workdir / _TEMPERATURES}: {error}"
        ) from error


def temperatures_of(workdir: Path, checkpoint: str) -> dict[str, float]:
    """The temperatures fitted for a checkpoint; none where there are others.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = workdir / _TEMPERATURES
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        values = {str(k): float(v) for k, v in kept["temperatures"].items()}
        if not all(0 < value < math.inf for value in values.values()):
            raise ValueError(f"temperatures are above 0; got {values}")
        return values if kept["checkpoint"] == checkpoint else {}
    except _UNUSABLE as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}); delete it and run evaluate.py "
            "--fit_temperatures again"
        ) from error


def newest(workdir: str | Path, which: str = BEST) -> tuple[Path, Progress]:
    """Returns the newest whole checkpoint's folder and its progress.

    Raises:
        CheckpointError: if there is none.
    """
    workdir = Path(workdir)
    folder, progress = _newest_whole(workdir, which)
    if folder is None and which == BEST:
        folder, progress = _newest_whole(workdir, LAST)
    if folder is None:
        raise CheckpointError(
            f"{workdir} holds no checkpoint yet; train at least one epoch"
        )
    return folder, progress


def any_saved(workdir: Path) -> bool:
    """Whether a run has a checkpoint to go on from, whole or not."""
    return bool(_found(workdir, LAST))


def better(monitor: str, score: float, best: float | None) -> bool:
    """Whether a score beats the best; errors (`_mae`) are better small."""
    if best is None:
        return not math.isnan(score)
    return score < best if monitor.endswith("_mae") else score > best


def _found(workdir: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, newest first; unfinished ones are not named so."""
    pattern = re.compile(rf"{kind}-\d{{8}}")
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(
        (p for p in folder.iterdir() if pattern.fullmatch(p.name)), reverse=True
    )


def _newest_whole(
    workdir: Path, kind: str
) -> tuple[Path, Progress] | tuple[None, None]:
    found = _found(workdir, kind)
    for folder in found:
        try:
            return folder, _checked_progress(folder)
        except (OSError, RecursionError, ValueError) as error:
            logging.warning(
                "checkpoint %s is damaged (%s); trying the one before",
                folder,
                error,
            )
    if found:
        raise CheckpointError(
            f"none of the {len(found)} '{kind}' checkpoints in "
            f"{workdir / FOLDER} is whole; restore one from a copy, or move "
            "the folder away to start again"
        )
    return None, None


def _checked_progress(folder: Path) -> Progress:
    """Reads state.json; a ValueError if anything is not what was written."""
    text = (folder / _STATE).read_text(encoding="utf-8")
    state = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError(f"{_STATE} holds no object")
    # Earlier checkpoints have the sums in state.json, of the arrays alone.
    sums = state.pop("sha256", None)
    if sums is None:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: sum_ for sum_, _, name in (x.partition("  ") for x in lines)}
        required = {_WEIGHTS, _TRAINING, _STATE}
    else:
        required = {_WEIGHTS, _TRAINING}
    if not isinstance(sums, dict) or set(sums) != required:
        raise ValueError(f"the sums are not of {', '.join(sorted(required))}")
    for name, expected in sums.items():
        if array_file.sha256(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
    fields = {field.name: _TYPES[field.type] for field in dataclasses.fields(Progress)}
    wrong = [
        name
        for name, value in state.items()
        if not isinstance(value, fields.get(name, ()))
    ]
    if wrong:
        raise ValueError(f"{_STATE} holds {', '.join(wrong)} in a form unknown here")
    return Progress(**state)


def _check_weighting(config: dict) -> None:
    """Refuses to make anything else: a description may come from anywhere."""
    known = [keras.saving.get_registered_name(kind) for kind in _WEIGHTINGS]
    if config["registered_name"] not in known:
        raise ValueError(
            f"the weighting is {config['registered_name']!r}; known are "
            f"{', '.join(known)}"
        )


def _weights(model: HydraNet) -> dict[str, keras.Variable]:
    found = {variable.path: variable for variable in model.weights}
    if len(found) != len(model.weights):
        raise CheckpointError(
            "two weights of this network have the same path; give its layers "
            "names of their own"
        )
    return found


def _training_variables(model: HydraNet) -> dict[str, keras.Variable]:
    """What weights files leave out: the optimiser and random states."""
    weights = {id(v) for v in (*model.weights, *model.metrics_variables)}
    others = [v for v in model.variables if id(v) not in weights]
    return {
        **{f"optimizer_{i}": v for i, v in enumerate(model.optimizer.variables)},
        **{f"random_{i}": v for i, v in enumerate(others)},
    }


def _load(path: Path, variables: dict[str, keras.Variable], otherwise: str) -> None:
    try:
        array_file.load_into(path, variables)
    except array_file.OtherArraysError as error:
        raise CheckpointError(f"{path} is of {otherwise}: {error}") from error
    except array_file.ArrayFileError as error:
        raise CheckpointError(f"{path} {error}") from error
