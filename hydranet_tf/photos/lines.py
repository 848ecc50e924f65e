"""Rows as lines to be read, for who scores a few pictures and keeps no file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from hydranet_tf.inference.table import FAILED, UNREADABLE
from hydranet_tf.photos.rows import NO_FACE, OK, Outcomes, outcome
from hydranet_tf.tasks import TASKS, Task

# More do not fit next to the codes that shells and absl use.
MOST_IN_EXIT_CODE = 100

_MEANING = "These estimate what annotators saw in pictures. They are no facts."


class Counted:
    """What summaries of pictures and of films share; their fields are its attributes.

    Attributes:
        statuses: files by status: ok, no_face, unreadable, failed.
        output: the file of rows; None where they were printed.
        partial: files that were read in part: truncated or damaged ones.
        closed: folders that could not be looked into.
    """

    statuses: Mapping[str, int]
    output: Path | None
    partial: int
    closed: int = 0

    @property
    def unreadable(self) -> int:
        """Files without a prediction for a reason other than having no face."""
        return self.statuses.get(UNREADABLE, 0) + self.statuses.get(FAILED, 0)

    @property
    def exit_code(self) -> int:
        """The number of unreadable files and folders, 100 standing for more."""
        return min(self.unreadable + self.closed, MOST_IN_EXIT_CODE)

    def total(self, files: str, found: str) -> str:
        """The line at the end: how many `files`, `found` in them, without a face ..."""
        text = (
            f"{files}: {sum(self.statuses.values()):,}, {found}, "
            f"{files} without a face: {self.statuses.get(NO_FACE, 0):,}, "
            f"unreadable: {self.unreadable:,}"
        )
        if self.partial:
            text += f", read in part: {self.partial:,}"
        if self.output is not None:
            text += f"; rows in {self.output}"
        return text


class Lines:
    """Prints rows as they come; takes the place of `rows.Rows`.

    Attributes:
        finished: empty: nothing is kept that a run could go on from.
        outcomes: of all pictures.
        path: None, there is no file.
    """

    finished: frozenset[str] = frozenset()
    path = None

    def __init__(
        self,
        stream: TextIO | None = None,
        line: Callable[[Mapping[str, Any]], str] | None = None,
    ):
        """Prints to a stream, by default the standard output.

        Args:
            stream: open for text.
            line: of a row; by default `line`, of a picture's.
        """
        self._stream = stream or sys.stdout
        self._line = line or _line_of_picture
        self.outcomes = Outcomes()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        # Nobody reads on where the stream broke.
        if kind is None:
            if self.outcomes.faces:
                self._print(_MEANING)
            self._stream.flush()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Prints all rows of one or several pictures."""
        for file, some in groupby(rows, key=lambda row: row["file"]):
            some = list(some)
            self.outcomes[file] = outcome(file, [row["status"] for row in some])
            for row in some:
                self._print(self._line(row))

    def _print(self, text: str) -> None:
        # A terminal or a pipe that knows fewer characters gets them escaped.
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=self._stream)


def line(row: Mapping[str, Any]) -> str:
    """`a.jpg: 31 years, female 97 %, white 88 %; at 12, 40 to 90, 118, score 0.94`.

    Args:
        row: as `rows.row` makes it.
    """
    name, kind = named(row)
    if kind not in (OK, NO_FACE):
        return f"{name}: {row['status']}"
    if kind == NO_FACE:
        return f"{name}: no face found"
    predictions = predictions_of(row)
    if row["left"] is None:
        return f"{name}: {predictions}"
    left, top, right, bottom = (row[k] for k in ("left", "top", "right", "bottom"))
    text = f"{name}: {predictions}; at {left}, {top} to {right}, {bottom}"
    score = row["detection_score"]
    return text if score is None else f"{text}, score {score:.2f}"


_line_of_picture = line


def named(row: Mapping[str, Any]) -> tuple[str, str]:
    """The name of a row's file as a terminal can show it, and the kind of its status.

    Of a file that was read in part the name says so.
    """
    # A name may be any bytes; what a terminal cannot show, and what would move its
    # cursor, is escaped.
    name = row["file"].encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    kind, _, reason = row["status"].partition(": ")
    if kind in (OK, NO_FACE) and reason:
        name = f"{name} ({reason})"
    return name, kind


def predictions_of(row: Mapping[str, Any]) -> str:
    """`31 years (28 to 35), female 97 %, white 88 %`."""
    # A network may leave some of the tasks out.
    predicted = [task for task in TASKS if row[task.name] is not None]
    return ", ".join(_prediction(task, row) for task in predicted)


def _prediction(task: Task, row: Mapping[str, Any]) -> str:
    prediction = row[task.name]
    if not task.is_regression:
        return f"{prediction} {100 * row[f'p_{task.name}_{prediction}']:.0f} %"
    text = f"{prediction:.0f} {task.unit}"
    low, high = row[f"{task.name}_low"], row[f"{task.name}_high"]
    return text if low is None else f"{text} ({low:.0f} to {high:.0f})"
