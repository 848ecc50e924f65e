"""Broken and hostile input: an error that says so, or the right answer.

Thousands of cases, most of them made by breaking valid files: random bytes alone
would never pass the first check.
"""

from __future__ import annotations

import ast
import io
import json
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import synthetic
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hydranet_tf import array_file, checkpoints, file_names, losses, preprocessing
from hydranet_tf.checkpoints import LAST, CheckpointError, Progress
from hydranet_tf.model import HydraNet
from hydranet_tf.sources import ALL, open_source
from hydranet_tf.tables import SourceError
from hydranet_tf.tasks import TASKS, LabelError

ROOT = Path(__file__).resolve().parents[1]


def broken(originals, most=6):
    """Some byte strings after a few edits, none of them maybe."""
    # The edits are drawn from one number: to draw each by Hypothesis takes longer
    # than the code under test.
    return st.builds(
        _edited, st.sampled_from(originals), st.integers(0, 2**32), st.integers(0, most)
    )


def _edited(original, seed, edits):
    rng = random.Random(seed)
    data = bytearray(original)
    for _ in range(edits):
        at = rng.randint(0, len(data))
        some = rng.randbytes(rng.randint(1, 16))
        edit = rng.choice(("flip", "flip", "write", "cut", "put", "drop", "copy"))
        if edit == "flip" and at < len(data):
            data[at] ^= 1 << rng.randint(0, 7)
        elif edit == "write":
            data[at : at + len(some)] = some
        elif edit == "cut":
            del data[at:]
        elif edit == "put":
            data[at:at] = some
        elif edit == "drop":
            del data[at : at + len(some)]
        else:
            data[at:at] = data[: rng.randint(0, len(data))]
    return bytes(data)


# --- pictures


def pictures():
    image = synthetic.picture(30, 0, 1, side=24)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        (image, "JPEG", {}),
        (image, "JPEG", {"exif": exif, "progressive": True}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif}),
        (image.convert("RGBA"), "PNG", {}),
        (image.convert("P"), "PNG", {}),
        (image.convert("1"), "PNG", {}),
        (image.convert("I;16"), "PNG", {}),
    ]
    found = []
    for picture, form, options in made:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


@pytest.fixture(scope="module")
def decode():
    """The decoder as tf.data and served models run it."""
    return tf.function(
        preprocessing.decode, input_signature=[tf.TensorSpec([], tf.string)]
    )


@settings(max_examples=1500)
@given(data=broken(pictures()))
def test_broken_pictures_are_decoded_or_refused(decode, data):
    try:
        image = decode(data)
    except tf.errors.InvalidArgumentError as error:
        assert error.message
    else:
        assert image.dtype == tf.uint8
        height, width, channels = image.shape
        assert min(height, width) >= preprocessing.MIN_SIDE
        assert height * width <= preprocessing.MAX_PIXELS
        assert channels == 3


def bomb(form):
    """A picture of a few bytes that declares 60,000 x 60,000 pixels or more."""
    side = 60_000
    if form == "JPEG":
        data = synthetic.encoded("JPEG")
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
    if form == "PNG":
        data = synthetic.encoded("PNG")
        return data[:16] + struct.pack(">II", side, side) + data[24:]
    data = bytearray(synthetic.encoded(form))
    if form == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    else:
        data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


def memory(field):
    """kB of this process from the kernel: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_declared_size_is_refused_before_memory_is_taken(decode, form):
    expected = "pixels in all" if form in ("JPEG", "PNG") else "JPEG or PNG"
    data = bomb(form)
    # Starts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        decode(data)
    # Decoded it would be 10 GB.
    assert memory("VmHWM") - before < 64_000


# --- names and tables

_FIELDS = st.one_of(
    st.integers(-3, 200).map(str),
    st.sampled_from(["", "0", "00", "1", "٣", "²", "1e1", " 1", "20170116174525125"]),
    st.text(max_size=6),
)


@settings(max_examples=1000)
@given(
    name=st.one_of(
        st.text(max_size=40),
        st.lists(_FIELDS, min_size=1, max_size=6).map("_".join),
        st.lists(_FIELDS, min_size=3, max_size=5).map(lambda f: "_".join(f) + ".jpg"),
    )
)
def test_any_name_gives_its_own_labels_or_none(name):
    try:
        found = file_names.parse_name(name)
    except LabelError:
        return
    age, gender, rest = name.split("_", 2)
    race = rest.split("_")[0]
    expected = {"age": int(age), "gender": int(gender), "race": -1}
    if "_" in rest:
        expected["race"] = int(race)
    else:
        assert len(race) >= 8
    assert found == expected
    assert 0 <= found["age"] <= 120
    assert found["gender"] in (0, 1)
    assert found["race"] in (-1, 0, 1, 2, 3, 4)


@given(name=st.text(st.characters(), max_size=30))
def test_every_name_has_a_split(name):
    assert file_names.hash_split(name) in file_names.SPLITS


TABLE = (
    "path,age,gender,race,split\n"
    "a.jpg,26,male,asian,train\n"
    "b.jpg,1,1,,validation\n"
    '"c,d.jpg",101.5,female,4,test\n'
    "a.png,,0,black,train\n"
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    for name in ("a.jpg", "b.jpg", "c,d.jpg", "a.png"):
        (folder / name).write_bytes(b"")
    return folder


def label_of(task, cell):
    """What a cell says, worked without the package's parser; None if nothing."""
    cell = cell.strip()
    if not cell:
        return -1
    if task.is_regression:
        plain = cell.isascii() and "_" not in cell
        return np.float32(float(cell)) if plain else None
    by_name = {name: i for i, name in enumerate(task.classes)}
    return by_name.get(cell.lower(), int(cell) if cell.isdecimal() else None)


