"""Batches of work to worker processes, on one machine or on many, by Ray Data.

Ray moves batches, watches workers and gives a dead worker's batch to another;
what a batch is and what is done with it stands with the caller. Ray is an
optional extra and is imported when the first batch is handed out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydranet_tf.errors import HydraNetError

# A batch whose worker died that often is more likely the reason than the victim.
_RETRIES = 3
# For the batches under way; Ray would take a third of the memory. It takes no
# less than 75 MiB.
_OBJECT_STORE_BYTES = 128 * 2**20

Work = Callable[[Any], Any]


class ShardError(HydraNetError, RuntimeError):
    """Workers that cannot be had or that died; the message says what to do."""


def results(make: Callable[[], Work], batches: Sequence[Any]) -> Iterator[Any]:
    """Does the work of every batch once and gives the results in order.

    There are as many workers as Ray has CPUs, on the cluster that the
    environment variable RAY_ADDRESS names, or else on this machine.

    Args:
        make: called once in every worker process; what it returns is called
            with a batch at a time. Both must survive pickle, and the modules
            that they come from be there on every machine.
        batches: anything that survives pickle.

    Yields:
        What the work returned, batch for batch.

    Raises:
        ShardError: if there is no Ray, or a batch lost its worker four times.
        Exception: what the work raised, with the worker's traceback as a note.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ShardError(
            f"expected Ray Data for --runner=ray; got {error}. Install it: "
            "pip install '.[ray]'"
        ) from error
    with _connected(ray):
        done = 0
        try:
            for row in _dataset(ray, make, batches).iter_rows():
                if row["number"] != done:
                    raise ShardError(
                        f"expected batch {done} of {len(batches)} from Ray; got "
                        f"{row['number']}. The same command goes on from there"
                    )
                result = pickle.loads(row["result"])
                if isinstance(result, Exception):
                    raise result
                yield result
                done += 1
        except ray.exceptions.RayError as error:
            raise ShardError(
                f"batch {done} of {len(batches)} or one soon after it lost its "
                f"worker {_RETRIES + 1} times: {_first_line(error)}. The same command "
                "goes on from there; fewer workers (ray start --num-cpus) need less "
                "memory"
            ) from error
    if done != len(batches):
        raise ShardError(
            f"expected {len(batches)} batches from Ray; got {done}. The same command "
            "goes on from there"
        )


class _Worker:
    """What Ray keeps alive in each worker process."""

    def __init__(self, make: Callable[[], Work]):
        self._make = make
        self._work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Errors travel as results: Ray would wrap them in types of its own, and
        # start a worker anew whose constructor failed.
        try:
            if self._work is None:
                self._work = self._make()
            result = self._work(pickle.loads(row["batch"]))
        except Exception as error:
            error.add_note(f"In the worker:\n{traceback.format_exc()}")
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


@contextlib.contextmanager
def _connected(ray) -> Iterator[None]:
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        # Ray reports its use to its makers unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {
            "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES
        }  # fmt: skip
    try:
        ray.init(
            address, log_to_driver=False, logging_level=logging.ERROR, **options
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        raise ShardError(
            f"cannot start or reach Ray at {address!r}: {_first_line(error)}. "
            "RAY_ADDRESS names a cluster; unset, this machine is one"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _dataset(ray, make: Callable[[], Work], batches: Sequence[Any]):
    # What it would log is raised as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    items = [
        {"number": number, "batch": pickle.dumps(batch)}
        for number, batch in enumerate(batches)
    ]
    cpus = int(ray.cluster_resources().get("CPU", 1))
    with warnings.catch_warnings():
        # max_task_retries, which Ray Data gives no other way to say.
        warnings.simplefilter("ignore", DeprecationWarning)
        # A block a batch: what a dead worker had not handed over is one batch.
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Worker,
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=max(1, min(cpus, len(items)))),
            num_cpus=1,
            max_task_retries=_RETRIES,
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
