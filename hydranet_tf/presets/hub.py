"""Presets on the Hugging Face Hub: `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`.

What comes from there is a preset like any other: data, compared with its checksums,
never unpickled. Its files are kept in the Hub's own cache.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hydranet_tf import extras, presets

SCHEME = "hf://"
CARD = "MODEL_CARD.md"
# What the Hub shows as the page of a model.
_PAGE = "README.md"
_FILES = (presets.CONFIG, presets.WEIGHTS, presets.TASKS, presets.METADATA)


def resolve(preset: str | os.PathLike) -> Path:
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
    # Names that are none, repositories that are not there, no network: each its own.
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise presets.PresetError(
            f"cannot get {preset}: {_first_line(error)}. Expected {SCHEME}OWNER/NAME "
            "of a preset that you may read"
        ) from error
    return Path(folder)


def push(folder: str | os.PathLike, address: str, *, private: bool = True) -> str:
    """Uploads a preset; who may do it is known from `hf auth login`.

    Args:
        folder: as export.py writes it.
        address: `hf://OWNER/NAME`; is made where it is not there.
        private: of a repository that is made: whether others see it.

    Returns:
        The address of its page.

    Raises:
        PresetError: if it is no whole preset, or the Hub refuses it.
    """
    folder = Path(folder).expanduser()
    presets.read_config(folder)
    if not address.startswith(SCHEME):
        raise presets.PresetError(f"expected {SCHEME}OWNER/NAME; got {address}")
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
        page = hub.CommitOperationAdd(_PAGE, page_of(folder).encode())
        api.create_commit(
            name, [*operations, page], commit_message="A preset of hydranet_tf"
        )
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise presets.PresetError(
            f"cannot push to {address}: {_first_line(error)}"
        ) from error
    return f"{api.endpoint}/{name}"


def page_of(folder: Path) -> str:
    """The card behind the block of metadata that the Hub reads."""
    tasks = [task["name"] for task in json.loads((folder / presets.TASKS).read_text())]
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
        raise presets.PresetError(
            f"{SCHEME} needs huggingface_hub: {extras.command('hub')}"
        ) from error
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
