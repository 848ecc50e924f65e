"""How much the predictions depend on how tightly a face is cropped.

Whoever uses a model crops faces with a detector of their own, a little closer or
wider than the training faces. Here every face of a sample is cropped anew at
several factors of its square's side and answered again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hydranet_tf.data import decoding, sources
from hydranet_tf.evaluation import scores, sensitivity
from hydranet_tf.inference import runtimes

# 1 is the face as it lies in the data; 1.4 shows 1.4 times as much on a side.
FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6)


def measure(
    runtime: runtimes.Runtime, examples: sources.Examples, seed: int = 0
) -> dict[str, Any]:
    """Scores of a sample of faces at each factor.

    Args:
        examples: decodable ones; see `sensitivity.sample`.
        seed: of the drawing and of the intervals.

    Returns:
        The part `margin_sensitivity` of report.json: `faces`, `factors`, and in
        `tasks` by name the score's name and its `Score`s, one a factor.
    """
    rows = sensitivity.sample(examples, seed)
    n = len(rows)
    variants = [
        lambda face, _, factor=factor: crop_anew(face, factor, runtime.image_size)
        for factor in FACTORS
    ]
    found = sensitivity.predictions(runtime, examples, rows, variants, "cutting anew")
    tasks = {}
    for task in runtime.tasks:
        name = task.score
        labels = examples.labels.get(task.name)
        labels = np.full(n, scores.MISSING) if labels is None else labels[rows]
        tasks[task.name] = {
            "score": name,
            "unit": task.unit,
            "values": [
                scores.score(task, labels, one[task.name], seed)[name].to_json()
                for one in found
            ],
        }
    return {"faces": n, "factors": list(FACTORS), "tasks": tasks}


def crop_anew(image: np.ndarray, factor: float, size: int) -> np.ndarray:
    """Cuts a face tighter or wider and resizes it as every image is resized.

    Args:
        image: uint8 `[height, width, 3]`, upright; its centred square is 1.
        factor: of that square's side. Above 1, the edge of the square is
            repeated around it, whatever the picture has there: it must be the
            same for pictures that have nothing.
        size: side of the result.

    Returns:
        uint8 `[size, size, 3]`.
    """
    face = decoding.square(image)
    # In steps of a pixel on each side; a 200 pixel face misses no factor by
    # more than half a percent.
    change = round(abs(factor - 1) * len(face) / 2)
    if factor > 1:
        face = np.pad(face, [(change, change), (change, change), (0, 0)], mode="edge")
    elif change:
        face = face[change:-change, change:-change]
    return decoding.resize(face, size)
