"""ResNet with 29 convolutions, as dlib's face recogniser has it, and its weights' file.

Structure after github.com/davisking/dlib, tools/python/src/face_recognition.cpp,
without its last layer, which turns features into 128 numbers that tell people apart.
Its published weights were learned from faces and not from ImageNet. Two things differ
from He et al. 2016 (arXiv:1512.03385):

- A residual branch and its shortcut of another shape are both filled up with zeros, at
  the end of each axis. Strided convolutions do not pad, the shortcut's pooling neither,
  so for most sizes the branch is a pixel smaller.
- Nothing is normalised. The published file has the statistics of its normalisation
  folded into scale and shift, which are folded into kernel and bias here. Random
  weights start small in the second convolution of each block, or 14 would blow up.

The reader of dlib's files is written after dlib's serialize.h and dnn/layers.h. A whole
number is a byte, whose low four bits are a length and whose highest is the sign, and
that many bytes, the lowest first. A layer starts with its name; the parameters of those
that have some follow as a tensor: a version, four sizes, and 32-bit floats. What else
is in the file (rates of learning, sizes known from the network) is passed over.
"""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from hydranet_tf.errors import HydraNetError

# Channels and blocks of each stage; all but the first begin with a stride of 2.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
_BLOCKS = sum(count for _, count in _STAGES)

# Names of the layers with parameters: convolution, and the scale and shift that
# normalisation leaves behind.
CONVOLUTION, AFFINE = b"con_4", b"affine_"
_TENSOR_VERSION = 2
_SIZES = 4
_SIGN, _LENGTH = 0x80, 0x0F


def dlib_resnet29(images):
    """Applies the network without its last layer.

    Args:
        images: normalised images `[batch, height, width, 3]`; the published weights
            know 150 pixels.

    Returns:
        Features `[batch, 256]`.
    """
    x = _convolution(images, 32, 7, 2, "stem_conv")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, (channels, count) in enumerate(_STAGES, 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, channels, stride, f"stage{stage}_block{block}")
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _block(x, channels: int, stride: int, name: str):
    branch = _convolution(x, channels, 3, stride, f"{name}_conv1")
    branch = layers.ReLU(name=f"{name}_relu1")(branch)
    # The variance of each block by a part of what comes in, that of all by e.
    branch = _convolution(branch, channels, 3, 1, f"{name}_conv2", 2 / _BLOCKS)
    if stride > 1:
        x = layers.AveragePooling2D(2, name=f"{name}_shortcut")(x)
    shape = [max(sizes) for sizes in zip(x.shape[1:], branch.shape[1:], strict=True)]
    x = layers.Add(name=f"{name}_add")([_filled(x, shape), _filled(branch, shape)])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _filled(x, shape):
    missing = [wanted - size for wanted, size in zip(shape, x.shape[1:], strict=True)]
    return ops.pad(x, [(0, 0), *((0, n) for n in missing)]) if any(missing) else x


def _convolution(x, channels, kernel, stride, name: str, variance: float = 2.0):
    return layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        kernel_initializer=keras.initializers.VarianceScaling(
            variance, "fan_in", "untruncated_normal"
        ),
        name=name,
    )(x)


class DlibFileError(HydraNetError, ValueError):
    """A file that is not a network of dlib's, or is cut short."""


def read_parameters(path: str | Path) -> list[tuple[bytes, np.ndarray]]:
    """Names and parameters of its convolutions and affine layers, from the input on.

    Returns:
        `CONVOLUTION` with its kernel in the order [out, in, height, width] and then its
        biases, or `AFFINE` with scales and then shifts; float32 `[n]`.

    Raises:
        OSError: if it cannot be read.
        DlibFileError: if it holds something else.
    """
    data = Path(path).read_bytes()
    found = []
    at = 0
    while True:
        starts = {data.find(_string(name), at): name for name in (CONVOLUTION, AFFINE)}
        starts.pop(-1, None)
        if not starts:
            break
        start = min(starts)
        name = starts[start]
        values, at = _tensor(path, data, start + len(_string(name)))
        found.append((name, values))
    if not found:
        raise DlibFileError(f"{path}: no layer of a dlib network was found in it")
    return found


def _string(text: bytes) -> bytes:
    return bytes([1, len(text)]) + text


def _tensor(path, data: bytes, at: int) -> tuple[np.ndarray, int]:
    numbers = []
    for _ in range(1 + _SIZES):
        length = data[at] & _LENGTH if at < len(data) else 0
        if not 1 <= length <= 8 or data[at] & _SIGN:
            raise DlibFileError(f"{path}: expected a tensor at byte {at}")
        numbers.append(int.from_bytes(data[at + 1 : at + 1 + length], "little"))
        at += 1 + length
    version, *sizes = numbers
    if version != _TENSOR_VERSION:
        raise DlibFileError(
            f"{path}: expected a tensor of version {_TENSOR_VERSION} before byte {at}; "
            f"got {version}"
        )
    count = math.prod(sizes)
    end = at + 4 * count
    if end > len(data):
        raise DlibFileError(
            f"{path} is cut short: {count} numbers should follow byte {at}, and the "
            f"file ends at {len(data)}"
        )
    return np.frombuffer(data, "<f4", count, at), end
