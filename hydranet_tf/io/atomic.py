"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Ends the names of what is being written; a killed process leaves it behind.
_UNFINISHED = ".unfinished"


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file under a temporary name, then renames it over `path`.

    Raises:
        OSError: if it cannot be written; what stood at `path` is untouched.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(_UNFINISHED, f".{path.name}-", path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # Renamed before its bytes are on disk, a file is empty after a
            # power cut.
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
        _flush(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` if the body succeeds.

    Raises:
        FileExistsError: if `path` is there already.
        OSError: if writing failed; nothing is left behind.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten")
    temporary = Path(tempfile.mkdtemp(_UNFINISHED, f".{path.name}-", path.parent))
    try:
        yield temporary
        # Folders too: theirs are the names of the files.
        for inside in (*temporary.rglob("*"), temporary):
            _flush(inside)
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
        _flush(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what killed processes left half written in a folder.

    Call it only where nobody else may be writing.
    """
    for path in Path(folder).glob(f".*{_UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
