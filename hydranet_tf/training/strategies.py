"""Which devices and processes train together: the one place that decides.

On the TensorFlow backend these are the strategies of tf.distribute, on JAX it is
keras.distribution.DataParallel. Both split each batch over the devices and give
the weights that one device would have found, within rounding.

Every worker gets the same list of addresses and its own place in it, as
TF_CONFIG has them. A worker that dies leaves the others waiting for its share
of a sum, by default for ever; so each watches all others.

`Model.fit` fails under MultiWorkerMirroredStrategy, because Keras 3.15 asks the
strategy for two reductions that it does not have: of a whole batch (a structure, where
the strategy takes one value), from which Keras wants shapes alone; and of scalar logs
along their first axis. Both are calls of the public method `reduce`, so a strategy that
has them is enough and the model needs no code of its own.
tests/integration/test_strategies.py fails when a new Keras makes this needless.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hydranet_tf.config import (
    AUTO,
    MIRRORED,
    MULTI_WORKER,
    ONE_DEVICE,
    TPU,
    ConfigError,
    TrainingConfig,
)
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


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, ready for use.

    Attributes:
        strategy: what was chosen, never `auto`.
        replicas: how many devices share a batch.
        workers: the processes of the run; None where this is the only one.
        folder: where this process writes: the workdir, or for a worker that is
            not the chief a temporary folder that is removed at the end.
        scope: makes a context; a model belongs to the devices if it is made and
            compiled inside.
    """

    strategy: str
    replicas: int
    workers: Cluster | None
    folder: Path
    scope: Callable[[], contextlib.AbstractContextManager]
    _gather: Callable[[np.ndarray], np.ndarray]

    def agree(self, **values: Any) -> None:
        """Waits for all workers and makes sure that they have the same.

        Args:
            values: what to compare, by the name that a message shall give it.

        Raises:
            ConfigError: if any differs, on every worker.
        """
        if self.workers is None:
            return
        digests = [
            int(hashlib.sha256(str(value).encode()).hexdigest()[:10], 16)
            for value in values.values()
        ]
        all_digests = self._gather(np.array(digests, np.int64))
        for name, of_workers in zip(values, all_digests.T, strict=True):
            odd = np.flatnonzero(of_workers != of_workers[0])
            if odd.size:
                raise ConfigError(
                    f"worker {odd[0]} has another {name} than the chief. Start "
                    "every worker with the same command, the same data, and a "
                    "--workdir on a disk that all of them share"
                )


