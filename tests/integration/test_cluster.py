"""Who the workers are, and that one which is gone is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import workers

from hydranet_tf.config import ConfigError
from hydranet_tf.training import strategies


def read(cluster_part, kind="worker", index=0):
    text = json.dumps({"cluster": cluster_part, "task": {"type": kind, "index": index}})
    return strategies.from_environment({"TF_CONFIG": text})


def test_workers_in_order():
    found = read({"worker": ["a:1", "b:2", "c:3"]}, index=1)
    assert found.addresses == ("a:1", "b:2", "c:3")
    assert not found.is_chief
    assert found.others == {0: "a:1", 2: "c:3"}


def test_a_chief_comes_before_the_workers():
    jobs = {"worker": ["a:1", "b:2"], "chief": ["z:9"]}
    assert read(jobs, "chief").is_chief
    assert read(jobs, index=1) == strategies.Cluster(("z:9", "a:1", "b:2"), 2)


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}])
def test_without_the_variable_there_are_no_workers(environment):
    assert strategies.from_environment(environment) is None


def test_one_worker_is_none():
    assert read({"worker": ["a:1"]}) is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (({"worker": ["a:1", "b:1"]}, "worker", 2), "there is no worker 2"),
        (({"worker": ["a:1", "b:1"]}, "worker", -1), "there is no worker -1"),
        (({"worker": ["a:1", "b:1"]}, "chief", 0), "there is no chief 0"),
        (({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0), "not .'ps', 'worker'."),
        (({"worker": ["a", "b:1"]}, "worker", 0), "'a' is not host:port"),
        ((["a:1"], "worker", 0), "AttributeError"),
        (({"worker": [1, 2]}, "worker", 0), "AttributeError"),
    ],
)
def test_a_cluster_that_makes_no_sense(arguments, reason):
    with pytest.raises(ConfigError, match=f"TF_CONFIG must name.*{reason}"):
        read(*arguments)


@pytest.mark.parametrize("text", ["a:1,b:1", "{}", "[]", "null", '{"cluster": {}}'])
def test_a_variable_that_is_something_else(text):
    with pytest.raises(ConfigError, match="such as"):
        strategies.from_environment({"TF_CONFIG": text})


def watch(addresses, index, patience, listen=True):
    lost = []
    seen = threading.Event()

    def on_lost(message):
        lost.append(message)
        seen.set()

    them = strategies.Cluster(tuple(addresses), index)
    return strategies.Watch(them, listen, on_lost, patience), lost, seen


def test_workers_that_answer_are_not_missed_and_one_that_stops_is():
    addresses = workers.free_addresses(2)
    first, first_lost, seen = watch(addresses, 0, patience=1.5)
    second, second_lost, _ = watch(addresses, 1, patience=1.5)
    assert not seen.wait(3.5)
    began = time.monotonic()
    second.stop()
    assert seen.wait(10)
    assert 1 < time.monotonic() - began < 6
    first.stop()
    assert not second_lost
    (message,) = first_lost
    assert f"worker 1 at {addresses[1]} has not answered" in message
    assert "start the same command on every worker again" in message


def test_the_chief_is_called_so():
    addresses = workers.free_addresses(2)
    own, lost, seen = watch(addresses, 1, patience=0.1)
    assert seen.wait(10)
    own.stop()
    assert lost[0].startswith("worker 0 (the chief) at localhost:")


def test_leaving_skips_the_clean_up_and_says_try_again():
    """An orderly exit would wait for the thread here, as for a dead worker."""
    script = (
        "import threading, time\n"
        "from hydranet_tf.training import strategies\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "strategies.leave('worker 1 is gone')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=workers.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == strategies.TRY_AGAIN == os.EX_TEMPFAIL
    assert done.stderr.endswith("WorkerLost: worker 1 is gone\n")
