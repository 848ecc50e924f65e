"""The network that a path or a name means: a run's workdir, a preset, a released one.

Released networks come with the package, in the folder `presets` as package data: each
as a preset, which Keras reads, and as a .tflite file, which predicts without Keras and
TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from hydranet_tf import notices
from hydranet_tf.errors import HydraNetError

if TYPE_CHECKING:
    from hydranet_tf.model import HydraNet

# What tells a preset from other folders. Nothing here imports Keras before there is
# a network to load: who predicts with a .tflite file does without.
_PRESET = "metadata.json"

# What predicts where nobody names a network.
DEFAULT = "photo_dlib29"
# Names of earlier versions, and what stands for them until version 0.3.
REPLACED = {"utkface_dlib29_taught": DEFAULT}
LITERT_FILE = "hydranet.tflite"
_FOLDER = Path(__file__).resolve().parents[1] / "presets"


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


def released_names() -> list[str]:
    """The names of all of them."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{LITERT_FILE}"))


def released_preset(name: str) -> Path | None:
    """The folder of one as a preset; None where there is none of that name."""
    if name in REPLACED:
        replaced, name = name, REPLACED[name]
        logging.warning("%s was replaced by %s, which is taken instead", replaced, name)
    return _FOLDER / name if name in released_names() else None


def released_litert(name: str = DEFAULT) -> Path | None:
    """The .tflite file of one; None where there is none of that name."""
    folder = released_preset(name)
    return folder and folder / LITERT_FILE


def folder_of(path_or_name: str | Path) -> Path:
    """The folder that is meant: one that is there comes before a name."""
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    return released_preset(str(path_or_name)) or path
