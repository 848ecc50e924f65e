"""The files of an export: how they come into their folder, and its record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydranet_tf.errors import HydraNetError
from hydranet_tf.exporting import parity, saved_model
from hydranet_tf.io import atomic

# Artefacts are OUTPUT/hydranet/1, OUTPUT/hydranet/2, ... and
# OUTPUT/hydranet.tflite, OUTPUT/hydranet_int8.tflite, ... with a .json each.
NAME = "hydranet"
# OUTPUT/preset.
PRESET = "preset"
RECORD = "export.json"


class ExportError(HydraNetError, RuntimeError):
    """An export that was refused; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A finished export.

    Attributes:
        path: the SavedModel folder, the preset or the .tflite file.
        format: of `FORMATS`.
        variant: of `litert.VARIANTS`; a SavedModel is `"float32"`, a preset
            `"float16"`.
        size: in bytes.
        comparisons: with the Keras model, by way into the artefact.
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
    """Moves a checked artefact out of the scratch folder."""
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
    artefacts: Sequence[Artefact], output: Path, origin: Mapping, sample: parity.Sample
) -> None:
    entries = read_json(output / RECORD)
    for artefact in artefacts:
        name = artefact.path.relative_to(output).as_posix()
        ways = artefact.comparisons
        entries[name] = {
            **origin,
            "variant": artefact.variant,
            "bytes": artefact.size,
            "largest_difference_from_keras": {
                way: comparison.differences for way, comparison in ways.items()
            },
            "scores": ways[parity.PIXELS].scores,
            "lost": ways[parity.PIXELS].losses,
            "largest_allowed": parity.bounds(artefact.variant, sample),
            "milliseconds_by_threads": artefact.milliseconds,
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
