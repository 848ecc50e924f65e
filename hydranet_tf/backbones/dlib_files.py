"""Reader of the files in which dlib keeps a trained network.

Written after dlib's serialize.h and dnn/layers.h. A whole number is a byte, whose low
four bits are a length and whose highest is the sign, and that many bytes, the lowest
first. A layer starts with its name; the parameters of those that have some follow as a
tensor: a version, four sizes, and 32-bit floats. What else is in the file (rates of
learning, sizes known from the network) is passed over.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hydranet_tf.errors import HydraNetError

# Names of the layers with parameters: convolution, and the scale and shift that
# normalisation leaves behind.
CONVOLUTION, AFFINE = b"con_4", b"affine_"
_TENSOR_VERSION = 2
_SIZES = 4
_SIGN, _LENGTH = 0x80, 0x0F


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
