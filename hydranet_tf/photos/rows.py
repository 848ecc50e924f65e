"""Rows on disk, one a face, that a broken run can go on with.

Rows are appended in the order of pictures, so all that a crash can leave
unfinished are the rows at the end: those of the last picture. A run that has
that picture again does it anew: its rows are taken away when there are new
ones to write. A run of other pictures leaves them as they are.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from hydranet_tf.tasks import TASKS

_PLACE = ("left", "top", "right", "bottom")


def _task_columns() -> Iterator[str]:
    for task in TASKS:
        yield task.name
        if task.is_regression:
            yield from (f"{task.name}_low", f"{task.name}_high")
        yield from (f"p_{name}" for name in task.classes)


COLUMNS: tuple[str, ...] = (
    "file", "face", *_PLACE, "detection_score", *_task_columns(), "status"
)  # fmt: skip

OK, NO_FACE = "ok", "no_face"
# Followed by a colon and the reason.
UNREADABLE, FAILED = "unreadable", "failed"

_FORMATS = (".csv", ".jsonl")


class RowsError(ValueError):
    """A file that cannot take rows; the message says why."""


def row(file: str, status: str, **values: Any) -> dict[str, Any]:
    """One row, blank where nothing is given."""
    return {**dict.fromkeys(COLUMNS), "file": file, **values, "status": status}


class Rows:
    """A .csv or .jsonl file of rows, open for more.

    Attributes:
        finished: files whose rows are all there.
        statuses: how many pictures ended how, with those of earlier runs.
        faces: how many rows are faces.
    """

    def __init__(self, path: str | os.PathLike, pictures: Collection[str] = ()):
        """Opens the file, or makes it; no row is touched before there are new ones.

        Args:
            path: ends in .csv or .jsonl.
            pictures: what this run will answer, if not finished.

        Raises:
            RowsError: if it has another ending, cannot be written, holds
                something else, or is being written by another process.
        """
        self.path = Path(path).expanduser()
        if self.path.suffix not in _FORMATS:
            raise RowsError(
                f"expected --output to end in {' or '.join(_FORMATS)}; got {path}"
            )
        self._is_csv = self.path.suffix == ".csv"
        self.finished: set[str] = set()
        self.statuses: Counter[str] = Counter()
        self.faces = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Appending never creates twice and never empties.
            self._file = open(self.path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise RowsError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            if not filelock.lock_descriptor(self._file.fileno(), blocking=False):
                raise RowsError(f"{self.path} is being written by another process")
            # Where new rows go; what lies behind it was left unfinished.
            self._end = self._recover(frozenset(pictures))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends all rows of one or several pictures, and hands them to the disk."""
        encoded = b"".join(self._encoded(row) for row in rows)
        # Opened for appending: what is written goes behind what is left.
        self._file.truncate(self._end)
        self._file.write(encoded)
        self._file.flush()
        self._end += len(encoded)
        for one in rows:
            self._count(one["file"], one["status"])

    def _count(self, file: str, status: str) -> None:
        kind = status.partition(":")[0]
        self.faces += kind == OK
        if file not in self.finished:
            self.finished.add(file)
            self.statuses[kind] += 1

    def _encoded(self, row: Mapping[str, Any]) -> bytes:
        if not self._is_csv:
            return (json.dumps(row, allow_nan=False) + "\n").encode()
        return _csv_line([row[name] for name in COLUMNS])

    def _recover(self, pictures: frozenset[str]) -> int:
        """Counts what is there; returns where new rows go."""
        self._file.seek(0)
        if self._is_csv:
            header = self._file.read(len(_HEADER))
            if not _HEADER.startswith(header):
                raise self._foreign()
            if header != _HEADER:
                self._file.truncate(0)
                self._file.write(_HEADER)
                self._file.flush()
        before_last = end = self._file.tell()
        last: list[tuple[str, str]] = []
        records = self._csv_records if self._is_csv else self._json_records
        for file, status, after in records(end):
            if last and last[0][0] != file:
                for one in last:
                    self._count(*one)
                last, before_last = [], end
            last.append((file, status))
            end = after
        # One row says all about a picture without a face.
        may_lack_faces = last and last[0][1].partition(":")[0] == OK
        if may_lack_faces and last[0][0] in pictures:
            return before_last
        for one in last:
            self._count(*one)
        return end

    def _csv_records(self, end: int) -> Iterator[tuple[str, str, int]]:
        """File and status of each whole row, and where it ends."""
        is_whole = True

        def lines():
            nonlocal end, is_whole
            for line in self._file:
                end += len(line)
                is_whole = line.endswith(b"\n")
                yield line.decode("utf-8", "surrogateescape")

        try:
            for cells in csv.reader(lines(), strict=True):
                if not is_whole:
                    return
                if len(cells) != len(COLUMNS):
                    raise self._foreign()
                yield cells[0], cells[-1], end
        except csv.Error as error:
            # An open quote is the only one that the end of a file can leave.
            if self._file.read(1):
                raise self._foreign() from error

    def _json_records(self, end: int) -> Iterator[tuple[str, str, int]]:
        """As `_csv_records`."""
        beginning = b'{"file": "'
        for line in self._file:
            end += len(line)
            if not line.endswith(b"\n") and (
                line.startswith(beginning) or beginning.startswith(line)
            ):
                return
            try:
                found = json.loads(line)
            except ValueError as error:
                raise self._foreign() from error
            if not isinstance(found, dict) or tuple(found) != COLUMNS:
                raise self._foreign()
            yield found["file"], found["status"], end

    def _foreign(self) -> RowsError:
        return RowsError(
            f"{self.path} is there already and holds something else than rows of "
            "this version of predict.py: name another --output, or move it away"
        )


def _csv_line(cells: Sequence[Any]) -> bytes:
    texts = ["" if cell is None else str(cell) for cell in cells]
    # The csv module leaves a bare carriage return unquoted, and then cannot
    # read it.
    has_return = any("\r" in text for text in texts)
    stream = io.StringIO()
    quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    csv.writer(stream, lineterminator="\n", quoting=quoting).writerow(texts)
    # File names may be any bytes.
    return stream.getvalue().encode("utf-8", "surrogateescape")


_HEADER = _csv_line(COLUMNS)