def check_table(faces, data):
    table = faces / "faces.csv"
    table.write_bytes(data)
    try:
        examples = open_source(table, ALL)
    except SourceError as error:
        assert str(error)
        return
    text = data.decode("utf-8-sig")
    rows = [[cell.strip() for cell in row] for row in plain_rows(text)]
    header = rows[0]
    said = {
        row[header.index("path")]: dict(zip(header, row, strict=True))
        for row in rows[1:]
    }
    for i, name in enumerate(examples.ids.tolist()):
        assert (faces / name).is_file()
        for task in TASKS:
            cell = said[name.strip()][task.name]
            assert examples.labels[task.name][i] == label_of(task, cell)


def plain_rows(text):
    """Splits a table by hand: states of one character after another."""
    rows, row, cell, quoted, i = [], [], "", False, 0
    text = text.replace("\r\n", "\n").replace("\r", "\n") + "\n"
    while i < len(text):
        mark = text[i]
        if quoted:
            if mark == '"' and text[i + 1 : i + 2] == '"':
                cell += '"'
                i += 1
            elif mark == '"':
                quoted = False
            else:
                cell += mark
        elif mark == '"' and not cell:
            quoted = True
        elif mark == ",":
            row.append(cell)
            cell = ""
        elif mark == "\n":
            if row or cell:
                rows.append([*row, cell])
            row, cell = [], ""
        else:
            cell += mark
        i += 1
    return rows


@settings(max_examples=1000)
@given(data=broken([TABLE.encode(), TABLE.encode("utf-8-sig")], most=3))
def test_a_broken_table_gives_what_it_says_or_an_error(faces, data):
    check_table(faces, data)


@pytest.mark.parametrize(
    "cell",
    ["9" * 5000, "1_0", "٢٦", "nan", "-0.5", "1e999", "x" * 70_000],
    ids=lambda cell: cell[:6],
)
@pytest.mark.parametrize("column", ["path", "age", "gender", "race", "split"])
def test_odd_cells_are_refused(faces, column, cell):
    row = {"path": "a.jpg", "age": "1", "gender": "0", "race": "1", "split": "train"}
    row[column] = cell
    table = faces / "odd.csv"
    table.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(SourceError, match="1 rows need a correction"):
        open_source(table, ALL)


# --- checkpoints


def variables():
    return {
        "kernel": keras.Variable(np.arange(6.0).reshape(2, 3), dtype="float32"),
        "iterations": keras.Variable(7, dtype="int64"),
        "seed": keras.Variable([1, 2], dtype="uint32"),
    }


def archive():
    path = io.BytesIO()
    array_file.save(path, variables())
    return path.getvalue()


@pytest.fixture(scope="module")
def blank():
    return {
        name: keras.Variable(np.zeros(v.shape), dtype=v.dtype)
        for name, v in variables().items()
    }


SAVED = {name: np.asarray(v) for name, v in variables().items()}


@settings(max_examples=1500)
@given(data=broken([archive()]))
def test_a_broken_archive_gives_what_was_saved_or_an_error(blank, data):
    for variable in blank.values():
        variable.assign(np.zeros(variable.shape))
    try:
        array_file.load_into(io.BytesIO(data), blank)
    except array_file.ArrayFileError as error:
        assert str(error)
        # All or nothing.
        assert not any(np.any(v) for v in blank.values())
    else:
        for name, value in SAVED.items():
            np.testing.assert_array_equal(blank[name], value)


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_an_archive_is_not_opened(tmp_path):
    trap = np.array([Trap(tmp_path / "sprung")], object)
    np.savez(tmp_path / "a.npz", **{name: trap for name in variables()})
    with pytest.raises(array_file.ArrayFileError, match="object of shape"):
        array_file.load_into(tmp_path / "a.npz", variables())
    # Where even the names and shapes are right.
    wanted = {"seed": keras.Variable([1], dtype="uint32")}
    np.savez(tmp_path / "b.npz", seed=trap)
    with pytest.raises(array_file.ArrayFileError, match="object of shape"):
        array_file.load_into(tmp_path / "b.npz", wanted)
    assert not (tmp_path / "sprung").exists()
    # The trap is one.
    with np.load(tmp_path / "b.npz", allow_pickle=True) as saved:
        saved["seed"]
    assert (tmp_path / "sprung").exists()


