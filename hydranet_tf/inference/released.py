"""The networks that come with the package, by name.

They lie in the folder `presets` as package data: each as a preset, which Keras reads,
and as a .tflite file, which predicts without Keras and TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

from absl import logging

# What predicts where nobody names a network.
DEFAULT = "photo_dlib29"
# Names of earlier versions, and what answers to them until version 0.3.
REPLACED = {"utkface_dlib29_taught": DEFAULT}
LITERT_FILE = "hydranet.tflite"
_FOLDER = Path(__file__).resolve().parents[1] / "presets"


def names() -> list[str]:
    """The names of all of them."""
    return sorted(path.parent.name for path in _FOLDER.glob(f"*/{LITERT_FILE}"))


def preset(name: str) -> Path | None:
    """The folder of one as a preset; None where there is none of that name."""
    if name in REPLACED:
        replaced, name = name, REPLACED[name]
        logging.warning("%s was replaced by %s, which is taken instead", replaced, name)
    return _FOLDER / name if name in names() else None


def litert(name: str = DEFAULT) -> Path | None:
    """The .tflite file of one; None where there is none of that name."""
    folder = preset(name)
    return folder and folder / LITERT_FILE


def folder_of(path_or_name: str | Path) -> Path:
    """The folder that is meant: one that is there comes before a name."""
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    return preset(str(path_or_name)) or path
