"""CSV files: of labels or of predictions, read strictly, with errors one can act on."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hydranet_tf.errors import HydraNetError
from hydranet_tf.tasks import TASKS, Task

_MAX_LISTED = 10
_LONGEST_CELL = 2**24

# Written with six digits, as evaluate.py does, a row may miss 1 by this.
_ROUNDING = 1e-3


class SourceError(HydraNetError, ValueError):
    """Data that cannot be used as it is; the message says what to change."""


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str],
    delimiters: str = ",",
    check: Callable[[list[str]], None] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads a CSV file with a header line.

    Args:
        path: a UTF-8 file, with or without a byte order mark.
        columns: those that must be there; others may follow in any order.
        delimiters: what may separate the cells; the one counts that stands most often
            in the header.
        check: is called with the names of the header before any row.

    Yields:
        The line number in the file (1 is the header) and the cells by column.

    Raises:
        SourceError: naming the lines and what to do.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            # A cell may be as long as a picture of pixels.
            csv.field_size_limit(_LONGEST_CELL)
            delimiter = max(delimiters, key=first.count)
            reader = csv.DictReader(file, strict=True, delimiter=delimiter)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            _check_header(path, header, columns)
            if check is not None:
                check(header)
            problems = []
            for cells in reader:
                # DictReader keeps surplus cells under None and fills None in.
                if None in cells or None in cells.values():
                    problems.append(
                        f"row {reader.line_num}: expected {len(header)} cells"
                    )
                else:
                    yield reader.line_num, cells
            raise_problems(path, problems)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise SourceError(
            f"{path}, near row {reader.line_num}: {error}; expected cells separated "
            "by commas, in double quotes where a cell holds one"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read the table {path}: {error}") from error


def raise_problems(path: str | os.PathLike, problems: Sequence[str]) -> None:
    """Raises one error for everything that is wrong in a table."""
    if problems:
        shown = "\n  ".join(problems[:_MAX_LISTED])
        more = len(problems) - _MAX_LISTED
        raise SourceError(
            f"{Path(path).name}: {len(problems)} rows need a correction "
            f"({path}):\n  {shown}" + (f"\n  and {more} more" if more > 0 else "")
        )


def listing(names: Iterable[str]) -> str:
    """The first names of many, for a message."""
    names = list(names)
    more = len(names) - _MAX_LISTED
    shown = ", ".join(repr(name) for name in names[:_MAX_LISTED])
    return shown + (f" and {more} more" if more > 0 else "")


def _check_header(path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        raise SourceError(
            f"{path} lacks the columns {', '.join(missing)}: expected a first line "
            f"with {','.join(columns)}, separated by commas; found {header}"
        )
    if len(set(header)) < len(header):
        raise SourceError(f"{path} names a column twice: {header}")


def read_predictions(
    path: str | os.PathLike, ids: Sequence[str]
) -> dict[Task, np.ndarray]:
    """The predictions for these faces, of each task in the file.

    Args:
        path: a CSV file with the columns `id` and `p_TASK_CLASS` of a task with
            classes, `predicted_TASK` of a regression; it may hold more faces, more
            columns and fewer tasks.
        ids: the faces asked for, in the order of the result.

    Returns:
        Probabilities `[n, classes]` whose rows add up to 1, or values `[n]` in the
        unit of a regression.

    Raises:
        SourceError: on a file that cannot be read, has no task, misses a face or
            holds something else than probabilities and values in range.
    """
    found = {cells["id"]: cells for _, cells in read_table(path, ["id"])}
    missing = [i for i in ids if str(i) not in found]
    if missing:
        raise SourceError(
            f"{path} has no row for {len(missing)} of {len(ids)} faces, the first "
            f"{missing[0]}; expected a prediction for each"
        )
    rows = [found[str(i)] for i in ids]
    columns = {task: task.prediction_columns for task in TASKS}
    predicted = {
        task: _numbers(path, rows, names)
        for task, names in columns.items()
        if rows[0].keys() >= set(names)
    }
    if not predicted:
        raise SourceError(
            f"{path} has no task's predictions; expected the columns "
            + ", or ".join(" ".join(names) for names in columns.values())
        )
    return {
        task: (_probabilities if task.classes else _values)(path, rows, task, numbers)
        for task, numbers in predicted.items()
    }


def _numbers(path, rows, columns) -> np.ndarray:
    try:
        return np.array([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise SourceError(
            f"{path}, columns {', '.join(columns)}: {error}; expected a number in "
            "each row"
        ) from error


def _probabilities(path, rows, task, values) -> np.ndarray:
    # "Not right" is also true of NaN.
    wrong = ~((values >= 0).all(1) & (abs(values.sum(1) - 1) < _ROUNDING))
    if wrong.any():
        row = int(wrong.argmax())
        raise SourceError(
            f"{path}: the columns {', '.join(task.probability_columns)} of "
            f"{rows[row]['id']} hold {values[row].tolist()}; expected probabilities "
            "that add up to 1"
        )
    return values / values.sum(1, keepdims=True)


def _values(path, rows, task, values) -> np.ndarray:
    values = values[:, 0]
    wrong = ~((values >= task.low) & (values <= task.high))
    if wrong.any():
        row = int(wrong.argmax())
        raise SourceError(
            f"{path}: the column {task.prediction_column} of {rows[row]['id']} holds "
            f"{values[row]:g}; expected {task.unit} from {task.low:g} to {task.high:g}"
        )
    return values
