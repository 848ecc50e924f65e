"""Checkpoints: whole, verified, and of the right network."""

import json
import logging as python_logging
import resource
import shutil

import keras
import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints, losses
from hydranet_tf.checkpoints import BEST, LAST, CheckpointError, Progress
from hydranet_tf.io import atomic
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import TASKS

SIDE = 32


def make_model(backbone=None, optimizer="adam", seed=0):
    keras.utils.set_random_seed(seed)
    weighting = losses.UncertaintyWeights(
        [task.kind for task in TASKS], [12.0, 0.7, 1.4]
    )
    model = HydraNet(
        backbone or synthetic.stem(),
        SIDE,
        augmentation="strong",
        dropout=0.1,
        mixup=0.3,
        weighting=weighting,
    )
    model.compile(optimizer, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, steps=1):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    labels = {
        "age": rng.integers(1, 90, 8).astype("float32"),
        "gender": rng.integers(0, 2, 8),
        "race": rng.integers(0, 5, 8),
    }
    for _ in range(steps):
        model.train_on_batch(images, labels)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with last checkpoints at steps 1, 2 and 3, and its states."""
    folder = tmp_path_factory.mktemp("run")
    model = make_model()
    states = {}
    for step in (1, 2, 3):
        fit(model)
        model.reset_metrics()
        states[step] = state(model)
        progress = Progress(epoch=step, step=step, best=9.5 - step)
        checkpoints.save(folder, LAST, model, progress)
    config = json.dumps(model.get_config())
    (folder / "model.json").write_text(config)
    return folder, states


@pytest.fixture
def workdir(made, tmp_path):
    """A copy of it that a test may damage."""
    folder, states = made
    return shutil.copytree(folder, tmp_path / "run"), states


def names(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def test_two_are_kept_and_the_newest_is_restored_to_the_bit(workdir):
    workdir, states = workdir
    assert names(workdir) == ["last-00000002", "last-00000003"]
    model = make_model(seed=99)
    progress = checkpoints.restore(workdir, model)
    assert progress == Progress(epoch=3, step=3, best=6.5)
    assert_same(state(model), states[3])
    # The random state came along: both go on in the same way.
    twin = make_model(seed=7)
    checkpoints.restore(workdir, twin)
    fit(model, 2), fit(twin, 2)
    assert_same(state(model), state(twin))


@pytest.mark.parametrize("file", ["weights.npz", "training.npz"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_newest_gives_way_to_the_one_before(workdir, file, damage, caplog):
    workdir, states = workdir
    path = workdir / "checkpoints" / "last-00000003" / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    model = make_model()
    with caplog.at_level(python_logging.WARNING, logger="absl"):
        assert checkpoints.restore(workdir, model).step == 2
    assert "last-00000003 is damaged" in caplog.text
    assert_same(state(model), states[2])


def test_when_all_are_damaged_it_says_so(workdir):
    workdir, _ = workdir
    for name in names(workdir):
        (workdir / "checkpoints" / name / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="none of the 2 'last'"):
        checkpoints.restore(workdir, make_model())


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoints.restore(tmp_path, make_model()) is None
    with pytest.raises(CheckpointError, match="not a workdir"):
        checkpoints.load_model(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(CheckpointError, match="train at least one epoch"):
        checkpoints.load_model(tmp_path)


def test_half_written_checkpoint_is_not_seen(workdir):
    workdir, _ = workdir
    folder = workdir / "checkpoints"
    # What a killed save leaves behind.
    shutil.copytree(folder / "last-00000003", folder / ".last-00000004-ab12")
    assert checkpoints.restore(workdir, make_model()).step == 3


def test_full_disk_keeps_the_last_good_one(workdir):
    workdir, states = workdir
    model = make_model()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file may not grow beyond this: writing fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="last good checkpoint is kept"):
            checkpoints.save(workdir, LAST, model, Progress(4, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(workdir) == ["last-00000002", "last-00000003"]
    checkpoints.restore(workdir, model)
    assert_same(state(model), states[3])
    checkpoints.save(workdir, LAST, model, Progress(4, 4))
    assert names(workdir) == ["last-00000003", "last-00000004"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="could not write checkpoint"):
        checkpoints.save(tmp_path, LAST, make_model(), Progress())


def test_other_network_and_other_optimiser_are_refused(workdir):
    workdir, _ = workdir
    with pytest.raises(CheckpointError, match="another network"):
        checkpoints.restore(workdir, make_model("tiny"))
    with pytest.raises(CheckpointError, match="another optimiser"):
        checkpoints.restore(workdir, make_model(optimizer="sgd"))


def test_load_model_prefers_the_best_and_falls_back_to_the_last(workdir):
    workdir, states = workdir
    images = np.zeros((1, SIDE, SIDE, 3), "uint8")

    def predicted(model):
        return model.predict(images, verbose=0)["age"]

    last = checkpoints.load_model(workdir)
    assert last.task_weights().keys() == {"alpha", "beta", "gamma"}
    best = make_model(seed=5)
    checkpoints.save(workdir, BEST, best, Progress(epoch=1, step=1))
    loaded = checkpoints.load_model(workdir)
    np.testing.assert_array_equal(predicted(loaded), predicted(best))
    np.testing.assert_array_equal(
        predicted(checkpoints.load_model(workdir, LAST)), predicted(last)
    )
    assert not np.array_equal(predicted(best), predicted(last))


@pytest.mark.parametrize(
    ("monitor", "score", "best", "expected"),
    [
        ("age_mae", 5.0, None, True),
        ("age_mae", 5.0, 5.1, True),
        ("age_mae", 5.1, 5.1, False),
        ("race_accuracy", 0.8, 0.7, True),
        ("race_accuracy", 0.6, 0.7, False),
        ("age_mae", float("nan"), None, False),
        ("age_mae", float("nan"), 5.0, False),
    ],
)
def test_better(monitor, score, best, expected):
    assert checkpoints.better(monitor, score, best) is expected


def test_failed_write_leaves_the_old_text(tmp_path):
    path = tmp_path / "note.txt"
    atomic.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        atomic.write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        with atomic.new_folder(tmp_path / "made") as folder:
            (folder / "half").write_text("of it")
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError, match="not overwritten"):
        with atomic.new_folder(tmp_path / "made"):
            pass
