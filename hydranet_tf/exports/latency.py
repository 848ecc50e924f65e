"""How long .tflite files take for one image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

THREADS = (1, 2)

_WARM_UPS = 2
_MIN_ROUNDS = 5
_MAX_ROUNDS = 50


def milliseconds(
    paths: Sequence[Path], image: np.ndarray, seconds: float = 5.0
) -> dict[Path, dict[int, float]]:
    """Median time of one answer, by file and number of threads.

    The files take turns, one answer each, so that whatever else the machine
    does in between falls on all of them.

    Args:
        paths: .tflite files.
        image: uint8 `[side, side, 3]`.
        seconds: how long to go on, give or take a round.
    """
    runs = {(path, n): _runner(path, image, n) for path in paths for n in THREADS}
    for run in runs.values():
        for _ in range(_WARM_UPS):
            run()
    times = {key: [] for key in runs}
    end = time.monotonic() + seconds
    for done in range(_MAX_ROUNDS):
        if done >= _MIN_ROUNDS and time.monotonic() > end:
            break
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    return {
        path: {n: 1e3 * statistics.median(times[path, n]) for n in THREADS}
        for path in paths
    }


def _runner(path: Path, image: np.ndarray, threads: int):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    signature = interpreter.get_signature_runner()
    dtype = signature.get_input_details()["images"]["dtype"]
    images = image[np.newaxis].astype(dtype)

    def run():
        # Keeps the interpreter alive as long as its signature.
        assert interpreter
        signature(images=images)

    return run
