"""Rows, one a face: on disk, where a broken run can go on with them, or printed.

Rows are appended in the order of pictures, so all that a crash can leave
unfinished are the rows at the end: those of the last picture. A run that has
that picture again does it anew: its rows are taken away when there are new
ones to write. A run of other pictures leaves them as they are.

Pictures that could not be read are tried again by the next run that has them. Their
new rows are appended like all others, and the old ones taken out when the file is
closed; a crash in between leaves both, and the next run takes them out.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import filelock

from hydranet_tf.data.decoding import TRUNCATED as TRUNCATED
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.table import (
    COLUMNS,
    FAILED,
    NO_FACE,
    OK,
    UNREADABLE,
    name_of,
)
from hydranet_tf.tasks import TASKS, Task

# The name of a picture from standard input; each run has another one.
STANDARD_INPUT = "-"

_FORMATS = (".csv", ".jsonl")
_BOM = b"\xef\xbb\xbf"
# What a spreadsheet takes for a formula, and runs (OWASP, CSV injection).
# The dash alone, which stands for standard input, is not one.
_FORMULA = re.compile(r"'*([=+@\t\r]|-.)", re.DOTALL)

# More do not fit next to the codes that shells and absl use.
MOST_IN_EXIT_CODE = 100

_MEANING = "These are estimates of what annotators saw in pictures, not facts."


class RowsError(HydraNetError, ValueError):
    """A file that cannot take rows; the message says why."""


def kind_of(status: str) -> str:
    """`OK`, `NO_FACE`, `UNREADABLE` or `FAILED`."""
    return status.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a picture ended.

    Attributes:
        kind: see `kind_of`.
        is_final: whether another run would say the same: not of a file that could not
            be read, or not to its end, and may have been repaired since.
        is_partial: whether it was read in part.
        faces: its rows with a face.
        start: where its rows begin in the file.
    """

    kind: str
    is_final: bool
    is_partial: bool
    faces: int
    start: int


def outcome(file: str, statuses: Sequence[str], start: int = 0) -> Outcome:
    """Of the rows of one picture."""
    kind, _, reason = statuses[0].partition(": ")
    is_read = kind in (OK, NO_FACE)
    is_whole = is_read and not reason.startswith(TRUNCATED)
    return Outcome(
        kind,
        is_whole and file != STANDARD_INPUT,
        is_read and bool(reason),
        len(statuses) if kind == OK else 0,
        start,
    )


class Outcomes(dict[str, Outcome]):
    """By the names in the rows."""

    @property
    def statuses(self) -> Counter[str]:
        """How many pictures ended how."""
        return Counter(one.kind for one in self.values())

    @property
    def faces(self) -> int:
        return sum(one.faces for one in self.values())

    @property
    def partial(self) -> int:
        """How many pictures were read in part."""
        return sum(one.is_partial for one in self.values())


