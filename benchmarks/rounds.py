"""Ways to do the same work, timed in turns.

Whatever else the machine does in between falls on all of them, so that their ratios
mean something where their times do not. On a machine that others load so much that
a turn is mostly waiting, the ratio of processor time is the steadier of the two.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import psutil
from tqdm import tqdm

SECONDS, CPU_SECONDS = "seconds", "cpu_seconds"


def taken(
    ways: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Times every way once in every round.

    Args:
        ways: by name, what does the work once.
        rounds: turns of each, after one that does not count.

    Returns:
        Under `"seconds"` and `"cpu_seconds"` (of all threads and of the processes
        that this one has started) the times by name, in the order of the rounds.
    """
    found = {unit: {name: [] for name in ways} for unit in (SECONDS, CPU_SECONDS)}
    for turn in tqdm(range(rounds + 1), unit="round", disable=None):
        for name, way in ways.items():
            started, processor = time.perf_counter(), _processor_seconds()
            way()
            seconds = time.perf_counter() - started
            processor = _processor_seconds() - processor
            if turn:
                found[SECONDS][name].append(seconds)
                found[CPU_SECONDS][name].append(processor)
    return found


def _processor_seconds() -> float:
    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        spent = child.cpu_times()
        total += spent.user + spent.system
    return total


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(numbers) for name, numbers in found.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over the rounds of what one is of the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def ratios(found: Mapping[str, Mapping[str, Sequence[float]]], above: str, below: str):
    """`ratio` of two ways, by seconds and by processor seconds."""
    return {unit: ratio(times[above], times[below]) for unit, times in found.items()}


def machine(packages: Iterable[str] = ()) -> dict:
    """What a reader has to know of it; its load, because others may use it."""
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "vector_units": [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni")
                         if f in flags],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }  # fmt: skip
