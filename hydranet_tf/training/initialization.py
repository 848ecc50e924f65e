"""Where a run starts: at published weights of its backbone, or at a whole network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hydranet_tf import heads, losses, tasks
from hydranet_tf.backbones import pretrained
from hydranet_tf.config import INHERITED, LEARNED, ConfigError, TrainingConfig
from hydranet_tf.inference import loading
from hydranet_tf.model import HydraNet

_BACKBONE = "backbone"


@dataclasses.dataclass(frozen=True)
class Start:
    """First weights of a run.

    Attributes:
        about: where they come from, for run.json: `path`, `sha256` and
            `parts`, what of the network they fill.
        assign: gives them to the network; what they do not hold stays as it is.
    """

    about: Mapping[str, str]
    assign: Callable[[HydraNet], None]


def inherited(
    start_from: str | os.PathLike, workdir: str | os.PathLike | None = None
) -> dict[str, Any]:
    """The settings that a network brings to a run that starts from it.

    Args:
        start_from: a workdir, a preset, or the name of a released network; blank for
            none.
        workdir: of a run that may be resumed; if it started from there, its settings
            are what counts, for the start may be gone.

    Returns:
        By the names of `config.INHERITED`; nothing where the path is neither, which
        `read` says.
    """
    if not start_from:
        return {}
    begun = Path(workdir or "", "config.json")
    if workdir and begun.is_file():
        before = TrainingConfig.from_json(begun.read_text(encoding="utf-8"))
        if before.start_from == str(start_from):
            return {name: getattr(before, name) for name in INHERITED}
    folder = loading.folder_of(start_from)
    # A workdir's config.json holds the settings of its run.
    for name in ("model.json", "config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            asked = [tasks.from_config(task) for task in found["tasks"]]
            known = {task.name for task in tasks.TASKS}
            chosen = [task.head for task in asked if task.is_regression]
            return {
                "backbone": found["backbone"],
                "width": found["width"] or 0,
                "image_size": found["image_size"],
                "tasks": ",".join(task.name for task in asked if task.name in known),
                "age_head": chosen[0] if chosen else tasks.VALUE,
                # `mirrored` is its name before 0.2.
                "flip_tta": found.get("flip_tta", found.get("mirrored", False)),
            }
        except (KeyError, OSError, TypeError, ValueError):
            continue
    return {}


def read(config: TrainingConfig) -> Start | None:
    """Reads the weights that the settings name; None for random ones.

    Raises:
        ConfigError: if the network that is named has another backbone or width.
        hydranet_tf.inference.loading.LoadError: if there is none, or it is damaged.
        hydranet_tf.backbones.pretrained.WeightsError: if the backbone's weights
            cannot be read or do not fit.
    """
    if config.start_from:
        return _network(config, loading.folder_of(config.start_from))
    if not config.backbone_weights:
        return None
    weights = pretrained.read(
        config.backbone_weights, config.backbone, config.width or None
    )
    return Start(
        {**weights.about, "parts": _BACKBONE},
        lambda model: pretrained.assign(weights, model.network.variables),
    )


def _network(config: TrainingConfig, path: Path) -> Start:
    network = loading.load(path)
    if network is None:
        raise loading.LoadError(
            "--start_from: expected a workdir of train.py with a checkpoint, a preset "
            f"of export.py, or one of {', '.join(loading.released_names())}; got "
            f"{path}, which is not one of them"
        )
    if (network.backbone, network.width) != (config.backbone, config.width or None):
        raise ConfigError(
            f"--start_from: the network of {path} has "
            f"--backbone={network.backbone} --width={network.width or 0}; this run has "
            f"--backbone={config.backbone} --width={config.width}. Give the same"
        )
    asked = config.asked_tasks()
    # A head whose classes, unit or kind differ would predict something else.
    kept = [task for task in network.tasks if task in asked]
    other = {
        layer
        for task in network.tasks
        if task not in kept
        for layer in heads.of(task).layer_names
    }
    arrays = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in network.network.variables
        if other.isdisjoint(variable.path.split("/"))
    }
    parts = [_BACKBONE, *(f"head of {task.name}" for task in kept)]
    # A preset has none that were learned, and for other tasks they mean nothing.
    learned = None
    if (
        isinstance(network.weighting, losses.UncertaintyWeights)
        and network.tasks == asked
        and config.loss_weights == LEARNED
    ):
        learned = keras.ops.convert_to_numpy(network.weighting.log_variances())
        parts.append("loss weights")
    about = {
        "path": str(path),
        "sha256": _sha256(arrays.values()),
        "parts": ", ".join(parts),
    }
    weights = pretrained.Weights(arrays, about)

    def assign(model: HydraNet) -> None:
        pretrained.assign(weights, model.network.variables)
        if learned is not None:
            model.weighting.assign_log_variances(learned)

    return Start(about, assign)


def _sha256(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