class Rows:
    """A .csv or .jsonl file of rows, open for more.

    Attributes:
        outcomes: of all pictures that have rows, those of earlier runs included.
        finished: names of pictures whose rows are all there and will stay.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        pictures: Collection[str] = (),
        *,
        bom: bool = False,
        columns: Sequence[str] = COLUMNS,
    ):
        """Opens the file, or makes it; no row is touched before there are new ones.

        A table that a spreadsheet saved as UTF-8, with a byte order mark and other line
        ends, is gone on with in its way.

        Args:
            path: ends in .csv or .jsonl.
            pictures: what this run will predict, if not finished.
            bom: whether a new .csv file begins with a byte order mark, by which Excel
                knows UTF-8.
            columns: `file` is the first and `status` the last.

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
        self._columns = tuple(columns)
        self._first_line = _csv_line(self._columns)
        self._header = (_BOM if bom else b"") + self._first_line
        self._line_end = b"\n"
        self.outcomes = Outcomes()
        self.finished: set[str] = set()
        # Pictures with old rows before their new ones.
        self._stale: set[str] = set()
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
            self._end = self._recover(frozenset(map(name_of, pictures)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_) -> None:
        try:
            if self._stale:
                self._drop_stale()
        finally:
            self._file.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends all rows of one or several pictures, and hands them to the disk."""
        encoded = [self._encoded(row) for row in rows]
        # Opened for appending: what is written goes behind what is left.
        self._file.truncate(self._end)
        self._file.write(b"".join(encoded))
        self._file.flush()
        sized = zip(rows, map(len, encoded), strict=True)
        for file, some in groupby(sized, key=lambda pair: pair[0]["file"]):
            some = list(some)
            self._count(file, [one["status"] for one, _ in some], self._end)
            self._end += sum(size for _, size in some)

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """More rows of the file that `add` had last, too many to be held at once."""
        for one in rows:
            self._end += self._file.write(self._encoded(one))
        self._file.flush()

    def _count(self, file: str, statuses: Sequence[str], start: int) -> None:
        if file in self.outcomes:
            self._stale.add(file)
        self.outcomes[file] = outcome(file, statuses, start)
        self.finished.add(file)

    def _encoded(self, row: Mapping[str, Any]) -> bytes:
        if not self._is_csv:
            return (json.dumps(row, allow_nan=False) + "\n").encode()
        line = _csv_line([_guarded(row[name]) for name in self._columns])
        return line[:-1] + self._line_end

    def _recover(self, pictures: frozenset[str]) -> int:
        """Counts what is there; returns where new rows go."""
        self._file.seek(0)
        if self._is_csv:
            self._recover_header()
        start = end = self._file.tell()
        file, statuses = "", []
        for name, status, after in self._records(end):
            if statuses and name != file:
                self._count(file, statuses, start)
                statuses, start = [], end
            file = name
            statuses.append(status)
            end = after
        # One row says all about a picture without a face; of others some may lack.
        is_open = statuses and kind_of(statuses[0]) == OK and file in pictures
        if statuses and not is_open:
            self._count(file, statuses, start)
        self.finished -= {
            name
            for name in pictures
            if name in self.outcomes and not self.outcomes[name].is_final
        }
        return start if is_open else end

    def _recover_header(self) -> None:
        line = self._file.readline()
        own = self._first_line
        if (_BOM + own).startswith(line) or own.startswith(line):
            # Its own, whole or cut off.
            if line.removeprefix(_BOM) != own:
                self._file.truncate(0)
                self._file.write(self._header)
                self._file.flush()
            return
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self._foreign() from None
        if text.rstrip("\r\n").split(";") == list(self._columns):
            raise RowsError(
                f"expected {self.path} with commas between its cells; it has "
                "semicolons: save it as 'CSV UTF-8 (comma delimited)', or name "
                "another --output"
            )
        names = next(csv.reader([text]), [])
        if tuple(names) != self._columns:
            raise self._foreign()
        # As a spreadsheet saved it.
        self._line_end = b"\r\n" if text.endswith("\r\n") else b"\n"

    def _records(self, end: int) -> Iterator[tuple[str, str, int]]:
        """File and status of each whole row, and where it ends."""
        return self._csv_records(end) if self._is_csv else self._json_records(end)

    def _csv_records(self, end: int) -> Iterator[tuple[str, str, int]]:
        is_whole = True

        def lines():
            nonlocal end, is_whole
            for line in self._file:
                end += len(line)
                is_whole = line.endswith(b"\n")
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    raise RowsError(
                        f"{self.path} is not UTF-8 any more: save it as 'CSV UTF-8', "
                        "or name another --output"
                    ) from None

        try:
            for cells in csv.reader(lines(), strict=True):
                if not is_whole:
                    return
                if len(cells) != len(self._columns):
                    raise self._foreign()
                yield _unguarded(cells[0]), _unguarded(cells[-1]), end
        except csv.Error as error:
            # An open quote is the only one that the end of a file can leave.
            if self._file.read(1):
                raise self._foreign() from error

    def _json_records(self, end: int) -> Iterator[tuple[str, str, int]]:
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
            if not isinstance(found, dict) or tuple(found) != self._columns:
                raise self._foreign()
            yield found["file"], found["status"], end

    def _drop_stale(self) -> None:
        """Writes the file anew without the old rows of pictures that have new ones."""
        target = Path(os.path.realpath(self.path))
        handle, name = tempfile.mkstemp(
            ".unfinished", f".{target.name}-", target.parent
        )
        try:
            with os.fdopen(handle, "wb") as new, open(target, "rb") as old:
                for start, end in self._kept():
                    old.seek(start)
                    new.write(old.read(end - start))
                new.flush()
                os.fsync(new.fileno())
            shutil.copymode(target, name)
            if os.name == "nt":
                # Nothing is moved there over a file that is open.
                self._file.close()
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _kept(self) -> Iterable[tuple[int, int]]:
        """Where the rows to be kept begin and end, the header before them."""
        self._file.seek(0)
        if self._is_csv:
            self._file.readline()
        start = self._file.tell()
        yield 0, start
        for file, _, end in self._records(start):
            if end > self._end:
                return
            if file not in self._stale or start >= self.outcomes[file].start:
                yield start, end
            start = end

    def _foreign(self) -> RowsError:
        return RowsError(
            f"{self.path} is there already and holds something else than rows of "
            "this version of predict.py: name another --output, or move it away"
        )


def _guarded(cell: Any) -> Any:
    """Text that a spreadsheet would run as a formula, with an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    is_guarded = cell.startswith("'") and _FORMULA.match(cell)
    return cell[1:] if is_guarded else cell


def _csv_line(cells: Sequence[Any]) -> bytes:
    texts = ["" if cell is None else str(cell) for cell in cells]
    # The csv module leaves a bare carriage return unquoted, and then cannot
    # read it.
    has_return = any("\r" in text for text in texts)
    stream = io.StringIO()
    quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    csv.writer(stream, lineterminator="\n", quoting=quoting).writerow(texts)
    return stream.getvalue().encode()


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
    """Prints rows as they come; takes the place of `Rows`.

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
            line: of a row; by default `line_of_picture`.
        """
        self._stream = stream or sys.stdout
        self._line = line or line_of_picture
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


def line_of_picture(row: Mapping[str, Any]) -> str:
    """`a.jpg: 31 years, female 97 %, white 88 %; at 12, 40 to 90, 118, score 0.94`.

    Args:
        row: as `table.row` makes it.
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
