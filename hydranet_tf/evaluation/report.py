"""The files of a report: JSON for programs, Markdown and HTML for people, CSV.

A report replaces an earlier one in the same folder; other files there stay as
they are.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hydranet_tf.errors import HydraNetError
from hydranet_tf.evaluation import ranges
from hydranet_tf.tasks import MISSING, Task

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
    # NaN is no JSON; a score that is NaN is a defect and stops here.
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
    """One row an example: id, labels (blank: missing), answers, p_ columns."""
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
        return ranges.text(task, label, half_width)

    if half_widths is None:
        half_widths = np.zeros(len(labels))
    return [cell(*pair) for pair in zip(labels, half_widths, strict=True)]
