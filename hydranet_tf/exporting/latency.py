"""How long .tflite files take for one image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hydranet_tf import notices

THREADS = (1, 2)

_WARM_UPS = 2
_MIN_ROUNDS = 5
_MAX_ROUNDS = 50


def milliseconds(
    paths: Sequence[Path], image: np.ndarray, seconds: float = 5.0
) -> dict[Path, dict[int, float]]:
    """Median time of one prediction, by file and number of threads.

    The files take turns, one prediction each, so that whatever else the machine
    does in between falls on all of them.

    Args:
        paths: .tflite files.
        image: uint8 `[side, side, 3]`.
        seconds: how long to go on, give or take a round.
    """
    runs = {(path, n): _runner(path, n, image) for path in paths for n in THREADS}
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


def signature(model: Path | bytes, threads: int = 1):
    """What runs a .tflite file, and nothing around it.

    Args:
        model: the file, or its content.
        threads: of the processor.

    Returns:
        LiteRT's SignatureRunner: called with `images=` in the file's type, see its
        `get_input_details`, it gives a dict of arrays.
    """
    from ai_edge_litert.interpreter import Interpreter

    given = (
        {"model_content": model}
        if isinstance(model, bytes)
        else {"model_path": str(model)}
    )
    with notices.held_back():
        interpreter = Interpreter(**given, num_threads=threads)
        # Else the first prediction would, and say so.
        interpreter.allocate_tensors()
        found = interpreter.get_signature_runner()
    # It reads the interpreter's memory without holding it.
    found.interpreter = interpreter
    return found


def _runner(path: Path, threads: int, image: np.ndarray):
    prediction = signature(path, threads)
    images = image[np.newaxis].astype(prediction.get_input_details()["images"]["dtype"])
    return lambda: prediction(images=images)