@contextlib.contextmanager
def start(config: TrainingConfig, workdir: Path) -> Iterator[Devices]:
    """Brings up the devices; comes before the first computation of a process.

    With several workers it returns once all of them are there. While the context
    is open, a worker that stays out of reach ends this process, see
    `Watch`, with exit code `TRY_AGAIN`.

    Args:
        config: `strategy`, and what it must go together with.
        workdir: of the run.

    Raises:
        ConfigError: if the machine, TF_CONFIG, or another setting does not suit
            the strategy.
    """
    workers = from_environment()
    strategy = _choose(config.strategy, workers)
    if strategy != MULTI_WORKER:
        workers = None
    on_jax = keras.backend.backend() == "jax"
    bring_up = _bring_up_jax if on_jax else _bring_up_tensorflow
    with contextlib.ExitStack() as stack:
        folder = workdir
        if workers and not workers.is_chief:
            folder = Path(tempfile.mkdtemp(prefix="hydranet-worker-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if workers:
            print(
                f"worker {workers.index} waits for all {len(workers.addresses)}: "
                f"{', '.join(workers.addresses)}",
                flush=True,
            )
        replicas, scope, gather = bring_up(strategy, workers, stack)
        _check(config, strategy, replicas)
        devices = Devices(strategy, replicas, workers, folder, scope, gather)
        if workers is None:
            yield devices
            return

        def on_lost(message):
            if folder != workdir:
                shutil.rmtree(folder, ignore_errors=True)
            leave(message)

        # On JAX the chief alone has a server of the backend's.
        watch = Watch(workers, on_jax and not workers.is_chief, on_lost)
        stack.callback(watch.stop)
        try:
            yield devices
            # Nobody leaves, and is missed, while the chief still writes.
            devices.agree(end="")
        except ConfigError:
            raise
        except _broken_sums():
            # It says nothing of who broke it.
            watch.verdict()
            raise


def synchronise_batch_norm(model: keras.Model) -> None:
    """Makes batch normalisation use the statistics of the whole batch.

    On TensorFlow each replica normalises with those of its own share otherwise;
    on JAX they are of the whole batch in any case. The weights and predictions of a
    finished network know no difference, so its description does not keep it.
    """
    if keras.backend.backend() != "tensorflow":
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            synchronise_batch_norm(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def _choose(asked: str, workers: Cluster | None) -> str:
    if asked == MULTI_WORKER and workers is None:
        raise ConfigError(
            "--strategy=multi_worker needs TF_CONFIG to name two workers or more; "
            "docs/distributed.md shows how"
        )
    if asked in (ONE_DEVICE, MIRRORED, TPU) and workers is not None:
        raise ConfigError(
            f"--strategy={asked} uses one process, but TF_CONFIG names "
            f"{len(workers.addresses)} workers; use --strategy=multi_worker, or "
            "unset TF_CONFIG"
        )
    if asked != AUTO:
        return asked
    if workers is not None:
        return MULTI_WORKER
    return MIRRORED if len(_accelerators()) > 1 else ONE_DEVICE


def _accelerators() -> list[str]:
    if keras.backend.backend() == "jax":
        return keras.distribution.list_devices()
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _check(config: TrainingConfig, strategy: str, replicas: int) -> None:
    if config.batch_size % replicas:
        raise ConfigError(
            f"--batch_size counts the examples of all devices and must be a "
            f"multiple of their number: got {config.batch_size} for {replicas} "
            f"devices ({strategy})"
        )
    if keras.backend.backend() == "jax" or replicas == 1:
        return
    if config.xla:
        raise ConfigError(
            f"--xla does not go together with {replicas} devices on the "
            "TensorFlow backend: Keras cannot compile a step that sums over "
            "replicas. Leave --xla out, or use the JAX backend, which always "
            "compiles"
        )
    if config.accumulate_steps > 1:
        raise ConfigError(
            f"--accumulate_steps does not go together with {replicas} devices on "
            "the TensorFlow backend: Keras would keep a sum on each device and "
            "save that of the first alone. Use a --batch_size that many times "
            "larger, or the JAX backend"
        )


def _bring_up_tensorflow(strategy, workers, stack):
    if strategy == ONE_DEVICE:
        return 1, contextlib.nullcontext, None
    if strategy == MULTI_WORKER:
        engine = MultiWorkerStrategy()
    elif strategy == MIRRORED:
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        engine = tf.distribute.MirroredStrategy(_accelerators() or cpus)
    else:
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            engine = tf.distribute.TPUStrategy(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise ConfigError(_no_tpu(error)) from error

    def gather(values):
        row = np.zeros((len(workers.addresses), len(values)), np.int64)
        row[workers.index] = values
        # Summed over every device of a worker.
        local = engine.num_replicas_in_sync // len(workers.addresses)
        share = functools.partial(tf.constant, row)
        rows = tf.function(lambda: engine.run(share), autograph=False)()
        return engine.reduce("SUM", rows, axis=None).numpy() // local

    return engine.num_replicas_in_sync, engine.scope, gather


def _bring_up_jax(strategy, workers, stack):
    if workers is not None:
        keras.distribution.initialize(
            ",".join(workers.addresses), len(workers.addresses), workers.index
        )
    found = keras.distribution.list_devices()
    if strategy == TPU and not found[0].startswith("tpu"):
        raise ConfigError(_no_tpu(f"JAX has {', '.join(found)}"))
    if strategy == ONE_DEVICE:
        return 1, contextlib.nullcontext, None
    engine = keras.distribution.DataParallel(devices=found)
    before = keras.distribution.distribution()
    stack.callback(keras.distribution.set_distribution, before)
    # Not its scope(): fit asks for the distribution outside of any.
    keras.distribution.set_distribution(engine)

    def gather(values):
        from jax.experimental import multihost_utils

        # JAX has 32 bits unless told otherwise.
        halves = np.stack([values >> 20, values & 0xFFFFF]).astype(np.int32)
        high, low = np.moveaxis(multihost_utils.process_allgather(halves), 1, 0)
        return (high.astype(np.int64) << 20) + low

    return len(found), contextlib.nullcontext, gather


def _no_tpu(reason) -> str:
    return (
        f"--strategy=tpu found no TPU ({reason}); run on a TPU machine, or use "
        "--strategy=auto"
    )


def _broken_sums() -> tuple[type[Exception], ...]:
    """What the backend raises where a sum over the workers breaks off."""
    if keras.backend.backend() != "jax":
        return (tf.errors.OpError,)
    import jax

    # Gloo's errors arrive as ValueError.
    return (jax.errors.JaxRuntimeError, ValueError)


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """MultiWorkerMirroredStrategy with the reductions that Keras asks for."""

    def reduce(self, reduce_op, value, axis):
        """See tf.distribute.Strategy.reduce.

        A structure becomes this worker's first part of each of its values. For
        a scalar, which has no axes, `axis` means nothing.
        """
        if keras.tree.is_nested(value):
            return keras.tree.map_structure(
                lambda part: self.experimental_local_results(part)[0], value
            )
        if all(not part.shape.rank for part in self.experimental_local_results(value)):
            axis = None
        return super().reduce(reduce_op, value, axis)
