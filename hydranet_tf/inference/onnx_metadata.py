"""What an .onnx file says about itself.

An .onnx file is one message of Protocol Buffers, in which fields may stand in any
order. Behind the network, in the place that the format has for the purpose
(`metadata_props` of ModelProto), stands a text under the key `hydranet_tf`: JSON like
that of a .tflite file, with the length and the SHA-256 of the bytes before it. Every
tool that reads .onnx files reads it, or passes over it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import protobuf

KEY = "hydranet_tf"
# Fields of ModelProto and StringStringEntryProto in onnx.proto.
_METADATA_PROPS = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


class MetadataError(HydraNetError, ValueError):
    """An .onnx file whose description is missing or does not fit it."""


def attach(network: bytes, description: Mapping[str, Any]) -> bytes:
    """The content of a file that explains itself.

    Args:
        network: a serialised ModelProto without a description.
        description: what to say; `network` in it is set here.
    """
    about = {
        **description,
        "network": {"bytes": len(network), "sha256": _sha256(network)},
    }
    entry = protobuf.field(_ENTRY_KEY, KEY.encode())
    entry += protobuf.field(_ENTRY_VALUE, json.dumps(about).encode())
    return network + protobuf.field(_METADATA_PROPS, entry)


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Reads an .onnx file and its description, which fit together.

    Returns:
        The description and the content of the file.

    Raises:
        MetadataError: if there is no description, or a checksum differs.
    """
    content = path.read_bytes()
    try:
        text = _text(content)
        description = None if text is None else json.loads(text)
        network = {} if description is None else description["network"]
        length, expected = network.get("bytes", 0), network.get("sha256")
        found = _sha256(content[:length])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetadataError(
            f"{path} is no .onnx file of export.py, or is damaged: {error}. Copy it "
            "again, or export again"
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


def _text(content: bytes) -> bytes | None:
    for number, entry in protobuf.fields(memoryview(content)):
        if number == _METADATA_PROPS and not isinstance(entry, int):
            pair = dict(protobuf.fields(entry))
            if bytes(pair.get(_ENTRY_KEY, b"")) == KEY.encode():
                return bytes(pair.get(_ENTRY_VALUE, b""))
    return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