def test_an_archive_takes_no_memory_for_what_it_declares(tmp_path):
    header = io.BytesIO()
    huge = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, huge)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as made:
        made.writestr("kernel.npy", header.getvalue())
    with pytest.raises(array_file.OtherArraysError, match="shape"):
        array_file.load_into(tmp_path / "a.npz", {"kernel": keras.Variable([1.0, 2.0])})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with two last checkpoints of a small network."""
    workdir = tmp_path_factory.mktemp("run")
    weighting = losses.UncertaintyWeights(
        [task.kind for task in TASKS], [12.0, 0.7, 1.4]
    )
    model = HydraNet("tiny", 32, width=2, weighting=weighting)
    model.compile("sgd", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    progress = {}
    for step in (3, 6):
        progress[step] = Progress(
            epoch=step // 3, step=step, best=9.0 - step, batch=1, running=[0.5, [1, 2]]
        )
        checkpoints.save(workdir, LAST, model, progress[step])
    (workdir / "model.json").write_text(json.dumps(model.get_config()))
    return workdir, progress


_FILES = ("state.json", "SHA256SUMS", "weights.npz", "training.npz")


@settings(max_examples=500)
@given(data=st.data(), name=st.sampled_from(_FILES))
def test_a_broken_checkpoint_gives_way_to_the_one_before(run, data, name):
    workdir, progress = run
    path = workdir / "checkpoints" / "last-00000006" / name
    original = path.read_bytes()
    path.write_bytes(data.draw(broken([original], most=3)))
    try:
        folder, found = checkpoints.newest(workdir, LAST)
    finally:
        path.write_bytes(original)
    # Whole in every number, or the other one.
    assert found == progress[int(folder.name[5:])]


@pytest.mark.parametrize(
    "state",
    ["[]", "3", "{}", '{"epoch": "1"}', '{"surprise": 1}', "[" * 100_000, "null",
     '{"sha256": []}', '{"sha256": {"../../../etc/passwd": ""}}', "\ufeff{}"],
    ids=lambda state: state[:12],
)  # fmt: skip
def test_a_state_of_another_form_is_damage(run, tmp_path, state):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    folder = workdir / "checkpoints" / "last-00000006"
    (folder / "state.json").write_text(state)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    digest = checkpoints._sha256(folder / "state.json")
    sums[2] = f"{digest}  state.json"
    (folder / "SHA256SUMS").write_text("\n".join(sums))
    found, progress = checkpoints.newest(workdir, LAST)
    if state == "{}":
        # The form of a run that has not begun.
        assert progress == Progress()
    else:
        assert found.name == "last-00000003"


def hostile(tmp_path):
    """Descriptions that would run code, or something else, if they were obeyed."""
    lambda_layer = keras.saving.serialize_keras_object(
        keras.layers.Lambda(lambda x: x, name="trap")
    )
    return {
        "lambda": {"weighting": lambda_layer},
        "function": {"weighting": {"module": "os", "class_name": "mkdir",
                     "config": {"path": str(tmp_path / "sprung")},
                     "registered_name": "mkdir"}},
        "builtin": {"weighting": {"module": "builtins", "class_name": "function",
                    "config": "exec", "registered_name": "function"}},
        "text": {"weighting": "exec"},
        "no_backbone": {"backbone": "../../etc"},
        "list_of_tasks": {"tasks": [["age"]]},
        "list": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["lambda", "function", "builtin", "text", "no_backbone", "list_of_tasks", "list"],
)
def test_a_hostile_description_is_refused(run, tmp_path, kind):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    described = workdir / "model.json"
    change = hostile(tmp_path)[kind]
    config = json.loads(described.read_text())
    described.write_text(json.dumps(config | change if change else change))
    with pytest.raises(CheckpointError, match="does not describe a network"):
        checkpoints.load_model(workdir)
    assert not (tmp_path / "sprung").exists()


# --- the code


_UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_UNSAFE_CALLS = {"eval", "exec", "extractall", "enable_unsafe_deserialization",
                 "unsafe_load"}  # fmt: skip


_MAY_UNPICKLE = {
    # Published weights are pickles; that reader makes descriptions of tensors of
    # them and refuses every other name (tests/test_torch_files.py).
    "torch_files.py",
    # Messages between processes that Ray started, and never a file.
    "sharded.py",
}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = node.func
            yield getattr(named, "attr", getattr(named, "id", "")), node


def sources_of_the_project():
    folders = ("hydranet_tf", "datasets", "examples", "benchmarks")
    paths = [p for f in folders for p in (ROOT / f).rglob("*.py")]
    return [*paths, *ROOT.glob("*.py")]


def test_no_module_can_unpickle_or_extract():
    """What a file holds is read as data on every path."""
    paths = sources_of_the_project()
    assert len(paths) > 40
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            packages = {name.split(".")[0] for name in names}
            if path.name in _MAY_UNPICKLE:
                packages -= {"pickle"}
            assert not packages & _UNPICKLE, path
        for name, call in calls(tree):
            assert name not in _UNSAFE_CALLS, (path, call.lineno)
            given_options = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert given_options.get("allow_pickle", "False") == "False", path
            assert given_options.get("safe_mode", "True") == "True", path
            if ast.unparse(call.func) == "np.load":
                assert "allow_pickle" in given_options, (path, call.lineno)
