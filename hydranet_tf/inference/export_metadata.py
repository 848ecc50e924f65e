"""What an exported file says about itself: signatures, descriptions, checksums.

A .tflite file is a network followed by a ZIP archive, which LiteRT does not
look at: `description.json` and one `labels_TASK.txt` for each task with
classes, a class a line in the order of the predictions. Any ZIP tool reads them
(`python -m zipfile -e hydranet.tflite folder`). Beside NAME.tflite stands
NAME.json with the same description.

Two checksums, so that each place can be checked:

- `network.sha256` in both: of the network's `network.bytes` bytes, which are
  the first of the file. A file cannot hold its own checksum.
- `sha256` and `bytes` in NAME.json alone: of the whole file, tail included.

An .onnx file is one message of Protocol Buffers, in which fields may stand in any
order. Behind the network, in the place that the format has for the purpose
(`metadata_props` of ModelProto), stands a text under the key `hydranet_tf`: JSON like
that of a .tflite file, with the length and the SHA-256 of the bytes before it. Every
tool that reads .onnx files reads it, or passes over it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import protobuf

# In the archive of a .tflite file.
DESCRIPTION = "description.json"

# ZIP knows no year before 1980; a fixed one makes equal networks equal files.
_DATE = (1980, 1, 1, 0, 0, 0)

# Of the text in an .onnx file.
ONNX_KEY = "hydranet_tf"
# Fields of ModelProto and StringStringEntryProto in onnx.proto.
_METADATA_PROPS = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Signatures of a SavedModel and their inputs: encoded files in, and uint8 pixels in.
ENCODED = "serving_default"
PIXELS = "pixels"
ENCODED_INPUT = "image_bytes"
PIXELS_INPUT = "images"
# What heads read, of the part of a .tflite file before them.
EMBEDDING = "embedding"
# The asset that says what the outputs mean.
TASKS_ASSET = "tasks.json"


class MetadataError(HydraNetError, ValueError):
    """An exported file whose description is missing or does not fit it."""


def labels_file(task_name: str) -> str:
    """The name in the archive of a task's class names."""
    return f"labels_{task_name}.txt"


def attach_to_litert(path: Path, description: Mapping[str, Any]) -> None:
    """Appends the archive to a network and writes NAME.json beside it.

    Args:
        path: a .tflite file without an archive.
        description: its `tasks`, where there are any, decide which label
            files there are.
    """
    network = path.read_bytes()
    description = {
        **description,
        "network": {"bytes": len(network), "sha256": _sha256(network)},
    }
    files = {DESCRIPTION: _text(description)}
    for task in description.get("tasks", ()):
        if task["classes"]:
            names = "".join(f"{name}\n" for name in task["classes"])
            files[labels_file(task["name"])] = names
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in files.items():
            # Not compressed: MediaPipe and others map them into memory.
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)
    content = path.read_bytes()
    description |= {"bytes": len(content), "sha256": _sha256(content)}
    path.with_suffix(".json").write_text(_text(description), encoding="utf-8")


def read_litert(path: Path) -> tuple[dict[str, Any], bytes]:
    """Reads a .tflite file and its description, which fit together.

    NAME.json is believed where it is there, else the archive in the file.

    Returns:
        The description and the content of the file.

    Raises:
        MetadataError: if there is no description, it cannot be read, or a
            checksum differs.
    """
    content = path.read_bytes()
    sidecar = path.with_suffix(".json")
    if sidecar.exists():
        description = _parse(sidecar.read_bytes(), str(sidecar))
        _check(content, description, path, sidecar.name)
        return description, content
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text = archive.read(DESCRIPTION)
    except (zipfile.BadZipFile, KeyError) as error:
        raise MetadataError(
            f"{path} says nothing about its classes: there is no {sidecar.name} "
            f"beside it, and at its end no archive with {DESCRIPTION}. It was cut "
            "short, or not made by export.py. Copy it again, or export again"
        ) from error
    description = _parse(text, f"{DESCRIPTION} in {path}")
    network = description.get("network")
    if not isinstance(network, dict) or not isinstance(network.get("bytes"), int):
        raise MetadataError(
            f"expected {DESCRIPTION} in {path} to name the network's bytes and "
            "sha256, as export.py writes them. Export again"
        )
    _check(content[: network["bytes"]], network, path, DESCRIPTION)
    return description, content


def _check(content: bytes, expected: Mapping, path: Path, source: str) -> None:
    if expected.get("sha256") == _sha256(content):
        return
    length = expected.get("bytes", len(content))
    if len(content) != length:
        what = f"it has {len(content)} bytes and {source} says {length}"
        if len(content) < length:
            what = f"it was cut short: {what}"
    else:
        what = "their sha256 differ"
    raise MetadataError(
        f"{path} is not the file that {source} describes: {what}. It is damaged, "
        "or one of the two is from another export. Copy both again, or export again"
    )


def _parse(text: bytes, source: str) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except ValueError as error:
        raise MetadataError(
            f"expected {source} to hold JSON as export.py writes it; got {error}. "
            "Export again"
        ) from error
    if not isinstance(description, dict):
        raise MetadataError(
            f"expected {source} to hold a JSON object with tasks and image_size, as "
            "export.py writes it. Export again"
        )
    return description


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=2) + "\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def attach_to_onnx(network: bytes, description: Mapping[str, Any]) -> bytes:
    """The content of a file that explains itself.

    Args:
        network: a serialised ModelProto without a description.
        description: what to say; `network` in it is set here.
    """
    about = {
        **description,
        "network": {"bytes": len(network), "sha256": _sha256(network)},
    }
    entry = protobuf.field(_ENTRY_KEY, ONNX_KEY.encode())
    entry += protobuf.field(_ENTRY_VALUE, json.dumps(about).encode())
    return network + protobuf.field(_METADATA_PROPS, entry)


def read_onnx(path: Path) -> tuple[dict[str, Any], bytes]:
    """Reads an .onnx file and its description, which fit together.

    Returns:
        The description and the content of the file.

    Raises:
        MetadataError: if there is no description, or a checksum differs.
    """
    content = path.read_bytes()
    try:
        text = _onnx_text(content)
        description = None if text is None else json.loads(text)
        network = {} if description is None else description["network"]
        length, expected = network.get("bytes", 0), network.get("sha256")
        found = _sha256(content[:length])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetadataError(
            f"{path} is not an .onnx file of export.py, or is damaged: {error}. Copy "
            "it again, or export again"
        ) from error
    if description is None:
        raise MetadataError(
            f"{path} says nothing about its classes: it was not made by export.py, or "
            "was cut short. Export again"
        )
    if found != expected:
        raise MetadataError(
            f"{path} is not what its own description says: their sha256 differ. It is "
            "damaged; copy it again, or export again"
        )
    return description, content


def _onnx_text(content: bytes) -> bytes | None:
    for number, entry in protobuf.fields(memoryview(content)):
        if number == _METADATA_PROPS and not isinstance(entry, int):
            pair = dict(protobuf.fields(entry))
            if bytes(pair.get(_ENTRY_KEY, b"")) == ONNX_KEY.encode():
                return bytes(pair.get(_ENTRY_VALUE, b""))
    return None
