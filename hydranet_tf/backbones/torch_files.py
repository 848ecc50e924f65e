"""State dicts of PyTorch, read without PyTorch and without trusting the file.

A `.pth` file is a pickle, and a pickle may call anything it likes. This reader
knows the handful of names that tensors are made of and refuses all others, so
the worst that a file can do here is to be refused. Layouts: `torch.save` of
torch 1.6 and later (a zip archive) and from before (pickles, then the bytes),
as in torch/serialization.py; and safetensors.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from hydranet_tf.errors import HydraNetError

# The first pickle of a file from before torch 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    # The upper half of a float32; NumPy has no such type.
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class TorchFileError(HydraNetError, ValueError):
    """A file that holds no state dict, or more than one."""


@dataclasses.dataclass(frozen=True)
class _StorageType:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Bytes that tensors share, by their key in the file."""

    key: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict by name.

    Args:
        path: a `.safetensors` file, or what `torch.save(model.state_dict())`
            wrote.

    Returns:
        Arrays in PyTorch's order of axes; bfloat16 as float32.

    Raises:
        TorchFileError: if the file holds anything but a flat dict of dense
            tensors, names what a state dict has no use for, or is damaged.
        OSError: if it cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_legacy(file)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from None
    except OSError:
        raise
    # What a damaged file makes pickle, zipfile, NumPy and our own arithmetic
    # raise is a matter of chance.
    except Exception as error:
        raise TorchFileError(
            f"{path} is not a whole state dict ({type(error).__name__}: {error}). "
            "Expected a .safetensors file, or a .pth file written by "
            "torch.save(model.state_dict(), path)"
        ) from error


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        roots = [n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")]
        if len(roots) != 1:
            raise TorchFileError(
                "is a zip archive without data.pkl: not written by torch.save"
            )
        root = roots[0]
        if f"{root}byteorder" in names:
            order = archive.read(f"{root}byteorder")
            _require_little_endian(order == b"little")

        def content(storage: _Storage) -> bytes:
            entry = archive.getinfo(f"{root}data/{storage.key}")
            # PyTorch never compresses, and a small file could become any size.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise TorchFileError("is compressed: not written by torch.save")
            return archive.read(entry)

        with archive.open(f"{root}data.pkl") as file:
            return _arrays(_Reader(file).load(), content)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Reader(file).load() != _MAGIC or _Reader(file).load() != _PROTOCOL:
        raise TorchFileError("is a pickle, but not one written by torch.save")
    _require_little_endian(_Reader(file).load()["little_endian"])
    reader = _Reader(file)
    found = reader.load()
    contents = {}
    for key in _Reader(file).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise TorchFileError(f"storage {key} has another length than announced")
        contents[key] = file.read(count * _DTYPES[storage.kind].itemsize)
    return _arrays(found, lambda storage: contents[storage.key])


def _require_little_endian(little: bool) -> None:
    if not little:
        raise TorchFileError("was written on a big-endian machine; save it on another")


class _Reader(pickle.Unpickler):
    """An unpickler that makes descriptions of tensors, and nothing else."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        raise TorchFileError(
            f"asks for {module}.{name}, which no state dict needs; it is refused. "
            "A whole saved model or a training checkpoint has to be saved anew: "
            "torch.save(model.state_dict(), path)"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise TorchFileError("holds a storage of a kind unknown here")
        return self.storages.setdefault(key, _Storage(key, storage_type.name, count))


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_) -> _Tensor:
    return tensor


def _arrays(found: Any, content: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    if not isinstance(found, dict) or not found:
        raise TorchFileError(
            f"holds a {type(found).__name__}, expected a dict of tensors by name"
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise TorchFileError(
                f"entry {name!r} is not a tensor. Save the state dict alone: "
                "torch.save(model.state_dict(), path)"
            )
    # By content and not by tensor: tied weights share theirs.
    read: dict[_Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in found.items():
        storage = tensor.storage
        if storage not in read:
            read[storage] = np.frombuffer(content(storage), _DTYPES[storage.kind])
        arrays[name] = _array(name, tensor, read[storage])
    return arrays


def _array(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    if not whole or len(tensor.shape) != len(tensor.strides):
        raise TorchFileError(f"tensor {name} has an impossible shape")
    # NumPy would read whatever lies behind the bytes of the file; and a tensor
    # larger than its storage (strides of 0) could be of any size.
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    size = math.prod(tensor.shape)
    if size > len(values) or (size and last >= len(values)):
        raise TorchFileError(f"tensor {name} reaches beyond its storage")
    array = np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.shape,
        [stride * values.itemsize for stride in tensor.strides],
        writeable=False,
    ).copy()
    if tensor.storage.kind == "BFloat16Storage":
        return (array.astype("<u4") << 16).view("<f4")
    return array
