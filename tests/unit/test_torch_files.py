"""The reader of PyTorch's files, on files that PyTorch wrote and on bad ones."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from hydranet_tf.backbones import torch_files
from hydranet_tf.backbones.torch_files import TorchFileError, read_state_dict

REFERENCE = Path(__file__).parents[1] / "torch_reference"
NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
EXPECTED = {
    "plain": NUMBERS,
    "transposed": NUMBERS.transpose(2, 0, 1),
    "part": NUMBERS[1, 1:],
    "half": (NUMBERS / 8).astype(np.float16),
    # Eighths up to 3 have at most five significant bits; bfloat16 has eight.
    "bfloat16": NUMBERS / 8,
    "double": NUMBERS.astype(np.float64) / 3,
    "whole": np.array([-(2**40), 7]),
    "truth": np.array([True, False]),
    "bytes": np.array([[0, 255]], np.uint8),
    "scalar": np.array(5),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_what_pytorch_wrote_is_read(layout):
    found = read_state_dict(REFERENCE / f"{layout}.pth")
    assert list(found) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, err_msg=name, strict=True)


def test_safetensors_are_read(tmp_path):
    safetensors.numpy.save_file({"plain": NUMBERS}, tmp_path / "a.safetensors")
    (found,) = read_state_dict(tmp_path / "a.safetensors").values()
    np.testing.assert_array_equal(found, NUMBERS)
    (tmp_path / "b.safetensors").write_bytes(b"no header")
    expected = r"b\.safetensors is not a whole state dict"
    with pytest.raises(TorchFileError, match=expected):
        read_state_dict(tmp_path / "b.safetensors")


def test_a_whole_model_is_refused_with_what_to_do():
    with pytest.raises(TorchFileError, match=r"asks for torch\.nn.*Linear.*refused"):
        read_state_dict(REFERENCE / "whole_model.pth")


class Touch:
    """Pickled, it is a call of os.system."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def zipped(path, pickled, storages=(), kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
    return path


def legacy(path, pickled):
    head = [torch_files._MAGIC, torch_files._PROTOCOL, {"little_endian": True}]
    heads = b"".join(pickle.dumps(part, 2) for part in head)
    path.write_bytes(heads + pickled + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_pickle_that_runs_something_runs_nothing(write, tmp_path):
    mark = tmp_path / "it_ran"
    evil = pickle.dumps({"weight": Touch(mark)}, 2)
    path = write(tmp_path / "evil.pth", evil)
    with pytest.raises(TorchFileError, match=r"system, which no state dict needs"):
        read_state_dict(path)
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists(), "the pickle is harmless: the test shows nothing"


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "builtins.getattr", "torch.load", "torch._utils._rebuild_qtensor",
     "collections.Counter", "numpy.load", "torch.nn.FloatStorage"],
)  # fmt: skip
def test_every_name_but_those_of_tensors_is_refused(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    opcodes = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"."
    with pytest.raises(TorchFileError, match=f"asks for {name}, which"):
        read_state_dict(zipped(tmp_path / "a.pth", opcodes))


def pickled_tensor(shape, strides, offset=0, count=6, key="0"):
    """The pickle of a state dict with one tensor, put together without PyTorch."""

    def parts(*values):
        # Without the mark of the protocol before and the stop behind.
        return b"".join(pickle.dumps(value, 2)[2:-1] for value in values)

    storage_type = b"ctorch\nFloatStorage\n"
    storage = parts("storage") + storage_type + parts(key, "cpu", count)
    # ( ... t is a tuple, Q a persistent id, R a call, s an entry of the dict.
    arguments = b"((" + storage + b"tQ" + parts(offset, shape, strides, False, None)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"tR"
    return b"\x80\x02}" + parts("weight") + rebuild + b"s."


SIX = np.arange(6, dtype="<f4").tobytes()


def test_tensors_stay_within_their_bytes(tmp_path):
    def read(*arguments, content=SIX, **options):
        pickled = pickled_tensor(*arguments, **options)
        return read_state_dict(zipped(tmp_path / "a.pth", pickled, [("0", content)]))

    np.testing.assert_array_equal(read((2, 2), (3, 1), 1)["weight"], [[1, 2], [4, 5]])
    for arguments in [
        ((2, 2), (3, 1), 2),
        ((7,), (1,)),
        ((2**40,), (0,)),
        ((1,), (1,), 6),
    ]:
        with pytest.raises(TorchFileError, match="weight reaches beyond"):
            read(*arguments)
    for arguments in [
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((2, 2), (1,)),
        ((1.5,), (1,)),
    ]:
        with pytest.raises(TorchFileError, match="weight has an impossible shape"):
            read(*arguments)
    with pytest.raises(TorchFileError, match="weight reaches beyond"):
        read((6,), (1,), content=SIX[:-4])
    with pytest.raises(TorchFileError, match="not a whole state dict"):
        read((6,), (1,), key="1")


def test_a_compressed_archive_is_refused(tmp_path):
    pickled = pickled_tensor((6,), (1,))
    path = zipped(tmp_path / "a.pth", pickled, [("0", SIX)], zipfile.ZIP_DEFLATED)
    with pytest.raises(TorchFileError, match="compressed"):
        read_state_dict(path)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_file_that_was_cut_off_is_refused(layout, tmp_path):
    content = (REFERENCE / f"{layout}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in (0, 1, 50, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(TorchFileError, match=r"cut\.pth"):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"state_dict": collections.OrderedDict()}, "'state_dict' is not a tensor"),
        ({"epoch": 3}, "'epoch' is not a tensor"),
        ({}, "expected a dict of tensors"),
        ([1], "holds a list"),
    ],
)
def test_what_is_no_flat_dict_of_tensors_is_refused(content, hint, tmp_path):
    path = zipped(tmp_path / "a.pth", pickle.dumps(content, 2))
    with pytest.raises(TorchFileError, match=hint):
        read_state_dict(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"magic": 1}, 2))
    with pytest.raises(TorchFileError, match="not one written by torch"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(TorchFileError, match=r"without data\.pkl"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "nowhere.pth")


def test_a_storage_of_another_length_is_refused(tmp_path):
    content = (REFERENCE / "legacy.pth").read_bytes()
    path = tmp_path / "a.pth"
    # The first storage holds the 24 numbers and comes after all pickles.
    at = content.index(struct.pack("<q", 24) + NUMBERS.tobytes())
    path.write_bytes(content[:at] + struct.pack("<q", 23) + content[at + 8 :])
    with pytest.raises(TorchFileError, match="another length"):
        read_state_dict(path)
