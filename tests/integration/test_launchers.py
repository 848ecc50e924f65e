"""The launchers of examples/distributed, on the devices that a test has."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from pathlib import Path

import pytest
import synthetic
import workers
import yaml
from kubernetes import client

pytestmark = pytest.mark.long

EXAMPLES = workers.REPOSITORY / "examples" / "distributed"
# On two idle cores a minute is enough for the slowest.
SECONDS = 500

# Python imports it at its start. It makes two devices of the processor, which a
# machine with several GPUs has from the beginning.
TWO_DEVICES = """
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 60, side=32)


def flags(faces, workdir, epochs):
    return [
        f"--data={faces}", f"--split_lists={faces / 'splits'}", "--backbone=tiny",
        "--width=8", "--image_size=32", "--augmentation=none", "--batch_size=12",
        f"--epochs={epochs}", f"--workdir={workdir}",
    ]  # fmt: skip


def rows(workdir):
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_machine_with_two_devices(faces, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(TWO_DEVICES)
    log = tmp_path / "log"
    process = workers.start(
        [EXAMPLES / "one_machine.sh", *flags(faces, tmp_path / "run", 1)],
        log,
        PYTHONPATH=f"{tmp_path}:{workers.REPOSITORY}",
    )
    workers.finish([process], [log], SECONDS)
    assert "on 2 devices (mirrored)" in log.read_text()
    assert [row["step"] for row in rows(tmp_path / "run")] == [3]


def test_two_machines_of_which_one_dies(faces, tmp_path):
    """Loopback stands for the network between them."""
    addresses = workers.free_addresses(2)
    workdir, epochs = tmp_path / "run", 8
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    logs = [tmp_path / f"log{i}" for i in range(3)]

    def start(index, log):
        return workers.start(
            [EXAMPLES / "two_machines.sh", *flags(faces, workdir, epochs)],
            log,
            WORKERS=",".join(addresses),
            INDEX=str(index),
            TMPDIR=str(temporary),
        )

    chief, dies = start(0, logs[0]), start(1, logs[1])
    running = [chief, dies]
    try:
        wait_until(lambda: rows(workdir), running, logs)
        assert len(list(temporary.glob("hydranet-worker-*"))) == 1
        # The script's child: the script itself passes on how it ended.
        (child,) = children(dies.pid)
        os.kill(child, signal.SIGKILL)
        killed = time.monotonic()
        assert dies.wait(10) == 128 + signal.SIGKILL
        done = len(rows(workdir))
        assert done < epochs
        wait_until(
            lambda: "worker 0 starts again" in logs[0].read_text(), running[:1], logs
        )
        assert time.monotonic() - killed < 40
        assert f"WorkerLost: worker 1 at {addresses[1]}" in logs[0].read_text()
        running.append(start(1, logs[2]))
        workers.finish([chief, running[-1]], [logs[0], logs[2]], SECONDS)
    finally:
        for process in running:
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
    assert "resumed after epoch" in logs[2].read_text()
    assert [row["epoch"] for row in rows(workdir)] == list(range(1, epochs + 1))
    # What the killed one left; those that ended by themselves left nothing.
    assert len(list(temporary.glob("hydranet-worker-*"))) == 1


def wait_until(condition, processes, logs):
    end = time.monotonic() + SECONDS
    while not condition():
        ended = [process for process in processes if process.poll() is not None]
        if ended or time.monotonic() > end:
            said = "\n".join(log.read_text()[-3000:] for log in logs if log.exists())
            pytest.fail(f"ended early or never got there:\n{said}")
        time.sleep(0.05)


def children(pid):
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(part) for part in text.split()]


def documents():
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))


def as_kubernetes_reads_it(document):
    """A document through the models of the API: what they do not know is gone."""
    kinds = {"Service": "V1Service", "Job": "V1Job"}
    api, text = client.ApiClient(), json.dumps(document)
    return api.sanitize_for_serialization(
        api.deserialize(text, kinds[document["kind"]], "application/json")
    )


def test_the_manifest_has_the_fields_of_the_api():
    service, job = documents()
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert as_kubernetes_reads_it(service) == service
    assert as_kubernetes_reads_it(job) == job


def test_a_misspelt_or_mistyped_field_is_seen():
    _, job = documents()
    misspelt, mistyped, missing = (copy.deepcopy(job) for _ in range(3))
    misspelt["spec"]["completionmode"] = misspelt["spec"].pop("completionMode")
    assert as_kubernetes_reads_it(misspelt) != misspelt
    mistyped["spec"]["completions"] = "2"
    with pytest.raises(ValueError, match="completions"):
        as_kubernetes_reads_it(mistyped)
    del missing["spec"]["template"]
    with pytest.raises(ValueError, match="template"):
        as_kubernetes_reads_it(missing)


def test_the_manifest_gives_each_pod_its_place():
    service, job = documents()
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (text,) = (e["value"] for e in container["env"] if e["name"] == "TF_CONFIG")
    assert container["env"][0]["name"] == "JOB_COMPLETION_INDEX"
    # Kubernetes gives the pods of a Job this label, and these names.
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    names = [
        f"{job['metadata']['name']}-{i}.{pod['subdomain']}:{port}"
        for i in range(spec["completions"])
    ]
    assert spec["parallelism"] == spec["completions"] == len(names)
    for index in range(spec["completions"]):
        config = json.loads(text.replace("$(JOB_COMPLETION_INDEX)", str(index)))
        assert config["cluster"] == {"worker": names}
        assert config["task"] == {"type": "worker", "index": index}
    values = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert values == [os.EX_TEMPFAIL]
