"""Runs that are killed, told to leave, or started twice: nothing is lost."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints
from hydranet_tf.config import TrainingConfig
from hydranet_tf.training import callbacks, train
from hydranet_tf.training.workdir import WorkdirError

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
STEPS = 9
EPOCHS = 5
# After every step.
ALWAYS = 1e-9


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 60, side=32)
    return TrainingConfig(
        data=str(folder),
        split_lists=str(folder / "splits"),
        backbone="tiny",
        image_size=32,
        epochs=EPOCHS,
        batch_size=4,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        warmup_epochs=1.0,
        augmentation="standard",
        dropout=0.1,
        deterministic=True,
    )


@contextlib.contextmanager
def started(settings, workdir, **changes):
    """Runs train.py; kills what its body leaves."""
    values = {**dataclasses.asdict(settings), **changes}
    command = [sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}"]
    command += [f"--{name}={value}" for name, value in values.items()]
    run = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield run
    finally:
        run.kill()
        run.wait()
        run.stderr.close()


def steps_saved(workdir):
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return set()
    return {int(p.name[5:]) for p in folder.iterdir() if p.name.startswith("last-")}


def wait_until(holds, run, seconds=240):
    deadline = time.monotonic() + seconds
    while not holds():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_step(step, run, workdir):
    wait_until(lambda: max(steps_saved(workdir), default=0) >= step, run)


def kill_while_writing(run, workdir, step):
    """SIGKILL with a checkpoint half written, after a step."""
    wait_for_step(step, run, workdir)
    for _ in range(1000):
        wait_until(lambda: half_written(workdir), run)
        # Held still, to see whether the write is still under way.
        os.kill(run.pid, signal.SIGSTOP)
        if half_written(workdir):
            break
        os.kill(run.pid, signal.SIGCONT)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert half_written(workdir)


def half_written(workdir):
    return list((workdir / "checkpoints").glob(".last-*"))


def rows(workdir):
    measured = {"seconds", "images_per_second"}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in measured}
        for line in lines
    ]


def contents(folder):
    """Everything a checkpoint holds, sums of running scores and all."""
    found = {"state": json.loads((folder / "state.json").read_text())}
    for name in ("weights.npz", "training.npz"):
        with np.load(folder / name, allow_pickle=False) as saved:
            found |= {f"{name}/{key}": saved[key] for key in saved.files}
    return found


def test_killed_told_to_leave_and_resumed_equals_unbroken(settings, tmp_path):
    """Three kill -9, one of them in a write, then SIGTERM, then the same command."""
    draw = random.Random(20)
    first, second, third = (draw.randint(k, k + 7) for k in (2, 10, 18))
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    # Both at once, for there are two cores; each is deterministic by itself.
    with started(settings, unbroken, checkpoint_minutes=0) as whole:
        for step in (first, second):
            with started(settings, broken, checkpoint_minutes=ALWAYS) as run:
                wait_for_step(step, run, broken)
                # A second run on this workdir keeps out of it.
                with pytest.raises(WorkdirError, match=f"by process {run.pid} on"):
                    train.train(settings, broken)
                os.kill(run.pid, signal.SIGKILL)
        with started(settings, broken, checkpoint_minutes=ALWAYS) as run:
            kill_while_writing(run, broken, third)

        reached = max(steps_saved(broken))
        end_of_epoch = (reached // STEPS + 1) * STEPS
        with started(settings, broken, checkpoint_minutes=0) as run:
            wait_until(lambda: end_of_epoch in steps_saved(broken), run)
            run.terminate()
            _, printed = run.communicate(timeout=120)
        assert run.returncode == 75
        left_at = max(steps_saved(broken))
        assert f"SIGTERM came: saved at step {left_at}" in printed
        _, progress = checkpoints.newest(broken, checkpoints.LAST)
        assert progress.batch == left_at - progress.epoch * STEPS > 0
        assert len(rows(broken)) == progress.epoch == end_of_epoch // STEPS

        with started(settings, broken, checkpoint_minutes=0) as run:
            assert run.wait(timeout=240) == 0, run.communicate()[1]
        assert whole.wait(timeout=240) == 0, whole.communicate()[1]

    assert [row["step"] for row in rows(broken)] == [9, 18, 27, 36, 45]
    assert rows(broken) == rows(unbroken)
    for kind in (checkpoints.LAST, checkpoints.BEST):
        (one, progress), (other, _) = (
            checkpoints.newest(w, kind) for w in (unbroken, broken)
        )
        assert one.name == other.name
        one, other = contents(one), contents(other)
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    # What interruptions leave behind is gone.
    one, other = (
        {p.relative_to(w) for p in w.rglob("*") if "tfevents" not in p.name}
        for w in (unbroken, broken)
    )
    assert one == other
    for part in ("train", "validation"):
        assert len(list((broken / "tensorboard" / part).iterdir())) == 1


def test_sigterm_in_validation_loses_no_step(settings, tmp_path, monkeypatch):
    """The epoch's batches are used up; its validation alone is done again."""
    settings = dataclasses.replace(
        settings, backbone=synthetic.stem(), epochs=2, augmentation="none",
        deterministic=False,
    )  # fmt: skip
    plain = train.callbacks.EpochLog.on_test_begin

    def preempted(self, logs=None):
        plain(self, logs)
        if self.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(train.callbacks.EpochLog, "on_test_begin", preempted)
        with pytest.raises(callbacks.Preempted, match="saved at step 18"):
            train.train(settings, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is handler
    folder, progress = checkpoints.newest(tmp_path, checkpoints.LAST)
    assert (progress.epoch, progress.batch) == (1, STEPS)
    before = contents(folder)
    total, count = progress.running[0], progress.running[1]

    train.train(settings, tmp_path)

    one, two = rows(tmp_path)
    assert (one["step"], two["step"]) == (9, 18)
    assert one.keys() == two.keys()
    # Keras' tracker of the loss comes first: its sum over its count.
    assert two["loss"] == pytest.approx(total / count, rel=1e-6)
    folder, progress = checkpoints.newest(tmp_path, checkpoints.LAST)
    assert (progress.epoch, progress.batch, progress.running) == (2, 0, None)
    # Not one more step was made.
    for name, value in contents(folder).items():
        if name != "state":
            np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_sigterm_is_noted_where_it_is_awaited_and_raised_elsewhere():
    handler = signal.getsignal(signal.SIGTERM)
    with callbacks.notice() as notice:
        with notice.awaited():
            os.kill(os.getpid(), signal.SIGTERM)
            assert notice.came
        with pytest.raises(callbacks.Preempted, match="before the first step"):
            os.kill(os.getpid(), signal.SIGTERM)
            # Handlers run between two instructions; this is the next ones.
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_outside_of_the_main_thread_no_signal_is_heard():
    """Python would refuse to set the handler there."""
    found = []

    def listen():
        with callbacks.notice() as notice:
            found.append(notice.came)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join(timeout=10)
    assert found == [False]


_LONG_RUN = """
import sys
from hydranet_tf.training import callbacks, train
from hydranet_tf.config import TrainingConfig

class Watched(callbacks.Checkpointing):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch + 1 in (10, 30):
            with open("/proc/self/status") as file:
                rss = next(line.split()[1] for line in file if line.startswith("VmRSS"))
            files = sum(len(f) for _, _, f in os.walk(sys.argv[2]))
            print("measured", epoch + 1, rss, files)

import os
callbacks.Checkpointing = Watched
train.train(TrainingConfig.from_json(sys.argv[1]), sys.argv[2])
"""


def test_a_long_run_neither_grows_nor_litters(settings, tmp_path):
    settings = dataclasses.replace(
        settings, epochs=30, batch_size=12, augmentation="none", deterministic=False
    )
    done = subprocess.run(
        [sys.executable, "-c", _LONG_RUN, settings.to_json(), tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = {
        int(epoch): (int(rss), int(files))
        for word, epoch, rss, files in (
            line.split() for line in done.stdout.splitlines() if line[:8] == "measured"
        )
        if word == "measured"
    }
    (early, early_files), (late, late_files) = measured[10], measured[30]
    assert late < 1.05 * early
    # Two checkpoints of either kind with four files each, three event files, config,
    # run, model, tasks, training faces, log and lock.
    assert early_files <= 26
    assert late_files <= 26
