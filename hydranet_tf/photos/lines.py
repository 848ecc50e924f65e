"""Rows as lines to be read, for who scores a few pictures and keeps no file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from hydranet_tf.photos.rows import NO_FACE, OK
from hydranet_tf.tasks import TASKS, Task

_MEANING = "These estimate what annotators saw in pictures. They are no facts."


class Lines:
    """Prints rows as they come; takes the place of `rows.Rows`.

    Attributes:
        finished: empty: nothing is kept that a run could go on from.
        statuses: how many pictures ended how.
        faces: how many rows are faces.
        path: None, there is no file.
    """

    finished: frozenset[str] = frozenset()
    path = None

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._seen: set[str] = set()
        self.statuses: Counter[str] = Counter()
        self.faces = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_) -> None:
        if self.faces:
            print(_MEANING, file=self._stream)
        self._stream.flush()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Prints all rows of one or several pictures."""
        for row in rows:
            kind = row["status"].partition(":")[0]
            self.faces += kind == OK
            if row["file"] not in self._seen:
                self._seen.add(row["file"])
                self.statuses[kind] += 1
            print(line(row), file=self._stream)


def line(row: Mapping[str, Any]) -> str:
    """`party.jpg: 31 years (24 to 39), female 97 %, white 88 %; at 12, 40 to 90, 118`.

    Args:
        row: as `rows.row` makes it.
    """
    # A name may be any bytes; what a terminal cannot show, and what would move its
    # cursor, is escaped.
    name = row["file"].encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    if row["status"] == NO_FACE:
        return f"{name}: no face found"
    if row["status"] != OK:
        return f"{name}: {row['status']}"
    # A network may leave some of the tasks out.
    answered = [task for task in TASKS if row[task.name] is not None]
    answers = ", ".join(_answer(task, row) for task in answered)
    if row["left"] is None:
        return f"{name}: {answers}"
    left, top, right, bottom = (row[k] for k in ("left", "top", "right", "bottom"))
    return f"{name}: {answers}; at {left}, {top} to {right}, {bottom}"


def _answer(task: Task, row: Mapping[str, Any]) -> str:
    answer = row[task.name]
    if not task.is_regression:
        return f"{answer} {100 * row[f'p_{answer}']:.0f} %"
    text = f"{answer:.0f} {task.unit}"
    low, high = row[f"{task.name}_low"], row[f"{task.name}_high"]
    return text if low is None else f"{text} ({low:.0f} to {high:.0f})"
