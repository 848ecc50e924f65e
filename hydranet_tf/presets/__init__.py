"""A network to give away: one folder that holds all that its predictions depend on.

    preset/
        config.json    what `HydraNet.from_config` takes
        weights.npz    the arrays by path: kernels in 16 bits, biases and statistics
                       in 32
        tasks.json     names, units and classes in order
        metadata.json  SHA-256 of the three, and where they come from
        MODEL_CARD.md

`HydraNet.from_preset` loads it. Nothing in it is ever unpickled, and each file is
compared with its SHA-256 before it is read.

Kernels are not in 8 bits, though the scores would stay: a network that is fine-tuned
from them moves each weight by less than a step of 8 bits, and an export in 8 bits would
round most of it away again. Presets of format 2 have such kernels, with a scale for
each output; they are read as ever.

`hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION` is one on the Hugging Face Hub. What
comes from there is a preset like any other. Its files are kept in the Hub's own cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hydranet_tf import errors
from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import array_file

CONFIG, WEIGHTS, TASKS = "config.json", "weights.npz", "tasks.json"
METADATA = "metadata.json"
FORMAT = 3
# Kernels in 8 bits.
_IN_8_BITS = 2

# What the scales of a kernel are called.
_SCALES = ".scales"
# The largest weight of an output channel stands at this in 8 bits, as in LiteRT.
LARGEST = 127

SCHEME = "hf://"
CARD = "MODEL_CARD.md"
# What the Hub shows as the page of a model.
_PAGE = "README.md"
_FILES = (CONFIG, WEIGHTS, TASKS, METADATA)


class PresetError(HydraNetError, ValueError):
    """A folder that is not a whole preset; the message says what is wrong."""


def write(
    folder: Path,
    config: Mapping[str, Any],
    variables: Mapping[str, keras.Variable],
    tasks: str,
    origin: Mapping[str, Any],
) -> None:
    """Writes all but the card.

    Args:
        folder: new or empty.
        config: of the network.
        variables: its weights by path. Kernels are rounded to 16 bits: half the size,
            and predictions move by a hundredth of a year.
        tasks: the text of tasks.json.
        origin: goes into metadata.json.

    Raises:
        PresetError: if the folder holds something, which stays as it is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holds = sorted(path.name for path in folder.iterdir())
    except FileExistsError:
        raise PresetError(
            f"expected a folder for a preset; {folder} is a file"
        ) from None
    if holds:
        raise PresetError(
            f"expected a new or empty folder for a preset; {folder} holds {holds[0]}. "
            "Give another folder, or remove this one"
        )
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / TASKS).write_text(tasks + "\n", encoding="utf-8")
    arrays = {}
    for name, variable in variables.items():
        array = keras.ops.convert_to_numpy(variable).astype(np.float32)
        arrays[name] = array.astype(np.float16) if array.ndim > 1 else array
    # A tenth smaller, and read as quickly: a repository carries such files.
    np.savez_compressed(folder / WEIGHTS, **arrays)
    metadata = {
        **origin,
        "format": FORMAT,
        "sha256": {n: array_file.sha256(folder / n) for n in (CONFIG, WEIGHTS, TASKS)},
    }
    text = json.dumps(metadata, indent=2) + "\n"
    (folder / METADATA).write_text(text, encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """Checks every file and returns the network's configuration.

    Raises:
        PresetError: if a file is missing, unreadable or not what was written.
    """
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if metadata["format"] not in (_IN_8_BITS, FORMAT):
            raise PresetError(
                f"the preset {folder} has the format {metadata['format']!r}; this "
                f"version reads {_IN_8_BITS} and {FORMAT}. Use the version that wrote "
                "it"
            )
        for name in (CONFIG, WEIGHTS, TASKS):
            if array_file.sha256(folder / name) != metadata["sha256"][name]:
                raise PresetError(
                    f"{folder / name} is not the file that {METADATA} names: their "
                    "sha256 differ. It was damaged or changed; copy the preset again"
                )
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except PresetError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PresetError(
            f"expected the preset {folder} to hold {CONFIG}, {WEIGHTS}, {TASKS} and "
            f"{METADATA} as export.py writes them; got {error!r}. Copy it again"
        ) from error


def assign(folder: Path, variables: Mapping[str, keras.Variable]) -> None:
    """Assigns the weights; all of them fit, or nothing changes.

    Raises:
        PresetError: if they are of another network.
    """
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    in_8_bits = metadata["format"] == _IN_8_BITS
    expected = {}
    for name, variable in variables.items():
        shape = tuple(variable.shape)
        axes = axes_within_an_output(shape)
        kernel = "int8" if in_8_bits else "float16"
        expected[name] = (shape, kernel if axes else "float32")
        if axes and in_8_bits:
            one_each = (1 if i in axes else n for i, n in enumerate(shape))
            expected[name + _SCALES] = (tuple(one_each), "float32")
    try:
        arrays = array_file.read(folder / WEIGHTS, expected)
    except array_file.ArrayFileError as error:
        raise PresetError(f"{folder / WEIGHTS} {error}") from error
    for name, variable in variables.items():
        scales = arrays.get(name + _SCALES, np.float32(1))
        variable.assign(arrays[name].astype(np.float32) * scales)


def axes_within_an_output(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of a kernel along which its weights share a scale; none for a vector."""
    if len(shape) < 2:
        return ()
    # A depthwise kernel is [height, width, channels, 1].
    of_output = 2 if len(shape) == 4 and shape[3] == 1 else len(shape) - 1
    return tuple(axis for axis in range(len(shape)) if axis != of_output)


def folder_of(preset: str | os.PathLike) -> Path:
    """The folder of a preset: a path as it is, an address of the Hub after a download.

    Raises:
        PresetError: if the Hub does not give it.
    """
    if not str(preset).startswith(SCHEME):
        return Path(preset).expanduser()
    hub = _hub()
    name, _, revision = str(preset).removeprefix(SCHEME).partition("@")
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[*_FILES, CARD]
        )
    # Invalid names, repositories that are not there, no network: each its own.
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise PresetError(
            f"cannot get {preset}: {_first_line(error)}. Expected {SCHEME}OWNER/NAME "
            "of a preset that you may read"
        ) from error
    return Path(folder)


def push_to_hub(
    folder: str | os.PathLike, address: str, *, private: bool = True
) -> str:
    """Uploads a preset; who may do it is known from `hf auth login`.

    Args:
        folder: as export.py writes it.
        address: `hf://OWNER/NAME`; is made where it is not there.
        private: of a repository that is made: whether others see it.

    Returns:
        The address of its page.

    Raises:
        PresetError: if it is not a whole preset, or the Hub refuses it.
    """
    folder = Path(folder).expanduser()
    read_config(folder)
    if not address.startswith(SCHEME):
        raise PresetError(f"expected {SCHEME}OWNER/NAME; got {address}")
    hub = _hub()
    name = address.removeprefix(SCHEME)
    api = hub.HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        operations = [
            hub.CommitOperationAdd(file, folder / file)
            for file in (*_FILES, CARD)
            if (folder / file).is_file()
        ]
        page = hub.CommitOperationAdd(_PAGE, hub_page(folder).encode())
        api.create_commit(
            name, [*operations, page], commit_message="A preset of hydranet_tf"
        )
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise PresetError(f"cannot push to {address}: {_first_line(error)}") from error
    return f"{api.endpoint}/{name}"


def hub_page(folder: Path) -> str:
    """The card behind the block of metadata that the Hub reads."""
    tasks = [task["name"] for task in json.loads((folder / TASKS).read_text())]
    block = [
        "---",
        "library_name: keras",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"  - {tag}" for tag in ("hydranet_tf", "face-attributes", *tasks)),
        "---",
        "",
    ]
    card = folder / CARD
    return "\n".join(block) + (card.read_text() if card.is_file() else "")


def _hub():
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise PresetError(
            f"{SCHEME} needs huggingface_hub: {errors.installation('hub')}"
        ) from error
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
