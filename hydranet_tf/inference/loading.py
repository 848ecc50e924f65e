"""The network that a folder holds: a run's workdir, or a preset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydranet_tf import notices
from hydranet_tf.errors import HydraNetError

if TYPE_CHECKING:
    from hydranet_tf.model import HydraNet

# What tells a preset from other folders. Nothing here imports Keras before there is
# a network to load: who answers with a .tflite file does without.
_PRESET = "metadata.json"


class LoadError(HydraNetError, ValueError):
    """A path from which no network can be loaded; the message says why."""


def is_preset(path: Path) -> bool:
    """Whether a folder is a preset, as far as its file names tell."""
    return (path / _PRESET).is_file()


def load(path: Path) -> HydraNet | None:
    """The network of a workdir (its best checkpoint) or a preset.

    Returns:
        None where the path is neither.

    Raises:
        LoadError: if it is damaged.
    """
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        with notices.held_back():
            from hydranet_tf import checkpoints

        try:
            return checkpoints.load_model(path, which=checkpoints.BEST)
        except checkpoints.CheckpointError as error:
            raise LoadError(f"cannot load the workdir {path}: {error}") from error
    if is_preset(path):
        with notices.held_back():
            from hydranet_tf import presets
            from hydranet_tf.model import HydraNet

        try:
            return HydraNet.from_preset(path)
        except presets.PresetError as error:
            raise LoadError(str(error)) from error
    return None
