"""The files of a report: JSON for programs, Markdown and HTML for people, CSV.

A report replaces an earlier one in the same folder; other files there stay as
they are.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import hydranet_tf
from hydranet_tf import checkpoints
from hydranet_tf.data import decoding, sources
from hydranet_tf.errors import HydraNetError
from hydranet_tf.evaluation import scores
from hydranet_tf.evaluation.findings import Findings
from hydranet_tf.tasks import MISSING, Task
from hydranet_tf.worst_predictions import format_prediction, worst

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
REPORT_HTML = "report.html"
PREDICTIONS = "predictions.csv"


class ReportError(HydraNetError, OSError):
    """A folder in which no report can be written; the message says why."""


def prepare(output: str | os.PathLike, flag: str = "--output") -> Path:
    """Makes the folder and tries it, before hours are spent on its content.

    Args:
        output: the folder.
        flag: that names it, for the error.

    Raises:
        ReportError: if nothing can be written there.
    """
    output = Path(output).expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            return output
    except OSError as error:
        raise ReportError(
            f"expected a folder to write into; {output} cannot be written: {error}. "
            f"Name another with {flag}"
        ) from error


@contextlib.contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yields a folder whose files become the report once all are written.

    `report.json` goes first and comes last: where it stands, every other file
    is of the same evaluation.

    Raises:
        ReportError: if the files cannot be written, as on a full disk. An
            earlier report is untouched unless the moving itself failed.
    """
    final = output / REPORT_JSON
    try:
        with tempfile.TemporaryDirectory(prefix=".report-", dir=output) as name:
            folder = Path(name)
            yield folder
            new = sorted(path.name for path in folder.iterdir())
            stale = _files_of(final) - set(new)
            final.unlink(missing_ok=True)
            # Pictures of the report before, of a task that has no labels now.
            for name in stale:
                (output / name).unlink(missing_ok=True)
            for name in sorted(new, key=lambda name: name == REPORT_JSON):
                os.replace(folder / name, output / name)
    except OSError as error:
        raise ReportError(
            f"the report could not be written into {output}: {error}. Free "
            "some space or name another folder with --output, and evaluate again"
        ) from error


def _files_of(report: Path) -> set[str]:
    """Files that an earlier report lists as its own."""
    try:
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
        # Bare names only: an edited list must not reach out of the folder.
        return {name for name in files if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write_json(report: Mapping[str, Any], folder: Path) -> None:
    # NaN is not JSON; a score that is NaN is a defect and stops here.
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / REPORT_JSON).write_text(text + "\n", encoding="utf-8")


def write_predictions(
    tasks: Sequence[Task],
    ids: np.ndarray,
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    folder: Path,
    half_widths: Mapping[str, np.ndarray] | None = None,
) -> None:
    """One row an example: id, labels (blank: missing), predictions, p_ columns."""
    names = ["id", *(task.name for task in tasks)]
    columns = [[str(i) for i in ids]]
    widths = half_widths or {}
    columns += [
        _label_cells(task, labels[task.name], widths.get(task.name)) for task in tasks
    ]
    for task in tasks:
        values = np.asarray(predictions[task.name])
        names.append(task.prediction_column)
        columns.append([task.format_label(v, ".6g") for v in task.as_labels(values)])
        for name in task.outputs[1:]:
            names.append(f"predicted_{name}")
            columns.append([f"{value:.6g}" for value in predictions[name]])
    for task in tasks:
        for i, name in enumerate(task.probability_columns):
            names.append(name)
            columns.append([f"{p:.6g}" for p in predictions[task.name][:, i]])
    with open(folder / PREDICTIONS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns, strict=True))


def _label_cells(
    task: Task, labels: np.ndarray, half_widths: np.ndarray | None
) -> list[str]:
    def cell(label, half_width):
        if label == MISSING:
            return ""
        return scores.label_text(task, label, half_width)

    if half_widths is None:
        half_widths = np.zeros(len(labels))
    return [cell(*pair) for pair in zip(labels, half_widths, strict=True)]


# The part of a report that names single examples: those predicted worst.


LISTED = 10
# Twice what the page shows, for screens of small pixels.
THUMBNAIL_SIDE = 128


