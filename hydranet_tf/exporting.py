"""From a trained run to files that servers and phones load, checked first.

Everything is written into a scratch folder beside its place, run on real
examples next to the Keras model, and moved into place only when every answer
agrees. A failed export leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hydranet_tf
from hydranet_tf import (
    atomic,
    checkpoints,
    litert,
    pipeline,
    runtimes,
    saved_model,
    sources,
)
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.model import HydraNet, answer_model
from hydranet_tf.tasks import Task

# Artefacts are OUTPUT/hydranet/1, OUTPUT/hydranet/2, ... and
# OUTPUT/hydranet.tflite with OUTPUT/hydranet.json.
NAME = "hydranet"
RECORD = "export.json"

# What float32 arithmetic in another order may change; a wrong pixel, a swapped
# class or a lost weight changes more.
MAX_YEARS = 0.01
MAX_PROBABILITY = 1e-4
PARITY_EXAMPLES = 64

_WRITERS = {
    "saved_model": (saved_model.write, NAME),
    "litert": (litert.write, f"{NAME}.tflite"),
}
FORMATS = tuple(_WRITERS)


class ExportError(RuntimeError):
    """An export that was refused; the message says what to do."""


# What `export_run` raises where the user can do something about it.
ERRORS = (
    ExportError,
    litert.UnsupportedOperators,
    checkpoints.CheckpointError,
    ConfigError,
    sources.SourceError,
)


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A finished export.

    Attributes:
        path: the SavedModel folder or the .tflite file.
        format: of `FORMATS`.
        parity: the largest difference from the Keras model, by way into the
            artefact (`"pixels"`, `"image_bytes"`) and by task: years, or
            probability.
    """

    path: Path
    format: str
    parity: dict[str, dict[str, float]]


def export_run(
    workdir: str | Path,
    output: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    checkpoint: str = "best",
    data: str | None = None,
    split: str = "validation",
    data_dir: str | None = None,
    split_lists: str | None = None,
    overwrite: bool = False,
) -> list[Artefact]:
    """Exports a run of train.py, checked on real examples.

    Args:
        workdir: of the run.
        output, formats, overwrite: see `export`.
        checkpoint: `"best"` or `"last"`.
        data: where the examples of the check come from, see
            `sources.open_source`; None takes what the run was trained on.
        split, data_dir, split_lists: go with `data`; without it, `data_dir`
            and `split_lists` replace those of the run where given.

    Raises:
        One of `ERRORS`: if the run, the examples or the output is not
            what it must be, or see `export`.
    """
    _check_request(Path(output), formats, overwrite)
    model = checkpoints.load_model(workdir, which=checkpoint)
    folder, _ = checkpoints.newest(workdir, which=checkpoint)
    if data is None:
        text = Path(workdir, "config.json").read_text(encoding="utf-8")
        config = TrainingConfig.from_json(text)
        data = config.data
        data_dir = data_dir or config.data_dir
        split_lists = split_lists or config.split_lists
    examples = sources.open_source(
        data, split, data_dir=data_dir or None, split_lists=split_lists or None
    )
    origin = {
        "workdir": os.path.abspath(workdir),
        "checkpoint": folder.name,
        "commit": _read_json(Path(workdir, "run.json")).get("commit"),
        "data": data,
        "split": split,
    }
    return export(model, examples, output, formats, origin=origin, overwrite=overwrite)


