"""Where the numbers of a report come from: the model, its run, the versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydranet_tf
from hydranet_tf import checkpoints
from hydranet_tf.tasks import Task

WORKDIR, SAVED_MODEL, LITERT = "workdir", "saved_model", "litert"
PRESET = "preset"


def about_model(path: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Which of the four kinds the path is, and what a workdir tells besides."""
    about = {"kind": SAVED_MODEL, "checkpoint": None, "epoch": None}
    weights, fitted = None, None
    if path.is_file():
        about["kind"] = LITERT
    elif (path / "metadata.json").is_file():
        about["kind"] = PRESET
    elif (path / "config.json").is_file():
        # The one that runtimes.load takes.
        folder, progress = checkpoints.newest(path, checkpoints.BEST)
        about = {"kind": WORKDIR, "checkpoint": folder.name, "epoch": progress.epoch}
        fitted = checkpoints.temperatures_of(path, folder.name)
        weights = loss_weights(path, tasks, progress.epoch)
    return {**about, "loss_weights": weights, "temperatures": fitted}


def loss_weights(
    workdir: Path, tasks: Sequence[Task], epoch: int
) -> dict[str, Any] | None:
    """The loss weights (alpha, beta, gamma) that a run had after an epoch.

    Returns:
        `{"epoch": ..., "values": {...}}` from the epoch's line of
        metrics.jsonl, or from the last line where it has none, or None where
        the file has no such lines.
    """
    names = [task.weight_name for task in tasks]
    found = None
    with contextlib.suppress(OSError):
        text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            # The last line of a run that was killed may be cut off.
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if {"epoch", *names} <= row.keys():
                    values = {name: row[name] for name in names}
                    found = {"epoch": row["epoch"], "values": values}
                    if row["epoch"] == epoch:
                        break
    return found


def versions() -> dict[str, str]:
    """Versions of what took part in the numbers."""
    found = {
        "hydranet_tf": hydranet_tf.__version__,
        "python": platform.python_version(),
    }
    for name in ("numpy", "keras", "tensorflow", "ai-edge-litert", "matplotlib"):
        # TensorFlow comes as a package of another name on some machines.
        for package in (name, f"{name}-cpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(package)
                break
    return found
