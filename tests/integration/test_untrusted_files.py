"""Broken and hostile checkpoints: damage is seen, and nothing in a file is run."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from broken_bytes import broken
from hypothesis import given, settings
from hypothesis import strategies as st

from hydranet_tf import checkpoints, losses
from hydranet_tf.checkpoints import LAST, CheckpointError, Progress
from hydranet_tf.io import array_file
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]


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
    digest = array_file.sha256(folder / "state.json")
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
    # them and refuses every other name (tests/unit/test_torch_files.py).
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
