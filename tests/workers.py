"""Starts processes that train together over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine that nobody listens at."""
    with_ports = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{s.getsockname()[1]}" for s in with_ports]
    for s in with_ports:
        s.close()
    return addresses


def tf_config(addresses: list[str], index: int) -> str:
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def start(command: list, log: Path, **environment: str) -> subprocess.Popen:
    """Starts a process in the repository; all that it prints goes to `log`."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    with log.open("w") as file:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=REPOSITORY,
            env={
                **clean,
                "PYTHONPATH": str(REPOSITORY),
                "PYTHON": sys.executable,
                **environment,
            },
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def finish(processes: list[subprocess.Popen], logs: list[Path], seconds: float) -> None:
    """Waits for all; raises with their output if one does not end well."""
    try:
        statuses = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(log.read_text()[-3000:] for log in logs)
    assert statuses == [0] * len(processes), said
