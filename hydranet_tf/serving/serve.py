"""Starts the service: workers behind one socket, each started again if it dies."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.predictor import Predictor
from hydranet_tf.serving import app as service

# More would each hold a model for little gain.
_MOST_WORKERS = 8


class ServeError(HydraNetError, RuntimeError):
    """A service that cannot be started; the message says why."""


def default_workers() -> int:
    """One for each core, and two at least: while one is started again, one answers."""
    return min(_MOST_WORKERS, max(2, os.cpu_count() or 1))


def _say_where(host: str, port: int) -> None:
    address = f"http://{host}:{port}"
    # Flushed for whoever started this and waits for the port.
    print(f"{address}/v1/faces takes photographs; {address}/docs says how", flush=True)


def serve(
    settings: service.Settings,
    host: str = "127.0.0.1",
    port: int = 8501,
    workers: int | None = None,
    announce: Callable[[str, int], None] = _say_where,
) -> None:
    """Answers until the process gets SIGINT or SIGTERM.

    Args:
        settings: of each worker.
        host: address to listen on. There is no password and no encryption: what is
            reachable from other machines belongs behind a proxy that has both.
        port: 0 takes a free one.
        workers: processes; None is `default_workers`.
        announce: gets the address, once it is taken.

    Raises:
        ServeError: if the address is taken.
        runtimes.LoadError: if there is no whole model.
    """
    # Said here and once, rather than by each worker in a traceback.
    Predictor(settings.model)
    try:
        listener = socket.create_server((host, port), backlog=2048, reuse_port=False)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    os.environ[service.SETTINGS] = json.dumps(dataclasses.asdict(settings))
    config = uvicorn.Config(
        f"{service.__name__}:{service.from_environment.__name__}",
        factory=True,
        workers=workers or default_workers(),
        log_level="warning",
        timeout_graceful_shutdown=30,
        # A worker that is silent for so long is killed and started again.
        timeout_worker_healthcheck=30,
    )
    listener.set_inheritable(True)
    with listener:
        announce(*listener.getsockname()[:2])
        Multiprocess(config, sockets=[listener]).run()
