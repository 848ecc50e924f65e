"""What an export wrote: how it comes into its folder, its record, and its table."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydranet_tf.errors import HydraNetError
from hydranet_tf.exporting import latency, litert, parity, saved_model
from hydranet_tf.exporting.parity import IMAGE_BYTES, Sample
from hydranet_tf.io import atomic
from hydranet_tf.tasks import Task

# Exports are OUTPUT/hydranet/1, OUTPUT/hydranet/2, ... and
# OUTPUT/hydranet.tflite, OUTPUT/hydranet_int8.tflite, ... with a .json each.
NAME = "hydranet"
# OUTPUT/preset.
PRESET = "preset"
RECORD = "export.json"

_NOTHING = "-"


class ExportError(HydraNetError, RuntimeError):
    """An export that was refused; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A finished export.

    Attributes:
        path: the SavedModel folder, the preset or the .tflite file.
        format: of `FORMATS`.
        variant: of `litert.VARIANTS`; a SavedModel is `"float32"`, a preset
            `"float16"`.
        size: in bytes.
        comparisons: with the Keras model, by way into it.
        milliseconds: for one image, by number of threads; None for a
            SavedModel, which is served in batches.
    """

    path: Path
    format: str
    variant: str
    size: int
    comparisons: dict[str, parity.Comparison]
    milliseconds: dict[int, float] | None = None


@contextlib.contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """A folder on the disk of `output`, so that a rename can publish from it."""
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=output, prefix=".export-"))
    except OSError as error:
        raise ExportError(
            f"cannot write to {output}: {error.strerror}; give another --output"
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                output.rmdir()


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def publish(staged: Path, output: Path) -> Path:
    """Moves a checked model out of the scratch folder."""
    if not staged.is_dir():
        target = output / staged.name
        # The description first: in between, the two do not fit together and
        # the runtime says so instead of naming classes wrongly.
        sidecar = staged.with_suffix(".json")
        # One of another suffix is of another file.
        if staged.suffix == ".tflite":
            os.replace(sidecar, target.with_suffix(".json"))
        os.replace(staged, target)
        return target
    if staged.name == PRESET:
        target = output / PRESET
        # Two renames: a folder cannot be renamed over one that holds files.
        if target.exists():
            os.rename(target, staged.with_name("replaced"))
        os.rename(staged, target)
        return target
    versions = output / staged.name
    versions.mkdir(exist_ok=True)
    target = versions / str(saved_model.newest_version(versions) + 1)
    os.rename(staged, target)
    return target


def record(
    models: Sequence[ExportedModel],
    output: Path,
    origin: Mapping,
    sample: parity.Sample,
) -> None:
    entries = read_json(output / RECORD)
    for exported in models:
        name = exported.path.relative_to(output).as_posix()
        ways = exported.comparisons
        entries[name] = {
            **origin,
            "variant": exported.variant,
            "bytes": exported.size,
            "largest_difference_from_keras": {
                way: comparison.differences for way, comparison in ways.items()
            },
            "scores": ways[parity.PIXELS].scores,
            "lost": ways[parity.PIXELS].losses,
            "largest_allowed": parity.bounds(exported.variant, sample),
            "milliseconds_by_threads": exported.milliseconds,
        }
    atomic.write_text(output / RECORD, json.dumps(entries, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object from a file, or an empty one where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {path}: {error}; move it away") from error
    if not isinstance(content, dict):
        raise ExportError(f"expected a JSON object in {path}; move it away")
    return content


def table(models: Iterable[ExportedModel], sample: Sample) -> str:
    """Lines of text, the Keras model first.

    Args:
        models: a row for each way into each.
        sample: that they were compared on.

    Returns:
        Columns of size in megabytes, largest difference from Keras by task
        (years, probability), mean absolute error or accuracy by task, and
        milliseconds for one image by number of threads.
    """
    tasks = sample.tasks
    above = ["", ""]
    above += ["difference"] + [""] * (len(tasks) - 1)
    above += ["error, accuracy"] + [""] * (len(tasks) - 1)
    above += ["ms by threads"] + [""] * (len(latency.THREADS) - 1)
    header = ["", "MB"]
    header += [task.name for task in tasks] * 2
    header += [str(n) for n in latency.THREADS]
    rows = [["keras", _NOTHING, *[_NOTHING] * len(tasks)]]
    rows[0] += _scores(tasks, sample.scores(sample.predictions))
    rows[0] += [_NOTHING] * len(latency.THREADS)
    shown = list(models)
    for exported in shown:
        for way, comparison in exported.comparisons.items():
            name = f"{exported.format} {exported.variant}"
            if way == IMAGE_BYTES:
                name += ", image bytes"
            times = exported.milliseconds or {}
            rows.append(
                [
                    name,
                    f"{exported.size / 1e6:.2f}",
                    *(f"{comparison.differences[t.name]:.1e}" for t in tasks),
                    *_scores(tasks, comparison.scores),
                    *(
                        f"{times[n]:.2f}" if n in times else _NOTHING
                        for n in latency.THREADS
                    ),
                ]
            )
    lines = [f"{len(sample)} faces; differences from Keras in years and probability"]
    if len(sample) < parity.FEW and any(a.variant in litert.IN_8_BITS for a in shown):
        lines.append(
            f"{len(sample)} faces are too few to vouch for 8 bits: what they bound is "
            f"these faces alone. Give --data with {parity.FEW} faces or more"
        )
    return "\n".join(lines + _aligned([header, *rows], above))


def _scores(tasks: Sequence[Task], scores: Mapping[str, float | None]) -> list[str]:
    return [_score(task, scores[task.name]) for task in tasks]


def _score(task: Task, score: float | None) -> str:
    return _NOTHING if score is None else task.format_score(score, digits=3)


def _aligned(rows: Sequence[Sequence[str]], above: Sequence[str]) -> list[str]:
    """Names to the left, numbers to the right; `above` over its columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    title = ""
    for i, text in enumerate(above):
        begin = sum(widths[:i]) + 2 * i
        if text:
            title = title.ljust(begin) + text
    return [title.rstrip(), *lines]
