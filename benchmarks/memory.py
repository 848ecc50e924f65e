"""The highest resident memory of a process."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

PEAKS = ("peak_bytes", "peak_bytes_after_imports")
_STEPS = 3


def of_steps(make: Callable[[], Callable[[], object]]) -> dict[str, int]:
    """Makes a step, takes it three times and gives the peaks, by `PEAKS`.

    Args:
        make: builds network and optimiser; what it needs is imported already.
    """
    imported = peak_bytes()
    step = make()
    for _ in range(_STEPS):
        step()
    return dict(zip(PEAKS, (peak_bytes(), imported), strict=True))


def in_new_process(function: Callable, *arguments):
    """What `function` returns where the peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as processes:
        return processes.submit(function, *arguments).result()


def peak_bytes() -> int:
    # Not getrusage: its peak begins at that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024
