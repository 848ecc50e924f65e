"""CSV files that people write: read strictly, with errors they can act on."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from hydranet_tf.errors import HydraNetError

_MAX_LISTED = 10
_LONGEST_CELL = 2**24


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
