"""The part of a report that names single examples: those answered worst."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from hydranet_tf.data import decoding, sources
from hydranet_tf.evaluation import ranges
from hydranet_tf.evaluation.findings import Findings
from hydranet_tf.worst_predictions import format_prediction, worst

LISTED = 10
# Twice what the page shows, for screens of small pixels.
THUMBNAIL_SIDE = 128


def measure(found: Findings) -> dict[str, list[dict[str, Any]]]:
    """The part `worst_examples` of report.json.

    Returns:
        By task, worst first, at most `LISTED` rows: `id`, `label` and `answer` in
        words, and for a regression `error` in its unit (answer minus label) and
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
            else f"{ranges.text(task, labels[i], widths[i])} {task.unit}",
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
        examples: those that were answered.
        rows: from `measure`.
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
