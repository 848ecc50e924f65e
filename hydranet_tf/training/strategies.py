"""Which devices train together: the one place that decides.

On the TensorFlow backend these are the strategies of tf.distribute, on JAX it is
keras.distribution.DataParallel. Both split each batch over the devices and give
the weights that one device would have found, within rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hydranet_tf.config import (
    AUTO,
    MIRRORED,
    MULTI_WORKER,
    ONE_DEVICE,
    TPU,
    ConfigError,
    TrainingConfig,
)
from hydranet_tf.training import cluster
from hydranet_tf.training.cluster import Cluster


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
    `cluster.Watch`, with exit code `cluster.TRY_AGAIN`.

    Args:
        config: `strategy`, and what it must go together with.
        workdir: of the run.

    Raises:
        ConfigError: if the machine, TF_CONFIG, or another setting does not suit
            the strategy.
    """
    workers = cluster.from_environment()
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
            cluster.leave(message)

        # On JAX the chief alone has a server of the backend's.
        watch = cluster.Watch(workers, on_jax and not workers.is_chief, on_lost)
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
    on JAX they are of the whole batch in any case. The weights and answers of a
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
    import tensorflow as tf

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
    import tensorflow as tf

    if strategy == ONE_DEVICE:
        return 1, contextlib.nullcontext, None
    if strategy == MULTI_WORKER:
        from hydranet_tf.training.multi_worker import MultiWorkerStrategy

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
    import tensorflow as tf

    if keras.backend.backend() != "jax":
        return (tf.errors.OpError,)
    import jax

    # Gloo's errors arrive as ValueError.
    return (jax.errors.JaxRuntimeError, ValueError)
