"""Leaving in time when the machine is taken away.

Who takes a machine back (a scheduler, a cloud, Kubernetes) sends SIGTERM and, some
seconds later, SIGKILL. A run saves its state in between and ends with `EXIT_CODE`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

# 75, "try again": what sysexits.h has for it since 1983, so that a scheduler can
# tell it from an error (1) and from a finished run (0).
EXIT_CODE = os.EX_TEMPFAIL


class Preempted(Exception):
    """SIGTERM came; what can be kept is saved. Start the same command again."""


class Notice:
    """Whether SIGTERM has come."""

    def __init__(self):
        self.came = False
        self._awaited = False

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """In it SIGTERM sets `came`: the body looks, saves and leaves.

        Outside of it SIGTERM raises `Preempted`, since nothing would be lost.
        """
        self._awaited = True
        try:
            yield
        finally:
            self._awaited = False

    def receive(self, number, frame) -> None:
        """The signal's handler; Python calls it between two steps, not in one."""
        del number, frame
        self.came = True
        if not self._awaited:
            raise Preempted(
                "SIGTERM came: nothing is saved before the first step, nor within "
                "an epoch of several workers. Start the same command again"
            )


@contextlib.contextmanager
def notice() -> Iterator[Notice]:
    """Listens for SIGTERM in its body.

    Outside of the main thread, where Python hears no signals, nothing ever comes.
    """
    given = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield given
        return
    before = signal.signal(signal.SIGTERM, given.receive)
    try:
        yield given
    finally:
        signal.signal(signal.SIGTERM, before)
