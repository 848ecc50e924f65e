"""SFace: a MobileNet that tells faces apart, as OpenCV's zoo has it, and its ONNX file.

Zhong et al. 2021 (arXiv:2205.12010) for the loss that taught it; the shape is that of
MobileNetV1 (Howard et al. 2017, arXiv:1704.04861) with PReLU and without the stride of
the first convolution. Taken is the trunk to its global pooling: the 128 numbers after
it tell people apart and have lost much of their age.

The published file normalises after each convolution, with constants. They are folded
into kernel and bias, which is exact. The last normalisation follows a PReLU. It stands
after the pooling here, as a scale and a shift of each feature, which is the same.

The reader of ONNX files is written after onnx.proto (github.com/onnx/onnx). The file is
a message of Protocol Buffers. Of a model its graph is wanted, and of the graph its
initializers: names, sizes and 32-bit floats. The operators are passed over and nothing
is run. Weights in another file are refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
from keras import layers

from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import protobuf

FEATURES = 1024
# Channels and stride of each pair of a depthwise and a pointwise convolution.
_PAIRS = (
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (FEATURES, 2), (FEATURES, 1),
)  # fmt: skip
_STEM = 32
# The slope that PReLU begins with where no weights are given, as in He et al. 2015
# (arXiv:1502.01852).
_SLOPE = 0.25

# Numbers of the fields in ModelProto, GraphProto and TensorProto.
_GRAPH = 7
_INITIALIZER = 5
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _LOCATION = 1, 2, 4, 8, 9, 14
# TensorProto.DataType.FLOAT, TensorProto.DataLocation.EXTERNAL.
_FLOAT = 1
_EXTERNAL = 1


def sface(images):
    """Applies the trunk and its global pooling.

    Args:
        images: normalised images `[batch, height, width, 3]`; the published weights
            know 112 pixels, the eyes at 38 and 74 from the left and 52 from the top.

    Returns:
        Features `[batch, 1024]`.
    """
    x = layers.Conv2D(
        _STEM, 3, padding="same", kernel_initializer=_initializer(), name="conv1"
    )(images)
    x = _prelu(x, "conv1")
    for number, (channels, stride) in enumerate(_PAIRS, 2):
        x = _pair(x, channels, stride, f"conv{number}")
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    # A kernel of one pixel a channel: scale and bias.
    x = layers.DepthwiseConv2D(1, depthwise_initializer="ones", name="scale")(x)
    return layers.Flatten(name="features")(x)


def onnx_names(layer: str) -> tuple[str, str]:
    """What the published file calls a layer's convolution and normalisation.

    Args:
        layer: `conv1`, `conv2_depthwise`, `conv2_pointwise` and so on.

    Returns:
        Prefixes of the names of their weights.
    """
    stem, _, part = layer.removeprefix("conv").partition("_")
    name = f"conv_{stem}_dw" if part == "depthwise" else f"conv_{stem}"
    return f"{name}_conv2d", f"{name}_batchnorm"


def _pair(x, channels: int, stride: int, name: str):
    if stride > 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.DepthwiseConv2D(
        3,
        stride,
        padding="valid" if stride > 1 else "same",
        depthwise_initializer=_initializer("fan_out"),
        name=f"{name}_depthwise",
    )(x)
    x = _prelu(x, f"{name}_depthwise")
    x = layers.Conv2D(
        channels, 1, kernel_initializer=_initializer(), name=f"{name}_pointwise"
    )(x)
    return _prelu(x, f"{name}_pointwise")


def _initializer(fan: str = "fan_in") -> keras.initializers.Initializer:
    """Keeps the variance through a PReLU; a new one each time, with its own numbers.

    A depthwise kernel `[3, 3, channels, 1]` has nine inputs an output, which Keras
    counts as its outgoing ones.
    """
    variance = 2 / (1 + _SLOPE**2)
    return keras.initializers.VarianceScaling(variance, fan, "untruncated_normal")


def _prelu(x, name: str):
    # One slope a channel.
    return layers.PReLU(
        keras.initializers.Constant(_SLOPE), shared_axes=(1, 2), name=f"{name}_prelu"
    )(x)


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
        raise OnnxFileError(f"it is not an ONNX model: {error}") from error
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
                name, values = _weights(tensor)
                if values is not None:
                    found[name] = values
    return found


def _weights(message: memoryview) -> tuple[str, np.ndarray | None]:
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
