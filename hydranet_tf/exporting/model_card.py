"""The card that lies beside an export: what it predicts, for whom, and for whom not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydranet_tf.data import crops
from hydranet_tf.evaluation import report_text
from hydranet_tf.tasks import Task

FILE = "MODEL_CARD.md"

_USES = """\
## Intended uses

Research on face attributes, measuring the errors of such networks, and tools that
show their predictions as estimates with the errors of the evaluation report.

## Uses this card bars

Decisions about a person (admission, work, credit, policing, medicine), identifying
anybody, watching people without their consent, and presenting a prediction as
what somebody is.
"""


def text(
    tasks: Sequence[Task],
    description: Mapping[str, Any],
    origin: Mapping[str, Any],
    table: str,
    report: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown.

    Args:
        tasks: what is predicted.
        description: see `saved_model.describe`.
        origin: where the model came from: `data`, `split`, `checkpoint`,
            `commit` as far as they are known, and how many `examples` the
            scores stand on.
        table: of `exported_models.table`.
        report: content of a report.json of evaluate.py on the same network.
    """
    size = description["image_size"]
    points = "\n".join(
        f"| {name.replace('_', ' ')} | {x:g} | {y:g} |"
        for name, (x, y) in crops.CONTRACT["points"].items()
    )
    known = [
        f"- {title}: {origin[key]}"
        for key, title in (
            ("data", "Data"),
            ("split", "Part that the scores below come from"),
            ("checkpoint", "Checkpoint"),
            ("commit", "Commit of the code"),
            ("settings", "Settings of the training that are not the defaults"),
        )
        if origin.get(key)
    ]
    parts = [
        "# Model card",
        "Predictions from one look at a face:",
        "\n".join(_prediction(task) for task in tasks),
        "The labels it learned from are what annotators saw in pictures. They are not "
        "facts about the people in them, and neither are the predictions.",
        "## Where it comes from",
        "\n".join(known) or "- Not recorded.",
        "The licence of the code does not cover the data. Weights inherit the terms of "
        "the faces they were trained on, and of a network that training began with; "
        "UTKFace, for one, is for non-commercial research.",
        "## Images it expects",
        f"RGB 0..255, {size} x {size} pixels: {description['crop']}.",
        f"{crops.rule()}.",
        f"| point | from the left | from the top |\n|---|---:|---:|\n{points}",
        "## How well it predicts",
        *_scores(report),
        f"On {origin['examples']} faces, when it was exported; the report of "
        "evaluate.py has intervals and every group, worst first.",
        f"```\n{table}\n```",
        _USES.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(report: Mapping[str, Any] | None) -> list[str]:
    if report is None:
        return []
    return [
        f"On the {report['data']['examples']:,} faces of the part "
        f"`{report['data']['split']}`, with 95 % intervals:",
        report_text.headline(report),
        "The worst group (gender x race) of each score:",
        report_text.worst_groups(report),
    ]


def _prediction(task: Task) -> str:
    if task.is_regression:
        has_interval = len(task.outputs) > 1
        interval = ", with an interval of 80 % probability" if has_interval else ""
        return f"- {task.name} in {task.unit}, {task.low:g} to {task.high:g}{interval}"
    return f"- {task.name}: probabilities of {', '.join(task.classes)}, in this order"
