"""Work in other processes: nothing lost, nothing doubled, one of them killed."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import synthetic
from small_network import random_model

from hydranet_tf.errors import HydraNetError
from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.photos import predict, sharded

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 120

# A token of their own: Ray would write one into the home folder. No address: a
# cluster of this machine.
ENVIRONMENT = {
    **os.environ, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "phone.tflite"
    network = random_model()
    description = saved_model.describe(network.tasks, network.image_size)
    litert.write(network.inference_model(), description, path)
    return path


def below(pid):
    """All processes that a process has started, and those that they have."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, of in parents.items() if of in found} - found:
        found |= more
    return found


def readers(fifo, among):
    """The processes that have a pipe open."""
    found = set()
    for pid in among:
        with contextlib.suppress(OSError):
            opened = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
            found |= {pid} & {pid for path in opened if path == str(fifo)}
    return found


def is_worker(pid):
    try:
        return b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def waited_for(condition, process):
    """The first true value of a condition, while a process is there."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def writing_end(fifo):
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        # As long as nobody reads.
        assert error.errno == errno.ENXIO
        return None


@pytest.mark.long
def test_one_of_two_workers_is_killed_and_no_row_is_lost_or_doubled(model, tmp_path):
    """On the cluster that predict.py makes of a machine with two cores or more."""
    album = tmp_path / "album"
    album.mkdir()
    for i in range(16):
        data = synthetic.encoded(age=3 * i, race=i % 5, seed=i)
        (album / f"{i:02}.jpg").write_bytes(data)
    (album / "14.jpg").write_bytes(b"no picture")
    predict.predict(
        [str(album)], model, tmp_path / "local.csv", detector=None, batch_size=3
    )
    expected = (tmp_path / "local.csv").read_bytes()
    assert expected.count(b"\n") == 17

    # An earlier run did five pictures; its rows stay as they are.
    lines = expected.splitlines(keepends=True)
    marked = lines[2].replace(b",0.", b",9.", 1)
    assert marked != lines[2]
    (tmp_path / "rows.csv").write_bytes(b"".join([*lines[:2], marked, *lines[3:6]]))
    expected = expected.replace(lines[2], marked)
    # A picture in the middle that comes when the test lets it: whoever waits for
    # it is a worker within a batch.
    data = (album / "09.jpg").read_bytes()
    (album / "09.jpg").unlink()
    # Named one by one: of a folder pipes are left out.
    os.mkfifo(album / "09.jpg")

    with subprocess.Popen(
        [sys.executable, REPOSITORY / "predict.py", "--runner=ray", "--no_detect",
         f"--model={os.path.relpath(model, tmp_path)}", "--output=rows.csv",
         "--batch_size=3", *sorted(album.iterdir())],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process, contextlib.ExitStack() as at_the_end:  # fmt: skip
        # Or what fails here would wait for a process that waits for the picture.
        at_the_end.callback(process.kill)

        def workers():
            return {pid for pid in below(process.pid) if is_worker(pid)}

        end = waited_for(lambda: writing_end(album / "09.jpg"), process)
        assert len(waited_for(lambda: len(found := workers()) > 1 and found, process))
        # A process is known as a worker by its name, which it changes now and then.
        (killed,) = waited_for(lambda: readers(album / "09.jpg", workers()), process)
        os.kill(killed, signal.SIGKILL)
        (successor,) = waited_for(
            lambda: readers(album / "09.jpg", workers() - {killed}), process
        )
        assert successor != killed
        os.write(end, data)
        os.close(end)
        printed, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, complaints
    assert "Traceback" not in complaints and "arning" not in complaints
    assert printed.splitlines()[-1] == (
        "pictures: 16, faces: 15, pictures without a face: 0, unreadable: 1; "
        "rows in rows.csv"
    )
    assert (tmp_path / "rows.csv").read_bytes() == expected
    with open(tmp_path / "rows.csv", newline="") as file:
        names = [Path(row["file"]).name for row in csv.DictReader(file)]
    assert names == [f"{i:02}.jpg" for i in range(16)]


def test_what_a_worker_sends_back():
    made = []

    def make():
        made.append(1)
        return lambda batch: [100 // number for number in batch]

    worker = sharded._Worker(make)
    # Ray does not wait for a model to be loaded, and asks again where it fails.
    assert not made

    def sent(number, batch):
        found = worker({"number": number, "batch": pickle.dumps(batch)})
        assert found.keys() == {"number", "result"} and found["number"] == number
        return pickle.loads(found["result"])

    assert sent(0, [1, 4]) == [100, 25]
    error = sent(1, [0])
    assert isinstance(error, ZeroDivisionError)
    assert "100 // number" in error.__notes__[0]
    assert sent(2, [50]) == [2]
    assert made == [1]


def test_what_the_work_raised_is_raised(fake):
    fake.gives(0, LookupError("not there"))
    found = sharded.results(list, "ab")
    assert next(found) == 0
    with pytest.raises(LookupError, match="not there"):
        next(found)


@pytest.fixture
def fake(monkeypatch):
    """A Ray that gives what a test says."""
    ray = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayError=ZeroDivisionError)
    ray.init = ray.shutdown = lambda *_, **__: None
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", types.ModuleType("ray.data"))

    def gives(*results):
        rows = [
            {
                "number": i if isinstance(result, Exception) else result,
                "result": pickle.dumps(result),
            }
            for i, result in enumerate(results)
        ]
        dataset = types.SimpleNamespace(iter_rows=lambda: iter(rows))
        monkeypatch.setattr(sharded, "_dataset", lambda *_: dataset)

    return types.SimpleNamespace(ray=ray, gives=gives)


def test_a_batch_lost_or_doubled_on_the_way_is_seen(fake):
    fake.gives(0, 1)
    assert list(sharded.results(list, "ab")) == [0, 1]
    for wrong, got in ((0,), "got 1"), ((0, 0), "got 0"), ((1, 0), "got 1"):
        fake.gives(*wrong)
        with pytest.raises(sharded.ShardError, match=got):
            list(sharded.results(list, "ab"))


def test_a_batch_that_kills_every_worker_ends_the_run(fake, monkeypatch):
    def broken(*_):
        yield {"number": 0, "result": pickle.dumps("first")}
        raise fake.ray.exceptions.RayError("The actor died.\nBecause")

    dataset = types.SimpleNamespace(iter_rows=broken)
    monkeypatch.setattr(sharded, "_dataset", lambda *_: dataset)
    found = sharded.results(list, "ab")
    assert next(found) == "first"
    with pytest.raises(sharded.ShardError, match=r"1 of 2 .* 4 times: The actor died"):
        next(found)


def test_no_ray_at_the_address(fake, monkeypatch):
    def refuse(address, **_):
        raise ConnectionError(f"nobody at {address}\nand more")

    fake.ray.init = refuse
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    with pytest.raises(sharded.ShardError) as caught:
        list(sharded.results(list, "ab"))
    assert str(caught.value) == (
        "cannot start or reach Ray at '10.0.0.9:6379': nobody at 10.0.0.9:6379. "
        "RAY_ADDRESS names a cluster; unset, this machine is one"
    )


def test_without_ray_the_message_says_what_to_install(monkeypatch, model, tmp_path):
    (tmp_path / "a.jpg").write_bytes(synthetic.encoded())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HydraNetError, match=r"pip install '\.\[ray\]'"):
        predict.predict(
            [str(tmp_path / "a.jpg")], model, tmp_path / "rows.csv",
            detector=None, runner=predict.RAY,
        )  # fmt: skip


FIRST_ANSWER = """
import sys
from hydranet_tf.photos import predict
predict.predict(sys.argv[2:], sys.argv[1], "rows.csv", detector=None)
print(sorted({"tensorflow", "keras", "ray", "matplotlib"} & set(sys.modules)))
"""


def test_a_prediction_from_a_tflite_file_waits_for_no_framework(model, tmp_path):
    for kind in ("JPEG", "PNG"):
        (tmp_path / f"a.{kind}").write_bytes(synthetic.encoded(kind))
    # Alone, as a phone's or a server's owner would have it.
    shutil.copy(model, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ANSWER, model.name, "a.JPEG", "a.PNG"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert (tmp_path / "rows.csv").read_text().count(",ok\n") == 2
