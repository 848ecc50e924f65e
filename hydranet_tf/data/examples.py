"""Labelled images before they are decoded: one source's, or several joined."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from hydranet_tf.data.file_names import Labels, Skipped
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import MISSING, TASKS

# Windows would turn line ends into others.
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# Most faces in one go.
_READ_BYTES = 2**18


class NoExamplesError(SourceError):
    """A split without one usable example."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images, not yet decoded.

    Attributes:
        ids: `[n]` unique names, the same on every machine.
        labels: by task name, `[n]`: float32 for a regression, int32 class
            indices otherwise; `MISSING` where there is no label. Where a regression
            has ranges, their middles, and by `task.half_width_name` half their
            widths, 0 for an exact label.
        read: gives the JPEG or PNG bytes of example i.
        paths: `[n]` file paths where examples are plain files, so that
            TensorFlow can read them in its graph; else None.
        skipped: what the source left out.
        source_names: of several sources that were joined, in the order in which
            they were named; empty for one source.
        source: `[n]` which of them each example is from; None for one source.
        variant: what was done to the images on the way, if anything; it is a part of
            the digest, which names files of decoded images.
    """

    ids: np.ndarray
    labels: dict[str, np.ndarray]
    read: Callable[[int], bytes]
    paths: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()
    source_names: tuple[str, ...] = ()
    source: np.ndarray | None = None
    variant: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices` (integers, or a boolean mask), in order."""
        # NumPy makes floats of an empty list, and floats are no indices.
        indices = np.asarray(indices) if len(indices) else []
        chosen = np.arange(len(self))[indices]
        return dataclasses.replace(
            self,
            ids=self.ids[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
            read=lambda i: self.read(int(chosen[i])),
            paths=None if self.paths is None else self.paths[chosen],
            source=None if self.source is None else self.source[chosen],
        )

    def by_source(self) -> dict[str, np.ndarray]:
        """Indices of each source's examples, in order; nothing for one source."""
        return {
            name: np.flatnonzero(self.source == number)
            for number, name in enumerate(self.source_names)
        }

    def digest(self) -> str:
        """SHA-256 (hex) over ids and labels, whatever their order.

        Two runs with the same digest saw the same examples with the same
        labels, from whichever kind of source. Of joined sources it also tells
        which example is from which.
        """
        names = sorted(self.labels)
        columns = [self.ids.tolist(), *(self.labels[n].tolist() for n in names)]
        if self.source is not None:
            columns.append(self.source.tolist())
        rows = sorted(
            "\t".join([row[0], *(repr(float(value)) for value in row[1:])])
            for row in zip(*columns, strict=True)
        )
        head = ["id", *names, *([self.variant] if self.variant else [])]
        text = "\n".join(["\t".join(head), *rows])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def join(parts: Mapping[str, Examples | None]) -> Examples:
    """Makes one of the examples of several sources.

    Args:
        parts: by the name of the source, in order; None where a source has no
            example of this split.

    Returns:
        The examples source after source. Where two sources use the same id, every id
        gets the name of its source before it: `name/id`. A task that one of the
        sources does not label is `MISSING` there.
    """
    there = {name: part for name, part in parts.items() if part is not None}
    ids = [example for part in there.values() for example in part.ids.tolist()]
    if len(set(ids)) < len(ids):
        ids = [f"{name}/{i}" for name, part in there.items() for i in part.ids.tolist()]
    numbers = [list(parts).index(name) for name in there]
    return dataclasses.replace(
        concatenate(list(there.values())),
        ids=np.array(ids),
        source_names=tuple(parts),
        source=np.repeat(numbers, [len(part) for part in there.values()]),
    )


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Examples after examples, as those of two splits of the same sources."""
    names = list(dict.fromkeys(name for part in parts for name in part.labels))
    labels = {
        name: np.concatenate([_labels(part, name, parts) for part in parts])
        for name in names
    }
    bounds = np.cumsum([0, *map(len, parts)])

    def read(i: int) -> bytes:
        number = int(np.searchsorted(bounds, i, "right")) - 1
        return parts[number].read(i - int(bounds[number]))

    def joined(arrays):
        if any(array is None for array in arrays):
            return None
        return np.concatenate(arrays)

    return Examples(
        np.concatenate([part.ids for part in parts]),
        labels,
        read,
        joined([part.paths for part in parts]),
        tuple(dict.fromkeys(skipped for part in parts for skipped in part.skipped)),
        parts[0].source_names,
        joined([part.source for part in parts]),
    )


def _labels(part: Examples, name: str, parts: Sequence[Examples]) -> np.ndarray:
    if name in part.labels:
        return part.labels[name]
    dtype = next(p.labels[name].dtype for p in parts if name in p.labels)
    is_task = name in (task.name for task in TASKS)
    # Without ranges, labels are exact.
    return np.full(len(part), MISSING if is_task else 0, dtype)


def from_files(
    what: str,
    folder: Path,
    names: Sequence[str],
    rows: Sequence[Labels],
    skipped: Sequence[Skipped],
    files: Sequence[str] | None = None,
) -> Examples:
    """Examples that are files.

    Args:
        what: the split and its source, for messages.
        folder: where the files lie.
        names: of the files, which become the ids.
        files: their paths from `folder`, where these are not the names.
        rows: the labels of each.
        skipped: what was left out.

    Raises:
        NoExamplesError: if there is none.
    """
    paths = np.array([os.path.join(folder, name) for name in files or names])

    def read(i: int) -> bytes:
        # Not by `open`, whose files give up Python's lock and want it back six times,
        # each time a moment in which another thread may take it.
        file = os.open(paths[i], _READ_ONLY)
        try:
            parts = []
            while part := os.read(file, _READ_BYTES):
                parts.append(part)
        finally:
            os.close(file)
        return b"".join(parts)

    return from_rows(what, names, rows, read, paths, skipped)


def from_rows(
    what: str,
    names: Sequence[str],
    rows: Sequence[Labels],
    read: Callable[[int], bytes],
    paths: np.ndarray | None,
    skipped: Sequence[Skipped],
) -> Examples:
    """Examples of ids and rows of labels; see `Examples` and `from_files`."""
    if not len(names):
        raise NoExamplesError(
            f"there is no usable example in {what}; {len(skipped)} were skipped"
            + "".join(f"\n  {s.id}: {s.reason}" for s in skipped[:5])
        )
    if skipped:
        logging.warning(
            "%d examples of %s are left out, the first because: %s",
            len(skipped),
            what,
            skipped[0].reason,
        )
    labels = {
        task.name: np.array(
            [row[task.name] for row in rows],
            task.label_dtype,
        )
        for task in TASKS
    }
    for task in TASKS:
        widths = np.array([row.get(task.half_width_name, 0) for row in rows])
        if widths.any():
            labels[task.half_width_name] = widths.astype(np.float32)
    return Examples(np.array(names), labels, read, paths, tuple(skipped))
