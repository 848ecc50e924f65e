"""How much predictions depend on how a face was captured.

A photograph is sharper or softer than a training face, smaller, compressed or noisy,
and its person is as old as before. Here the faces of a sample are changed in such ways
before they are resized for the network, and predicted again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hydranet_tf.data import decoding, sources
from hydranet_tf.evaluation import capture_changes, scores, sensitivity
from hydranet_tf.evaluation.capture_changes import CHANGES, UNCHANGED, Change
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import MISSING, Task

# A change that moves a regression by more than this on average, in its unit, is said
# in the report's first lines.
NOTABLE = 1.0


def measure(
    runtime: runtimes.Runtime, examples: sources.Examples, seed: int = 0
) -> dict[str, Any]:
    """Scores of a sample of faces under each change.

    Args:
        examples: decodable ones; see `sensitivity.sample`.
        seed: of the drawing and of the intervals.

    Returns:
        The part `capture_sensitivity` of report.json: `faces`, `changes` by kind and
        amount, the unchanged faces first, and in `tasks` by name the score's name, its
        unit and one value a change of `values`: the score. Of a regression also
        `bias`; `moved`, how far predictions moved from those of the unchanged faces,
        whether or not there is a label; and `coverage` where there is an interval.
    """
    rows = sensitivity.sample(examples, seed)
    changes = (UNCHANGED, *CHANGES)
    variants = [_variant(change, runtime.image_size) for change in changes]
    found = sensitivity.predictions(
        runtime, examples, rows, variants, "capture changes"
    )
    return {
        "faces": len(rows),
        "side": capture_changes.SIDE,
        "changes": [{"kind": c.kind, "amount": c.amount} for c in changes],
        "tasks": {
            task.name: _of_task(task, _labels(examples, task, rows), found, seed)
            for task in runtime.tasks
        },
    }


def changed(face: np.ndarray, change: Change, number: int, size: int) -> np.ndarray:
    """A face under a change and then resized as every image is.

    Args:
        face: uint8 `[height, width, 3]`, upright; its centred square is changed.
        number: of the face among its examples; noise differs by it.
        size: side of the result.
    """
    return decoding.resize(change.apply(decoding.square(face), number), size)


def changed_in_turn(examples: sources.Examples, number: int, size: int) -> np.ndarray:
    """Face `number` under the change that is its turn, see `changed`."""
    face = decoding.decode(examples.read(number))
    return changed(face, CHANGES[number % len(CHANGES)], number, size)


def notable(measured: Mapping[str, Any]) -> list[str]:
    """A sentence for each regression that a change moves by more than `NOTABLE`."""
    sentences = []
    for name, task in measured["tasks"].items():
        moves = [score["value"] for score in task.get("moved", ())]
        far = [i for i, move in enumerate(moves) if abs(move) > NOTABLE]
        if not far:
            continue
        worst = max(far, key=lambda i: abs(moves[i]))
        change = Change(**measured["changes"][worst], apply=UNCHANGED.apply)
        sentences.append(
            f"{len(far)} of {len(moves) - 1} changes of capture move {name} by more "
            f"than {NOTABLE:g} {task['unit'].removesuffix('s')} on average, most of "
            f"all {change.name}: by {moves[worst]:+.1f} {task['unit']}."
        )
    return sentences


def _variant(change: Change, size: int) -> sensitivity.Variant:
    return lambda face, number: changed(face, change, number, size)


def _labels(examples, task: Task, rows: np.ndarray) -> np.ndarray:
    labels = examples.labels.get(task.name)
    return np.full(len(rows), MISSING) if labels is None else labels[rows]


def _of_task(task: Task, labels, found, seed: int) -> dict[str, Any]:
    name = task.score
    each = [scores.score(task, labels, one[task.name], seed) for one in found]
    content = {
        "score": name,
        "unit": task.unit,
        "values": [one[name].to_json() for one in each],
    }
    if "bias" not in each[0]:
        return content
    content["bias"] = [one["bias"].to_json() for one in each]
    content["moved"] = [
        _moved(one[task.name] - found[0][task.name], seed).to_json() for one in found
    ]
    if ends := task.outputs[1:]:
        content["coverage"] = [
            scores.interval_scores(labels, *(one[end] for end in ends), seed)[
                "coverage"
            ].to_json()
            for one in found
        ]
    return content


def _moved(differences: np.ndarray, seed: int) -> scores.Score:
    return scores.bootstrap(
        differences[:, None], lambda means: {"moved": means[:, 0]}, seed
    )["moved"]
