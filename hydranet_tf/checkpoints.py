"""Checkpoints of a run: the last and the best, whole and verified.

    workdir/
        config.json  run.json  model.json  tasks.json  metrics.jsonl
        checkpoints/last-00000530/  weights.npz  training.npz  state.json
        checkpoints/best-00000424/  ...

A checkpoint is a folder that appears by one rename; its state.json holds the
SHA-256 of the other files. Two of each kind are kept, so that a damaged newest
one does not end a run. Nothing in it is ever unpickled. The arrays are NumPy's and
not HDF5: HDF5 can crash the process when the disk is full, and then nobody says
why the run ended.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import keras
import numpy as np
from absl import logging

from hydranet_tf import atomic
from hydranet_tf.model import HydraNet

LAST = "last"
BEST = "best"

_FOLDER = "checkpoints"
_WEIGHTS = "weights.npz"
_TRAINING = "training.npz"
_STATE = "state.json"
_KEPT = 2


class CheckpointError(RuntimeError):
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
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    epochs_without_gain: int = 0
    finished: bool = False


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
    folder = workdir / _FOLDER
    target = folder / f"{kind}-{progress.step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # The same step again: a run resumed after this save.
            shutil.rmtree(target)
        with atomic.new_folder(target) as temporary:
            _save_arrays(temporary / _WEIGHTS, _weights(model))
            _save_arrays(temporary / _TRAINING, _training_variables(model))
            state = {
                **dataclasses.asdict(progress),
                "sha256": {
                    name: _sha256(temporary / name) for name in (_WEIGHTS, _TRAINING)
                },
            }
            (temporary / _STATE).write_text(json.dumps(state, indent=2))
    except OSError as error:
        raise CheckpointError(
            f"could not write checkpoint {target}: {error}. The last good "
            "checkpoint is kept; free space or mend the permissions, then "
            "start the same command again to go on from it"
        ) from error
    for old in _found(workdir, kind)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def restore(workdir: Path, model: HydraNet) -> Progress | None:
    """Brings a compiled model to the state of the last good checkpoint.

    Returns:
        How far the run had come, or None if there is no checkpoint.

    Raises:
        CheckpointError: if there are checkpoints but none is whole, or it is
            of another network.
    """
    folder, state = _newest_whole(workdir, LAST)
    if folder is None:
        return None
    model.optimizer.build(model.trainable_variables)
    _load_arrays(folder / _WEIGHTS, _weights(model), "another network")
    _load_arrays(folder / _TRAINING, _training_variables(model), "another optimiser")
    del state["sha256"]
    return Progress(**state)


def load_model(workdir: str | Path, which: str = BEST) -> HydraNet:
    """Loads the network of a run, for evaluation or export.

    Args:
        workdir: of the run.
        which: `BEST` or `LAST`; a run without a best one gives its last.

    Raises:
        CheckpointError: if the folder is no workdir, or holds no whole
            checkpoint.
    """
    workdir = Path(workdir)
    description = workdir / "model.json"
    if not description.is_file():
        raise CheckpointError(
            f"{workdir} is no workdir of a training run: it has no model.json"
        )
    folder, _ = newest(workdir, which)
    config = json.loads(description.read_text())
    model = HydraNet.from_config(config)
    _load_arrays(folder / _WEIGHTS, _weights(model), "another network")
    return model


def newest(workdir: str | Path, which: str = BEST) -> tuple[Path, Progress]:
    """Returns the newest whole checkpoint's folder and its progress.

    Raises:
        CheckpointError: if there is none.
    """
    workdir = Path(workdir)
    folder, state = _newest_whole(workdir, which)
    if folder is None and which == BEST:
        folder, state = _newest_whole(workdir, LAST)
    if folder is None:
        raise CheckpointError(
            f"{workdir} holds no checkpoint yet; train at least one epoch"
        )
    del state["sha256"]
    return folder, Progress(**state)


def better(monitor: str, score: float, best: float | None) -> bool:
    """Whether a score beats the best; errors (`_mae`) are better small."""
    if best is None:
        return not math.isnan(score)
    return score < best if monitor.endswith("_mae") else score > best


def _found(workdir: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, newest first; unfinished ones are not named so."""
    pattern = re.compile(rf"{kind}-\d{{8}}")
    folder = workdir / _FOLDER
    if not folder.is_dir():
        return []
    return sorted(
        (p for p in folder.iterdir() if pattern.fullmatch(p.name)), reverse=True
    )


def _newest_whole(workdir: Path, kind: str) -> tuple[Path | None, dict]:
    found = _found(workdir, kind)
    for folder in found:
        try:
            state = json.loads((folder / _STATE).read_text())
            for name, expected in state["sha256"].items():
                if _sha256(folder / name) != expected:
                    raise ValueError(f"{name} is not what was written")
        except (OSError, ValueError, KeyError, TypeError) as error:
            logging.warning(
                "checkpoint %s is damaged (%s); trying the one before",
                folder,
                error,
            )
            continue
        return folder, state
    if found:
        raise CheckpointError(
            f"none of the {len(found)} '{kind}' checkpoints in "
            f"{workdir / _FOLDER} is whole; restore one from a copy, or move "
            "the folder away to start again"
        )
    return None, {}


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


def _save_arrays(path: Path, variables: dict[str, keras.Variable]) -> None:
    arrays = {n: keras.ops.convert_to_numpy(v) for n, v in variables.items()}
    np.savez(path, **arrays)


def _load_arrays(
    path: Path, variables: dict[str, keras.Variable], otherwise: str
) -> None:
    """Assigns what `_save_arrays` wrote; all of it fits, or nothing changes."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved)
    found = {name: array.shape for name, array in arrays.items()}
    expected = {name: tuple(v.shape) for name, v in variables.items()}
    if found != expected:
        odd = sorted(
            name
            for name in found.keys() | expected.keys()
            if found.get(name) != expected.get(name)
        )
        raise CheckpointError(
            f"{path} is of {otherwise}: {len(odd)} variables differ, the first "
            f"{odd[0]}: shape {found.get(odd[0], 'none')} in the file, "
            f"{expected.get(odd[0], 'none')} here"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
