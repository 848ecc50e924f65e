"""What predictions and labels say together: every score of a report, from arrays.

Everything here goes through the tasks as data and knows none by name, but for
those that make groups and parts. Numpy alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hydranet_tf.data.file_names import read_split_lists
from hydranet_tf.errors import HydraNetError
from hydranet_tf.evaluation import scores, subgroups
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, Task

GROUPING = (GENDER, RACE)

Arrays = Mapping[str, np.ndarray]

CORAL_AGES = (21, 60)
GROUPS_FILE = "near_duplicate_groups.txt"


class EvaluationError(HydraNetError, ValueError):
    """Predictions or labels that cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that predictions and labels say together.

    Attributes:
        tasks: in the order of the report.
        ids, labels, predictions: of the examples.
        scores: of all examples, by task and score.
        confusions, reliability_curves: by classification task.
        decades: by regression task.
        groups: by gender and race.
        half_widths: of labels that are ranges, [n] by regression task; their middles
            are the labels. Scores, decades and groups count the distance from a range.
        ranges: by regression task, see `scores.range_scores`.
    """

    tasks: tuple[Task, ...]
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    scores: dict[str, dict[str, scores.Score]]
    confusions: dict[str, np.ndarray]
    reliability_curves: dict[str, scores.ReliabilityCurve]
    decades: dict[str, list[subgroups.Decade]]
    groups: subgroups.Groups
    half_widths: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ranges: dict[str, dict[str, Any] | None] = dataclasses.field(default_factory=dict)

    def compared(self, task: Task) -> np.ndarray:
        """Predictions to compare with `labels`, see `scores.compared_to_ranges`."""
        return scores.compared_to_ranges(
            self.labels[task.name],
            self.half_widths.get(task.name),
            self.predictions[task.name],
        )


def find(
    tasks: Sequence[Task], ids: np.ndarray, labels: Arrays, predictions: Arrays, seed=0
) -> Findings:
    """Compares predictions with labels.

    Args:
        tasks: to be scored.
        ids: [n] names of the examples, n >= 1.
        labels: [n] by task name, `MISSING` where absent; a task that is not in
            the dict has no labels. Of ranges the middles, and half their widths by
            `task.half_width_name`.
        predictions: by the names of `task.outputs`: [n] in the task's unit, or
            probabilities [n, classes].
        seed: of the intervals.

    Raises:
        EvaluationError: if shapes, values or lengths are not as above.
    """
    tasks, n = tuple(tasks), len(ids)
    predictions = {
        name: np.asarray(predictions[name]) for task in tasks for name in task.outputs
    }
    complete = {
        task.name: np.asarray(labels.get(task.name, np.full(n, MISSING)))
        for task in {t.name: t for t in (*GROUPING, *tasks)}.values()
    }
    for task in tasks:
        for name in task.outputs:
            _check_predictions(task, name, ids, predictions[name])
        if len(complete[task.name]) != n:
            raise EvaluationError(
                f"expected {n} labels of {task.name}, as many as there are ids; "
                f"got {len(complete[task.name])}"
            )
    numeric = [task for task in tasks if task.is_regression]
    classified = [task for task in tasks if not task.is_regression]

    # Data without race have groups by gender, not none.
    grouping = [
        task for task in GROUPING if scores.present(complete[task.name]).any()
    ] or GROUPING
    half_widths = {
        t.name: np.asarray(labels[t.half_width_name])
        for t in tasks
        if t.half_width_name in labels
    }
    compared = {
        t.name: scores.compared_to_ranges(
            complete[t.name], half_widths.get(t.name), predictions[t.name]
        )
        for t in tasks
    }

    def each(measure, chosen):
        return {t.name: measure(complete[t.name], predictions[t.name]) for t in chosen}

    return Findings(
        tasks=tasks,
        ids=np.asarray(ids),
        labels=complete,
        predictions=predictions,
        scores={
            t.name: scores.score(t, complete[t.name], compared[t.name], seed)
            | _interval_scores(
                t, complete[t.name], predictions, half_widths.get(t.name), seed
            )
            for t in tasks
        },
        confusions=each(scores.confusion, classified),
        reliability_curves=each(scores.reliability, classified),
        decades={
            t.name: subgroups.by_decade(t, complete[t.name], compared[t.name], seed)
            for t in numeric
        },
        groups=subgroups.by_group(tasks, grouping, complete, compared, seed),
        half_widths=half_widths,
        ranges={
            t.name: scores.range_scores(
                t, complete[t.name], half_widths.get(t.name), predictions[t.name], seed
            )
            for t in numeric
        },
    )


def task_json(findings: Findings, task: Task) -> dict[str, Any]:
    """The part of report.json on one task."""
    found = findings.scores[task.name]
    labelled = next(iter(found.values())).n
    content: dict[str, Any] = {
        "kind": task.kind,
        "unit": task.unit,
        "classes": list(task.classes),
        "labelled": labelled,
        "status": scores.OK if labelled else scores.NO_LABELS,
        "scores": {name: score.to_json() for name, score in found.items()},
        "by_decade": None,
        "ranges": findings.ranges.get(task.name),
        "confusion": None,
        "calibration": None,
    }
    if task.name in findings.decades:
        content["by_decade"] = [
            {
                "from": row.low,
                "to": row.low + subgroups.DECADE - 1,
                "n": row.n,
                "scores": {k: s.to_json() for k, s in row.scores.items()},
            }
            for row in findings.decades[task.name]
        ]
    else:
        counts = findings.confusions[task.name]
        content["confusion"] = {
            "counts": counts.tolist(),
            # A class without labels has no shares.
            "row_shares": [
                (row / row.sum()).tolist() if row.sum() else [None] * len(row)
                for row in counts
            ],
        }
        content["calibration"] = findings.reliability_curves[task.name].to_json()
    return content


def groups_json(groups: subgroups.Groups) -> dict[str, Any]:
    """The part of report.json on groups, and the worst one by each score."""
    keys = [
        key
        for key in groups.rows[0].scores
        if scores.MEANINGS[key.split(".")[1]].higher_is_better is not None
    ]
    sorted_by = next((key for key in keys if groups.ranked(key)), None)
    rows = groups.ranked(sorted_by) if sorted_by else []
    rows += [row for row in groups.rows if row not in rows]
    return {
        "by": list(groups.by),
        "small_below": subgroups.SMALL,
        "left_out": groups.left_out,
        "sorted_by": sorted_by,
        "worst": {key: _worst_json(groups, key) for key in keys},
        "rows": [
            {
                "name": row.name,
                "classes": row.classes,
                "n": row.n,
                # By the labels that the order of the rows rests on.
                "small": (row.scores[sorted_by].n if sorted_by else row.n)
                < subgroups.SMALL,
                "status": scores.OK if row.n else scores.NO_LABELS,
                "scores": {key: s.to_json() for key, s in row.scores.items()},
            }
            for row in rows
        ],
    }


def _worst_json(groups: subgroups.Groups, key: str) -> dict[str, Any]:
    ranked, worst = groups.ranked(key), groups.worst(key)
    if worst:
        status = scores.OK
    else:
        status = groups.without_worst(key) if ranked else scores.NO_LABELS
    return {
        "status": status,
        "group": worst.name if worst else None,
        "score": worst.scores[key].to_json() if worst else None,
        "small_and_worse": [
            {"group": group.name, "score": group.scores[key].to_json()}
            for group in groups.suspects(key)
        ],
        "worst_first": [group.name for group in ranked],
    }


def _interval_scores(
    task, labels, predictions, half_widths, seed
) -> dict[str, scores.Score]:
    ends = [predictions[name] for name in task.outputs[1:]]
    if not ends:
        return {}
    low, high = ends
    return scores.interval_scores(labels, low, high, seed, half_widths)


def _check_predictions(
    task: Task, name: str, ids: np.ndarray, predictions: np.ndarray
) -> None:
    shape = (len(ids), *task.prediction_shape)
    if predictions.shape != shape:
        raise EvaluationError(
            f"expected predictions of {name} of the shape {list(shape)}; got "
            f"{list(predictions.shape)}"
        )
    bad = ~np.isfinite(predictions.reshape(len(ids), -1)).all(axis=1)
    if bad.any():
        raise EvaluationError(
            f"the model predicts {bad.sum():,} of {len(ids):,} examples as NaN or "
            f"infinity for {name}, first {ids[bad.argmax()]}: it cannot be "
            "evaluated; go back to a checkpoint from before its loss turned NaN"
        )
    # Eight-bit probabilities may miss a sum of one by a few steps of 1/256.
    if task.classes and (
        predictions.min() < 0 or np.abs(predictions.sum(axis=1) - 1).max() > 0.05
    ):
        raise EvaluationError(
            f"expected probabilities of {task.name}, not negative and with a sum of "
            f"1; got values from {predictions.min():.3g} to "
            f"{predictions.max():.3g}. Are they logits?"
        )


def subset_masks(
    ids: Sequence[str],
    labels: Mapping[str, np.ndarray],
    split_lists: str | os.PathLike | None,
) -> dict[str, np.ndarray]:
    """Which examples belong to parts that the literature, or caution, looks at alone.

    - `ages 21 to 60`: the part that the CORAL protocol (Cao, Mirjalili, Raschka 2020,
      arXiv:1901.07884) keeps of UTKFace, for comparison with published errors.
    - `without near-twins`: images of which no near-identical copy is in the training
      part. What a network has seen it may know by heart.

    Args:
        ids: file names, or paths that end in them.
        labels: by task name, `[n]`.
        split_lists: folder of the split lists; where it holds
            `near_duplicate_groups.txt` (one group a line, names separated by
            tabs), the second part is there.

    Returns:
        bool `[n]` by the name of the part; a part that is all of the examples,
        or none, is left out.
    """
    masks = {}
    if AGE.name in labels:
        low, high = CORAL_AGES
        ages = np.asarray(labels[AGE.name])
        masks[f"ages {low} to {high}"] = (low <= ages) & (ages <= high)
    if split_lists and Path(split_lists, GROUPS_FILE).is_file():
        twins = _with_twins_in_train(Path(split_lists))
        names = [Path(str(name)).name for name in ids]
        masks["without near-twins"] = np.array([n not in twins for n in names], bool)
    return {name: mask for name, mask in masks.items() if 0 < mask.sum() < len(ids)}


def subset_scores(
    found: Findings, masks: Mapping[str, np.ndarray], seed: int = 0
) -> list[dict[str, Any]]:
    """The scores of each part, as they stand in report.json."""
    rows = []
    for name, mask in masks.items():
        inside = find(
            found.tasks,
            found.ids[mask],
            {task: values[mask] for task, values in found.labels.items()},
            {task: values[mask] for task, values in found.predictions.items()},
            seed,
        )
        rows.append(
            {
                "part": name,
                "n": int(mask.sum()),
                "scores": {
                    f"{task}.{key}": score.to_json()
                    for task, values in inside.scores.items()
                    for key, score in values.items()
                    if scores.MEANINGS[key].higher_is_better is not None
                },
            }
        )
    return rows


def _with_twins_in_train(split_lists: Path) -> set[str]:
    train = set(read_split_lists(split_lists)["train"])
    text = (split_lists / GROUPS_FILE).read_text(encoding="utf-8")
    twins = set()
    for line in text.split("\n"):
        group = line.rstrip("\r").split("\t")
        if train.intersection(group):
            twins.update(group)
    return twins - train
