"""Workdirs: one run each, one process at a time, and errors that say what to do."""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hydranet_tf.checkpoints import Progress
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.sources import Examples, join
from hydranet_tf.io import atomic
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import callbacks, workdir
from hydranet_tf.training.workdir import WorkdirError, opened

CONFIG = TrainingConfig(backbone="tiny")


@contextlib.contextmanager
def unprivileged():
    """Takes from root the right to write everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def folder():
    """Not pytest's own, which only its owner may enter."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


def test_a_second_process_is_kept_out_and_told_by_whom(tmp_path):
    with opened(tmp_path / "run", CONFIG):
        holder = f"in use by process {os.getpid()} on {platform.node()}"
        with pytest.raises(WorkdirError, match=holder):
            with opened(tmp_path / "run", CONFIG):
                raise AssertionError("two at once")
        # Another workdir is free.
        with opened(tmp_path / "other", CONFIG):
            pass
    with opened(tmp_path / "run", CONFIG):
        pass


def test_settings_bind_once_the_run_began(tmp_path):
    """What ended over its data can be tried again with other settings."""
    wider = dataclasses.replace(CONFIG, image_size=96)
    for config in (CONFIG, wider):
        with opened(tmp_path, config):
            pass
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(WorkdirError, match="--image_size: 96 before"):
        with opened(tmp_path, CONFIG):
            raise AssertionError("opened")


def test_a_lock_that_was_left_behind_means_nothing(tmp_path):
    (tmp_path / "lock").write_text("process 1 on elsewhere\n")
    with opened(tmp_path, CONFIG):
        text = (tmp_path / "lock").read_text()
        assert text == f"process {os.getpid()} on {platform.node()}\n"


def test_errors_of_the_body_are_its_own_and_unlock(tmp_path):
    with pytest.raises(OSError, match="of the body"):
        with opened(tmp_path, CONFIG):
            raise OSError("of the body")
    with opened(tmp_path, CONFIG):
        pass


def test_what_killed_processes_left_half_written_is_removed(tmp_path):
    with opened(tmp_path, CONFIG):
        pass
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with contextlib.ExitStack() as never_closed:
        half = never_closed.enter_context(atomic.new_folder(checkpoints / "last-1"))
        (half / "weights.npz").write_text("half of it")
        copy = shutil.copytree(half, checkpoints / f"{half.name[:-11]}2.unfinished")
    shutil.rmtree(checkpoints / "last-1")
    text = tmp_path / ".config.json-abcd1234.unfinished"
    text.write_text("{")
    kept = tmp_path / ".notes"
    kept.write_text("of the user")
    with opened(tmp_path, CONFIG):
        assert not copy.exists()
        assert not text.exists()
        assert kept.exists()


def test_a_read_only_workdir_is_named(folder):
    with opened(folder / "run", CONFIG):
        pass
    for path in (folder / "run", folder):
        path.chmod(0o555)
    (folder / "run" / "lock").chmod(0o444)
    # One to go on with, one to begin.
    for name in ("run", "new"):
        with unprivileged():
            with pytest.raises(WorkdirError, match="cannot write to workdir .*denied"):
                with opened(folder / name, CONFIG):
                    raise AssertionError("opened for nothing")
    (folder / "run").chmod(0o755)


def test_a_strange_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not overwrite")
    with pytest.raises(WorkdirError, match="not empty and holds no config.json"):
        with opened(tmp_path, CONFIG):
            raise AssertionError("opened")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000])
def test_a_damaged_config_is_named(tmp_path, text):
    with opened(tmp_path, CONFIG):
        pass
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WorkdirError, match="config.json is damaged"):
        with opened(tmp_path, CONFIG):
            raise AssertionError("opened")
    assert (tmp_path / "config.json").read_text() == text


def test_a_config_of_another_version_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"beauty": 1}')
    with pytest.raises(ConfigError, match="does not know: beauty"):
        with opened(tmp_path, CONFIG):
            raise AssertionError("opened")


def examples(ids, ages, genders):
    labels = {
        "age": np.array(ages, np.float32),
        "gender": np.array(genders, np.int32),
    }
    return Examples(np.array(ids), labels, lambda i: b"")


def described(folder, training, validation=None):
    """Describes a run on examples."""
    faces = [Faces(part, 8, None, ()) for part in (training, validation or training)]
    network = SimpleNamespace(tasks=(), get_config=dict)
    workdir.describe(folder, network, *faces)


def test_a_damaged_description_of_the_data_is_named(tmp_path):
    part = examples(["1.jpg", "2.jpg", "3.jpg"], [20, 30, 40], [0, 1, 1])
    described(tmp_path, part)
    run = json.loads((tmp_path / "run.json").read_text())
    expected = {"examples": 3, "digest": part.digest(), "skipped": []}
    assert run["data"]["train"] == expected
    with pytest.raises(WorkdirError, match="the validation part is not what"):
        described(tmp_path, part, part.select([0, 1]))
    del run["data"]["validation"]
    for text in ("", "[]", json.dumps(run)):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(WorkdirError, match="run.json is damaged"):
            described(tmp_path, part)


def test_a_full_disk_ends_the_log_with_a_reason(tmp_path):
    log = callbacks.EpochLog(tmp_path, Progress(), batch_size=4)
    # The device that answers every write as a full disk does.
    log.path.symlink_to("/dev/full")
    log.set_model(
        SimpleNamespace(
            optimizer=SimpleNamespace(iterations=3, learning_rate=0.1),
            task_weights=dict,
        )
    )
    log.on_epoch_begin(0)
    log.on_test_begin()
    with pytest.raises(callbacks.LogError, match="No space left on device"):
        log.on_epoch_end(0, {"loss": 1.0})


def test_which_faces_a_run_was_trained_on(tmp_path):
    """A name of bytes that are not UTF-8, commas and quotes included."""
    odd = os.fsdecode(b'a \xff "b", c.jpg')
    described(tmp_path, examples([odd, "2.jpg", "3.jpg"], [20, 30, MISSING], [0, 1, 1]))
    there = examples(
        ["2.jpg", odd, "3.jpg", "4.jpg", "2.JPG"], [30, 20, 41, 30, 30], [1, 0, 1, 1, 1]
    )
    found = workdir.trained_on(tmp_path, there, "faces")
    # A label that one of the two lacks does not contradict.
    assert found.tolist() == [True, True, True, False, False]
    # Other people's 2.jpg: another age, another gender.
    others = examples(["2.jpg", "2.jpg"], [31, 30], [1, 0])
    assert workdir.trained_on(tmp_path, others, "faces").tolist() == [False, False]


def test_which_faces_a_run_of_two_sources_was_trained_on(tmp_path):
    first, second = examples(["1.jpg"], [20], [0]), examples(["1.jpg"], [60], [1])
    described(tmp_path, join({"first": first, "second": second}))
    assert workdir.trained_on(tmp_path, first, "first").all()
    assert workdir.trained_on(tmp_path, second, "second").all()
    assert not workdir.trained_on(tmp_path, first, "second").any()


def test_what_a_run_of_an_earlier_version_was_trained_on_is_not_known(tmp_path):
    assert workdir.trained_on(tmp_path, examples(["1.jpg"], [20], [0]), "x") is None


def test_a_damaged_list_of_training_faces_is_named(tmp_path):
    faces = examples(["1.jpg"], [20], [0])
    described(tmp_path, faces)
    (tmp_path / "training_faces.csv").write_text("id,age\n1.jpg,many\n")
    with pytest.raises(WorkdirError, match=r"training_faces\.csv is damaged.*'many'"):
        workdir.trained_on(tmp_path, faces, "x")
