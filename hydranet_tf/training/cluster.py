"""The workers that train one network together: who they are, who is gone.

Every worker gets the same list of addresses and its own place in it, as
TF_CONFIG has them. A worker that dies leaves the others waiting for its share
of a sum, by default for ever; so each watches all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

from hydranet_tf.config import ConfigError
from hydranet_tf.errors import HydraNetError

# EX_TEMPFAIL of sysexits.h: start the same command again.
TRY_AGAIN = 75

# How long a worker may be out of reach. Longer than a lost packet or a name
# server's hiccup, shorter than anyone wants to pay for idle devices.
PATIENCE = 15.0
_INTERVAL = 1.0


class WorkerLost(HydraNetError, RuntimeError):
    """Another worker of the run is gone; the message says which."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run.

    Attributes:
        addresses: `host:port` of each, the chief's first.
        index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the workdir."""
        return self.index == 0

    @property
    def others(self) -> dict[int, str]:
        """Addresses of the other workers by index."""
        return {i: a for i, a in enumerate(self.addresses) if i != self.index}


def from_environment(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads TF_CONFIG.

    Returns:
        The workers, or None where the variable is not set or names one worker.

    Raises:
        ConfigError: if the variable holds something else.
    """
    text = environment.get("TF_CONFIG", "")
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs = {name: list(addresses) for name, addresses in config["cluster"].items()}
        kind, index = config["task"]["type"], int(config["task"]["index"])
        chiefs, workers = jobs.pop("chief", []), jobs.pop("worker", [])
        if jobs or kind not in ("chief", "worker"):
            raise ValueError(f"jobs are 'chief' and 'worker', not {[*jobs, kind]}")
        own = chiefs if kind == "chief" else workers
        if not 0 <= index < len(own):
            raise ValueError(f"there is no {kind} {index}")
        for address in (*chiefs, *workers):
            _host_and_port(address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "TF_CONFIG must name the workers and which of them this is, such as "
            '{"cluster": {"worker": ["a:2222", "b:2222"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}; got {text!r} '
            f"({type(error).__name__}: {error})"
        ) from error
    addresses = (*chiefs, *workers)
    if len(addresses) < 2:
        return None
    return Cluster(addresses, index + (len(chiefs) if kind == "worker" else 0))


class Watch:
    """Ends this process when another worker has been out of reach too long.

    A worker is reached by connecting to its address. The process must end from
    the watching thread: the main one may be inside a sum that never returns.

    Args:
        cluster: the workers.
        listen: answer at this worker's own address; for a backend that does
            not.
        on_lost: called with the message; it shall not return.
        patience: seconds that a worker may be out of reach.
    """

    def __init__(
        self,
        cluster: Cluster,
        listen: bool,
        on_lost: Callable[[str], None],
        patience: float = PATIENCE,
    ):
        self.cluster = cluster
        self.patience = patience
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._lost = threading.Event()
        self._lock = threading.Lock()
        self._listener = self._listen() if listen else None
        for index, address in cluster.others.items():
            threading.Thread(
                target=self._watch, args=(index, address), daemon=True
            ).start()

    def stop(self) -> None:
        """Ends watching; after it no worker is missed."""
        with self._lock:
            self._stopped.set()
        if self._listener is not None:
            self._listener.close()

    def verdict(self) -> None:
        """Waits as long as it takes to know whether a worker is gone.

        Does not return if one is: `on_lost` has been called.
        """
        if self._lost.wait(self.patience + 3 * _INTERVAL):
            # The watching thread is ending the process.
            time.sleep(self.patience)

    def _listen(self) -> socket.socket:
        _, port = _host_and_port(self.cluster.addresses[self.cluster.index])
        listener = socket.create_server(("", port), backlog=128)

        def answer():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        return listener

    def _watch(self, index: int, address: str) -> None:
        reached = None
        started = time.monotonic()
        while not self._stopped.wait(_INTERVAL):
            if _answers(address):
                reached = time.monotonic()
            elif time.monotonic() - (reached or started) > self.patience:
                with self._lock:
                    if self._stopped.is_set() or self._lost.is_set():
                        return
                    self._lost.set()
                name = f"worker {index}" + ("" if index else " (the chief)")
                self._on_lost(
                    f"{name} at {address} has not answered for "
                    f"{self.patience:.0f} s; worker {self.cluster.index} cannot "
                    "go on without it. Look for the reason in that worker's own "
                    "log, then start the same command on every worker again: the "
                    "run goes on from its last checkpoint"
                )
                return


def leave(message: str) -> None:
    """Prints the message and ends the process at once, with `TRY_AGAIN`.

    Without the clean-up of an orderly exit, which would wait for the worker
    that is gone.
    """
    print(f"WorkerLost: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(TRY_AGAIN)


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(_host_and_port(address), timeout=3.0).close()
        return True
    return False


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is not host:port")
    # IPv6 addresses come in brackets.
    return host.strip("[]"), int(port)
