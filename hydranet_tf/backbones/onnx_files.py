"""Reader of the weights in an ONNX file.

Written after onnx.proto (github.com/onnx/onnx). The file is a message of Protocol
Buffers. Of a model its graph is wanted, and of the graph its initializers: names, sizes
and 32-bit floats. The operators are passed over and nothing is run. Weights in another
file are refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import protobuf

# Numbers of the fields in ModelProto, GraphProto and TensorProto.
_GRAPH = 7
_INITIALIZER = 5
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _LOCATION = 1, 2, 4, 8, 9, 14
# TensorProto.DataType.FLOAT, TensorProto.DataLocation.EXTERNAL.
_FLOAT = 1
_EXTERNAL = 1


class OnnxFileError(HydraNetError, ValueError):
    """A file that is not an ONNX model, or is cut short."""


def read_initializers(path: str | Path) -> dict[str, np.ndarray]:
    """The weights of a model by their names, those in float32 alone.

    Raises:
        OSError: if the file cannot be read.
        OnnxFileError: if it holds something else, or keeps its weights elsewhere.
    """
    try:
        return parse_initializers(Path(path).read_bytes())
    except OnnxFileError as error:
        raise OnnxFileError(f"{path}: {error}") from error


def parse_initializers(content: bytes) -> dict[str, np.ndarray]:
    """`read_initializers` of a file's content."""
    try:
        found = _initializers(content)
    except protobuf.ProtobufError as error:
        raise OnnxFileError(f"it is no ONNX model: {error}") from error
    if not found:
        raise OnnxFileError("no weights of an ONNX model were found in it")
    return found


def _initializers(content: bytes) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for number, graph in protobuf.fields(memoryview(content)):
        if number != _GRAPH or isinstance(graph, int):
            continue
        for inner, tensor in protobuf.fields(graph):
            if inner == _INITIALIZER and not isinstance(tensor, int):
                name, values = _tensor(tensor)
                if values is not None:
                    found[name] = values
    return found


def _tensor(message: memoryview) -> tuple[str, np.ndarray | None]:
    dims: list[int] = []
    kind, name, location = 0, "", 0
    values = b""
    for number, value in protobuf.fields(message):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else list(protobuf.numbers(value))
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _LOCATION and isinstance(value, int):
            location = value
        elif number == _NAME and not isinstance(value, int):
            name = bytes(value).decode("utf-8", "replace")
        elif number in (_FLOAT_DATA, _RAW_DATA) and not isinstance(value, int):
            values += bytes(value)
    if kind != _FLOAT:
        return name, None
    if location == _EXTERNAL:
        raise OnnxFileError(f"{name} lies in another file; expected one whole file")
    if len(values) != 4 * math.prod(dims):
        raise OnnxFileError(
            f"{name} has {len(values)} bytes; expected {4 * math.prod(dims)} for "
            f"the shape {dims}"
        )
    return name, np.frombuffer(values, "<f4").reshape(dims)