def worst_examples(found: Findings) -> dict[str, list[dict[str, Any]]]:
    """The part `worst_examples` of report.json.

    Returns:
        By task, worst first, at most `LISTED` rows: `id`, `label` and `answer` in
        words, and for a regression `error` in its unit (prediction minus label) and
        `low` and `high` of an interval it may have; for a classification
        `probability` of the prediction and `label_probability`.
    """
    return {task.name: list(_rows(found, task)) for task in found.tasks}


def _rows(found: Findings, task) -> Iterable[dict[str, Any]]:
    labels, predictions = found.labels[task.name], found.predictions[task.name]
    compared, widths = found.compared(task), found.half_widths.get(task.name)
    for i in worst(task, labels, compared, LISTED):
        row = {
            "id": str(found.ids[i]),
            "label": format_prediction(task, labels[i])
            if widths is None or not widths[i]
            else f"{scores.label_text(task, labels[i], widths[i])} {task.unit}",
            "answer": format_prediction(task, predictions[i]),
        }
        if task.is_regression:
            row["error"] = float(compared[i]) - float(labels[i])
            for name, key in zip(task.outputs[1:], ("low", "high"), strict=False):
                row[key] = float(found.predictions[name][i])
        else:
            row["answer"] = task.classes[int(predictions[i].argmax())]
            row["probability"] = float(predictions[i].max())
            row["label_probability"] = float(predictions[i][int(labels[i])])
        yield row


def thumbnails(
    examples: sources.Examples, rows: Mapping[str, list[Mapping[str, Any]]]
) -> dict[str, bytes]:
    """Small JPEG files of the examples named, by id.

    Args:
        examples: those that were predicted.
        rows: from `worst_examples`.
    """
    wanted = {row["id"] for part in rows.values() for row in part}
    found = {}
    for number, name in enumerate(map(str, examples.ids)):
        if name in wanted:
            image = decoding.decode_and_resize(examples.read(number), THUMBNAIL_SIDE)
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG", quality=85)
            found[name] = stream.getvalue()
    return found


# Where the numbers of a report come from: the model, its run, the versions.


WORKDIR, SAVED_MODEL, LITERT = "workdir", "saved_model", "litert"
PRESET = "preset"


def about_model(path: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Which of the four kinds the path is, and what a workdir tells besides."""
    about = {"kind": SAVED_MODEL, "checkpoint": None, "epoch": None}
    weights, fitted = None, None
    if path.is_file():
        about["kind"] = LITERT
    elif (path / "metadata.json").is_file():
        about["kind"] = PRESET
    elif (path / "config.json").is_file():
        # The one that runtimes.load takes.
        folder, progress = checkpoints.newest(path, checkpoints.BEST)
        about = {"kind": WORKDIR, "checkpoint": folder.name, "epoch": progress.epoch}
        fitted = checkpoints.temperatures_of(path, folder.name)
        weights = loss_weights(path, tasks, progress.epoch)
    return {**about, "loss_weights": weights, "temperatures": fitted}


def loss_weights(
    workdir: Path, tasks: Sequence[Task], epoch: int
) -> dict[str, Any] | None:
    """The loss weights (alpha, beta, gamma) that a run had after an epoch.

    Returns:
        `{"epoch": ..., "values": {...}}` from the epoch's line of
        metrics.jsonl, or from the last line where it has none, or None where
        the file has no such lines.
    """
    names = [task.weight_name for task in tasks]
    found = None
    with contextlib.suppress(OSError):
        text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
        for line in text.splitlines():
            # The last line of a run that was killed may be cut off.
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if {"epoch", *names} <= row.keys():
                    values = {name: row[name] for name in names}
                    found = {"epoch": row["epoch"], "values": values}
                    if row["epoch"] == epoch:
                        break
    return found


def versions() -> dict[str, str]:
    """Versions of what took part in the numbers."""
    found = {
        "hydranet_tf": hydranet_tf.__version__,
        "python": platform.python_version(),
    }
    for name in ("numpy", "keras", "tensorflow", "ai-edge-litert", "matplotlib"):
        # TensorFlow comes as a package of another name on some machines.
        for package in (name, f"{name}-cpu"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(package)
                break
    return found
