"""What a source holds, as text to be read before anything trains: --check."""

from __future__ import annotations

import collections
import os

import numpy as np

from hydranet_tf.data import sources
from hydranet_tf.data.file_names import SPLITS
from hydranet_tf.data.sources import Examples, NoExamplesError
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import MISSING, TASKS, Task

# Reasons for which examples were skipped that are shown, and examples of each.
_REASONS, _SHOWN = 10, 3


def describe(data: str | os.PathLike, **places) -> str:
    """Counts by split, task and class, ranges, and what was skipped and why.

    Nothing is decoded: images that cannot be are found when a run starts.

    Args:
        data, places: see `sources.open_source`. Several sources are described one
            after the other.

    Raises:
        SourceError: as `open_source`.
    """
    lists = places.pop("split_lists", None)
    named = sources.listed(data, lists)
    if len(named) == 1:
        return _describe(data, split_lists=lists, **places)
    # Together once, where columns may be of one source alone.
    sources.open_source(data, sources.ALL, split_lists=lists, **places)
    texts = []
    joined = {
        split: _opened(data, split, split_lists=lists, **places) for split in SPLITS
    }
    there = {split: part for split, part in joined.items() if part is not None}
    for number, (name, (alone, its_lists)) in enumerate(named.items()):
        parts = {
            split: part.select(np.flatnonzero(part.source == number))
            for split, part in there.items()
        }
        if any(map(len, parts.values())):
            texts.append(f"{name}\n{_text(parts)}")
            continue
        try:
            sources.open_source(
                alone,
                sources.ALL,
                data_dir=places.get("data_dir"),
                split_lists=its_lists,
            )
        except SourceError as error:
            texts.append(f"{name}\n  {error}")
    return "\n".join([*texts, *_skipped(list(there.values()))])


def _describe(data, **places) -> str:
    parts = {split: _opened(data, split, **places) for split in SPLITS}
    if not any(part is not None for part in parts.values()):
        # Says what there is instead.
        sources.open_source(data, sources.ALL, **places)
    there = {split: part for split, part in parts.items() if part is not None}
    return "\n".join([f"{data}\n{_text(there)}", *_skipped(list(there.values()))])


def _opened(data, split: str, **places) -> Examples | None:
    try:
        return sources.open_source(data, split, **places)
    except NoExamplesError:
        return None


def _text(parts: dict[str, Examples]) -> str:
    lines = [_row("", list(parts)), _row("examples", [len(p) for p in parts.values()])]
    for task in TASKS:
        labels = [part.labels.get(task.name, np.array([])) for part in parts.values()]
        there = [row[row != MISSING] for row in labels]
        lines.append(_row(task.name, [len(row) for row in there]))
        lines += _details(task, there, parts)
    return "\n".join(lines)


def _details(task: Task, there: list[np.ndarray], parts: dict[str, Examples]):
    if task.classes:
        for number, name in enumerate(task.classes):
            yield _row(f"  {name}", [int((row == number).sum()) for row in there])
        return
    for name, measure in (
        ("smallest", np.min), ("median", np.median), ("largest", np.max),
    ):  # fmt: skip
        yield _row(
            f"  {name}", [f"{measure(row):g}" if len(row) else "" for row in there]
        )
    widths = [p.labels.get(task.half_width_name) for p in parts.values()]
    if any(row is not None for row in widths):
        counts = [0 if row is None else int((row > 0).sum()) for row in widths]
        yield _row("  ranges", counts)


def _row(name: str, cells) -> str:
    shown = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    return f"  {name:<16}" + "".join(f"{cell:>12}" for cell in shown)


def _skipped(parts: list[Examples]) -> list[str]:
    # Splits that are parts of one source may each list what is left out of all.
    left_out = dict.fromkeys(s for part in parts for s in part.skipped)
    if not left_out:
        return ["  nothing was skipped"]
    by_reason = collections.defaultdict(list)
    for skipped in left_out:
        by_reason[skipped.reason].append(skipped.id)
    lines = [f"  {len(left_out):,} skipped:"]
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    for reason, ids in ordered[:_REASONS]:
        more = " ..." if len(ids) > _SHOWN else ""
        lines.append(f"    {len(ids):,}: {reason} ({', '.join(ids[:_SHOWN])}{more})")
    if len(ordered) > _REASONS:
        lines.append(f"    and {len(ordered) - _REASONS} other reasons")
    return lines