def export(
    model: HydraNet,
    examples: sources.Examples,
    output: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    origin: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Artefact]:
    """Writes a model in every format asked for, or in none.

    `output` receives `hydranet/N` (SavedModel, N the next free version),
    `hydranet.tflite` with its description `hydranet.json`, and `export.json`,
    which records how each artefact was made and how far its answers are from
    the Keras model's.

    Args:
        model: any precision; what is written is float32.
        examples: up to `PARITY_EXAMPLES` of them, evenly spread, are answered
            by the Keras model and by each artefact.
        output: a folder; is made.
        formats: of `FORMATS`.
        origin: goes into `export.json` with each artefact.
        overwrite: replaces `hydranet.tflite`. A SavedModel version is never
            replaced.

    Raises:
        ExportError: if something stands in the way, an answer differs by more
            than `MAX_YEARS` or `MAX_PROBABILITY`.
        litert.UnsupportedOperators: if LiteRT lacks operators it needs.
    """
    output = Path(output)
    _check_request(output, formats, overwrite)
    model = _in_float32(model)
    images, encoded = _parity_examples(examples, model.image_size)
    expected = runtimes.from_model(model).answers(images)
    network = answer_model(model)
    description = saved_model.describe(model.tasks, model.image_size)
    origin = {
        **(origin or {}),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "image_size": model.image_size,
        "examples": len(images),
        "versions": {
            "hydranet_tf": hydranet_tf.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    with _scratch_folder(output) as scratch:
        staged = []
        for name in dict.fromkeys(formats):
            write, file_name = _WRITERS[name]
            path = scratch / file_name
            write(network, description, path)
            parity = _parity(path, expected, images, encoded, model.tasks)
            staged.append(Artefact(path, name, parity))
        _check_parity(staged, model.tasks)
        artefacts = [
            dataclasses.replace(artefact, path=_publish(artefact.path, output))
            for artefact in staged
        ]
        _record(artefacts, output, origin)
    return artefacts


def table(artefacts: Sequence[Artefact]) -> str:
    """The parity of every artefact as lines of text."""
    lines = []
    for artefact in artefacts:
        for way, differences in artefact.parity.items():
            if not lines:
                names = "".join(f"{name:>10}" for name in differences)
                lines.append(f"{'largest difference from Keras':32}{names}")
            numbers = "".join(f"{value:>10.1e}" for value in differences.values())
            lines.append(f"{artefact.format + ' by ' + way:32}{numbers}")
    return "\n".join(lines)


def _publish(staged: Path, output: Path) -> Path:
    """Moves a checked artefact out of the scratch folder."""
    if not staged.is_dir():
        target = output / staged.name
        # The description first: in between, the two do not fit together and
        # the runtime says so instead of naming classes wrongly.
        os.replace(staged.with_suffix(".json"), target.with_suffix(".json"))
        os.replace(staged, target)
        return target
    versions = output / staged.name
    versions.mkdir(exist_ok=True)
    target = versions / str(saved_model.newest_version(versions) + 1)
    os.rename(staged, target)
    return target


def _record(artefacts: Sequence[Artefact], output: Path, origin: Mapping) -> None:
    record = _read_json(output / RECORD)
    for artefact in artefacts:
        name = artefact.path.relative_to(output).as_posix()
        record[name] = {
            **origin,
            "largest_difference_from_keras": artefact.parity,
            "largest_allowed": {"years": MAX_YEARS, "probability": MAX_PROBABILITY},
        }
    atomic.write_text(output / RECORD, json.dumps(record, indent=2) + "\n")


@contextlib.contextmanager
def _scratch_folder(output: Path) -> Iterator[Path]:
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


def _check_request(output: Path, formats: Sequence[str], overwrite: bool) -> None:
    """Refuses before any work is done what would be refused after it."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ExportError(
            f"expected formats out of {', '.join(FORMATS)}; got "
            f"{', '.join(unknown) or 'none'}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "export runs under the TensorFlow backend; this is "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow: weights "
            "trained under another backend load there"
        )
    if output.exists() and not output.is_dir():
        raise ExportError(f"expected a folder as --output; {output} is a file")
    _read_json(output / RECORD)
    for name in (f"{NAME}.tflite", f"{NAME}.json"):
        if "litert" in formats and (output / name).exists() and not overwrite:
            raise ExportError(
                f"{output / name} exists already: give another --output, or "
                "--overwrite to replace it"
            )


def _parity_examples(
    examples: sources.Examples, image_size: int
) -> tuple[np.ndarray, list[bytes]]:
    """Decodes evenly spread examples; returns them as pixels and as files."""
    count = min(len(examples), PARITY_EXAMPLES)
    spread = np.linspace(0, len(examples) - 1, count).astype(int)
    faces = pipeline.load_faces(
        examples.select(spread), image_size, max_bad_images=count
    )
    if not len(faces):
        raise ExportError(
            "no image to check the export with: none of "
            f"{count} examples could be decoded; give another --data or --split"
        )
    batches = pipeline.evaluation_batches(faces, PARITY_EXAMPLES)
    images = np.concatenate([batch.numpy() for batch, _ in batches])
    return images, [faces.examples.read(i) for i in range(len(faces))]


def _parity(
    path: Path,
    expected: Mapping[str, np.ndarray],
    images: np.ndarray,
    encoded: Sequence[bytes],
    tasks: Sequence[Task],
) -> dict[str, dict[str, float]]:
    """Largest differences by way into the artefact and by task."""
    found = {"pixels": runtimes.load(path).answers(images)}
    if path.is_dir():
        serve = tf.saved_model.load(str(path))
        outputs = serve.signatures[saved_model.ENCODED](
            image_bytes=tf.constant(list(encoded))
        )
        found["image_bytes"] = {
            name: output.numpy() for name, output in outputs.items()
        }
    names = [task.name for task in tasks]
    return {
        way: {
            name: _largest_difference(answers[name], expected[name]) for name in names
        }
        for way, answers in found.items()
    }


def _largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    # Broadcasting would let a single answer stand for all of them.
    if found.shape != expected.shape:
        raise ExportError(
            f"expected answers of the shape {list(expected.shape)}; the "
            f"artefact gives {list(found.shape)}"
        )
    return float(np.max(np.abs(found - expected)))


def _check_parity(artefacts: Sequence[Artefact], tasks: Sequence[Task]) -> None:
    bounds = {
        task.name: MAX_YEARS if task.is_regression else MAX_PROBABILITY
        for task in tasks
    }
    # Written so that NaN, which no comparison holds for, fails too.
    failed = any(
        not value <= bounds[name]
        for artefact in artefacts
        for differences in artefact.parity.values()
        for name, value in differences.items()
    )
    if failed:
        allowed = ", ".join(f"{name} {value:g}" for name, value in bounds.items())
        raise ExportError(
            "the artefact answers differently from the Keras model, so nothing "
            f"was exported. Allowed: {allowed}; got\n{table(artefacts)}"
        )


def _in_float32(model: HydraNet) -> HydraNet:
    """The model itself, or a float32 copy of one of mixed precision.

    Converters refuse 16-bit casts, and phones have no bfloat16.
    """
    if all(layer.compute_dtype == "float32" for layer in model.network.layers):
        return model
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = HydraNet.from_config(model.get_config())
    finally:
        keras.config.set_dtype_policy(policy)
    copy.network.set_weights(model.network.get_weights())
    return copy


def _read_json(path: Path) -> dict[str, Any]:
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
