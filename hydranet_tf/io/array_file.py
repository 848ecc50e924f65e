"""Variables in a NumPy archive (.npz): what is in it is known before it is read.

The arrays are NumPy's and not HDF5: HDF5 can crash the process when the disk is
full, and then nobody says why the run ended. The file may come from elsewhere:
nothing in it is unpickled, and no array is read, nor memory taken for it, before
its declared shape and type were found to be the expected ones.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from hydranet_tf.errors import HydraNetError

_SUFFIX = ".npy"
# What zipfile and NumPy raise on broken bytes: RuntimeError is zipfile's for
# encrypted members, NotImplementedError for unknown compression.
_UNREADABLE = (
    EOFError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError,
    RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

Kind = tuple[tuple[int, ...], str]


class ArrayFileError(HydraNetError, ValueError):
    """A file that is not an archive of arrays."""


class OtherArraysError(ArrayFileError):
    """An archive that holds other arrays than asked for."""


def save(path: Path, variables: Mapping[str, keras.Variable]) -> None:
    """Writes the values by name.

    Raises:
        OSError: if it cannot be written.
    """
    np.savez(path, **{n: keras.ops.convert_to_numpy(v) for n, v in variables.items()})


def load_into(path: Path, variables: Mapping[str, keras.Variable]) -> None:
    """Assigns what `save` wrote; all of it fits, or nothing changes.

    Args:
        path: of the file.
        variables: by name.

    Raises:
        OtherArraysError: if names, shapes or types are not those of the
            variables.
        ArrayFileError: if the file cannot be read.
    """
    expected = {
        name: (tuple(v.shape), keras.backend.standardize_dtype(v.dtype))
        for name, v in variables.items()
    }
    arrays = read(path, expected)
    for name, variable in variables.items():
        variable.assign(arrays[name])


def read(path: Path, expected: Mapping[str, Kind]) -> dict[str, np.ndarray]:
    """The arrays of a file, of which there must be these and no other.

    Args:
        path: of the file.
        expected: shape and type of each by name.

    Raises:
        OtherArraysError: if names, shapes or types are other ones.
        ArrayFileError: if the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _compare(_declared(archive), expected)
            return {name: _read(archive, name) for name in expected}
    except ArrayFileError:
        raise
    except _UNREADABLE as error:
        raise ArrayFileError(f"is not a readable archive of arrays: {error}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal: whether it is still what was written."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _declared(archive: zipfile.ZipFile) -> dict[str, Kind]:
    """Shape and type of every member, from the headers alone."""
    found = {}
    for member in archive.namelist():
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ArrayFileError(f"holds {member!r} in NumPy's format {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        name = member.removesuffix(_SUFFIX)
        if name in found:
            raise ArrayFileError(f"holds {name!r} twice")
        found[name] = (shape, dtype.name)
    return found


def _compare(found: Mapping[str, Kind], expected: Mapping[str, Kind]) -> None:
    names = found.keys() | expected.keys()
    odd = sorted(n for n in names if found.get(n) != expected.get(n))
    if odd:
        raise OtherArraysError(
            f"{len(odd)} variables differ, the first {odd[0]}: "
            f"{_shown(found.get(odd[0]))} in the file, "
            f"{_shown(expected.get(odd[0]))} here"
        )


def _shown(kind: Kind | None) -> str:
    return "none" if kind is None else f"{kind[1]} of shape {kind[0]}"


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name + _SUFFIX) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        # zipfile compares the member's checksum when its end is reached.
        if file.read(1):
            raise ArrayFileError(f"holds more than the array {name!r} in its place")
    return array
