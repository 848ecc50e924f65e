"""Scores of parts of a split that the literature, or caution, looks at alone.

- `ages 21 to 60`: the part that the CORAL protocol (Cao, Mirjalili, Raschka 2020,
  arXiv:1901.07884) keeps of UTKFace, for comparison with published errors.
- `without near-twins`: images of which no near-identical copy is in the training
  part. What a network has seen it may know by heart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hydranet_tf.data.file_names import read_split_lists
from hydranet_tf.evaluation import findings, scores
from hydranet_tf.tasks import AGE

CORAL_AGES = (21, 60)
GROUPS_FILE = "near_duplicate_groups.txt"


def find(
    ids: Sequence[str],
    labels: Mapping[str, np.ndarray],
    split_lists: str | os.PathLike | None,
) -> dict[str, np.ndarray]:
    """Which examples belong to which part.

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


def measure(
    found: findings.Findings, masks: Mapping[str, np.ndarray], seed: int = 0
) -> list[dict[str, Any]]:
    """The scores of each part, as they stand in report.json."""
    rows = []
    for name, mask in masks.items():
        inside = findings.find(
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
