"""Cross-validation, for data too small to keep a validation part of: --folds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hydranet_tf import checkpoints
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import pipeline
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import fine_tuning, train


def cross_validate(
    config: TrainingConfig, workdir: str | os.PathLike, count: int
) -> dict[str, float]:
    """Trains a network for each fold and scores every face by one that has not seen it.

    The folds divide the parts train and validation together; test stays untouched. Of
    every class of the last task that has classes each fold gets as many. The best epoch
    of a fold is chosen by its own faces, so the scores are a little too good; the same
    is true of a fixed validation part.

    Args:
        config: of each run.
        workdir: gets a folder for each run, `fold_1` and so on. The same call goes on
            where it was broken off.
        count: of the folds, 2 or more.

    Returns:
        The scores over all faces, by name.

    Raises:
        ConfigError: if there are more folds than faces.
        Whatever `train.train` raises.
    """
    workdir = Path(workdir)
    faces = train.load(config, ("train", "validation"))
    if not 2 <= count <= len(faces):
        raise ConfigError(
            f"--folds: expected 2 to {len(faces)}, the number of faces; got {count}"
        )
    numbers = _numbers(faces, count, config.seed)
    before, after, epochs = [], [], []
    for fold in range(count):
        print(f"fold {fold + 1} of {count}", flush=True)
        folder = workdir / f"fold_{fold + 1}"
        held_out = pipeline.select(faces, np.flatnonzero(numbers == fold))
        others = pipeline.select(faces, np.flatnonzero(numbers != fold))
        train.train(config, folder, (others, held_out))
        batch = fine_tuning.sized_batch(len(held_out))
        best = checkpoints.load_model(folder)
        after.append(fine_tuning.example_scores(best, held_out, batch))
        before.append(fine_tuning.start_scores(folder))
        epochs.append(fine_tuning.best_epoch(folder))
    found = {name: np.concatenate([s[name] for s in after]) for name in after[0]}
    print(
        f"{len(faces)} faces, each scored by the one of {count} networks that has "
        "not seen it:"
    )
    if all(before):
        start = {name: np.concatenate([s[name] for s in before]) for name in before[0]}
        print(*fine_tuning.compared(start, found), sep="\n")
    else:
        print(*fine_tuning.compared(found, found)[:1], sep="\n")
    typical = max(1, round(float(np.median(epochs))))
    print(
        f"best epochs {', '.join(map(str, epochs))}. next: train once on all faces, "
        f"with --epochs={typical}",
        flush=True,
    )
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def _numbers(faces: pipeline.Faces, count: int, seed: int) -> np.ndarray:
    """The fold of each face, `[n]`."""
    labels = [
        values
        for values in faces.examples.labels.values()
        if values.dtype == np.int32 and (values != MISSING).any()
    ]
    order = np.random.default_rng(seed).permutation(len(faces))
    if labels:
        # Stable: within a class the order stays random.
        order = order[np.argsort(labels[-1][order], kind="stable")]
    numbers = np.empty(len(faces), int)
    numbers[order] = np.arange(len(faces)) % count
    return numbers
