"""How much predictions depend on how a face was cropped, and how it was captured.

Whoever uses a model crops faces with a detector of their own, a little closer or wider
than the training faces. A photograph is sharper or softer than these, smaller,
compressed or noisy, and its person is as old as before. So the faces of a sample are
changed in such ways, resized for the network, and predicted again.

A change is the same whenever it is applied. Amounts in pixels are for a face of 200
pixels a side, as UTKFace has them, and grow with the side.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from hydranet_tf.data import decoding, sources
from hydranet_tf.evaluation import scores
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import MISSING, Task

# Faces are compared with themselves, so a part of a large set will do.
MOST_FACES = 500

_BATCH = 100

# Of the side of a face's square: 1 is the face as it lies in the data; 1.4 shows 1.4
# times as much on a side.
FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6)

# A change that moves a regression by more than this on average, in its unit, is said
# in the report's first lines.
NOTABLE = 1.0

# From the upright pixels of a face, uint8 [height, width, 3], and its number in the
# examples to uint8 [size, size, 3] for the network.
Variant = Callable[[np.ndarray, int], np.ndarray]

# Side of a face, in pixels, that amounts of a change are given for.
REFERENCE_SIDE = 200
# Standard deviation in pixels of the blur within an unsharp mask.
_UNSHARP_SIGMA = 1.5


def blur(face: np.ndarray, sigma: float) -> np.ndarray:
    """Convolves with a Gaussian; the edge is repeated.

    Args:
        face: uint8 `[side, side, 3]`.
        sigma: standard deviation in pixels of a face of `REFERENCE_SIDE`.
    """
    return _levels(_blurred(face, sigma))


def resize_and_back(face: np.ndarray, side: float) -> np.ndarray:
    """Makes a face smaller and as large again, both bilinear and antialiased.

    Args:
        face: uint8 `[side, side, 3]`.
        side: of the small one, in pixels of a face of `REFERENCE_SIDE`.
    """
    small = max(1, round(side * len(face) / REFERENCE_SIDE))
    return decoding.resize(decoding.resize(face, small), len(face))


def unsharp_mask(face: np.ndarray, amount: float) -> np.ndarray:
    """Adds `amount` times the difference from a blurred face."""
    return _levels(face + amount * (face - _blurred(face, _UNSHARP_SIGMA)))


def jpeg(face: np.ndarray, quality: int) -> np.ndarray:
    """Compresses with libjpeg's tables at a quality, colours at half the resolution."""
    stream = io.BytesIO()
    Image.fromarray(face).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(stream))


def noise(face: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Adds Gaussian noise of `sigma` levels to each pixel and channel."""
    drawn = np.random.default_rng(seed).normal(0, sigma, face.shape)
    return _levels(face + drawn)


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of the table.

    Attributes:
        kind: what it does, such as `blur`.
        amount: how much, in the words of the report.
        apply: from uint8 `[side, side, 3]` and the face's number to the same shape.
    """

    kind: str
    amount: str
    apply: Callable[[np.ndarray, int], np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.amount}".strip()


UNCHANGED = Change("none", "", lambda face, _: face)


def _changes() -> tuple[Change, ...]:
    def of(kind, amounts, text, function):
        return [
            Change(kind, text.format(amount), lambda f, n, a=amount: function(f, a, n))
            for amount in amounts
        ]

    return (
        *of("blur", (0.8, 1.3, 2, 3), "{} px", lambda f, a, _: blur(f, a)),
        *of("down to", (100, 64, 40), "{} px", lambda f, a, _: resize_and_back(f, a)),
        *of("unsharp mask", (0.5, 1, 2), "{}", lambda f, a, _: unsharp_mask(f, a)),
        *of("JPEG", (50, 20), "quality {}", lambda f, a, _: jpeg(f, a)),
        *of("noise", (5, 12), "{} levels", noise),
    )


CHANGES = _changes()


def _blurred(face: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(
        face.astype(np.float32),
        # As many taps as the deviation wants.
        (0, 0),
        sigma * len(face) / REFERENCE_SIDE,
        borderType=cv2.BORDER_REPLICATE,
    )


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def of_crops(
    runtime: runtimes.Runtime, examples: sources.Examples, seed: int = 0
) -> dict[str, Any]:
    """Scores of a sample of faces, cropped anew at each factor.

    Args:
        examples: decodable ones, of which `sample` draws.
        seed: of the drawing and of the intervals.

    Returns:
        The part `margin_sensitivity` of report.json: `faces`, `factors`, and in
        `tasks` by name the score's name and its `Score`s, one a factor.
    """
    variants = [
        lambda face, _, factor=factor: crop_anew(face, factor, runtime.image_size)
        for factor in FACTORS
    ]
    rows = sample(examples, seed)
    found = predictions(runtime, examples, rows, variants, "cropping anew")
    tasks = {
        task.name: _values(task, _scores(task, examples, rows, found, seed))
        for task in runtime.tasks
    }
    return {"faces": len(rows), "factors": list(FACTORS), "tasks": tasks}


def of_captures(
    runtime: runtimes.Runtime, examples: sources.Examples, seed: int = 0
) -> dict[str, Any]:
    """Scores of a sample of faces under each change of capture.

    Args:
        examples, seed: see `of_crops`.

    Returns:
        The part `capture_sensitivity` of report.json: `faces`, `changes` by kind and
        amount, the unchanged faces first, and in `tasks` by name the score's name, its
        unit and one value a change of `values`: the score. Of a regression also
        `bias`; `moved`, how far predictions moved from those of the unchanged faces,
        whether or not there is a label; and `coverage` where there is an interval.
    """
    changes = (UNCHANGED, *CHANGES)
    variants = [
        lambda face, number, change=change: changed(
            face, change, number, runtime.image_size
        )
        for change in changes
    ]
    rows = sample(examples, seed)
    found = predictions(runtime, examples, rows, variants, "capture changes")
    tasks = {}
    for task in runtime.tasks:
        each = _scores(task, examples, rows, found, seed)
        tasks[task.name] = _values(task, each) | _moves(
            task, _labels(task, examples, rows), found, each, seed
        )
    return {
        "faces": len(rows),
        "side": REFERENCE_SIDE,
        "changes": [{"kind": c.kind, "amount": c.amount} for c in changes],
        "tasks": tasks,
    }


def _labels(task: Task, examples: sources.Examples, rows: np.ndarray) -> np.ndarray:
    labels = examples.labels.get(task.name)
    return np.full(len(rows), MISSING) if labels is None else labels[rows]


def _scores(task: Task, examples, rows, found, seed: int) -> list[dict]:
    labels = _labels(task, examples, rows)
    return [scores.score(task, labels, one[task.name], seed) for one in found]


def _values(task: Task, each: list[dict]) -> dict[str, Any]:
    values = [one[task.score].to_json() for one in each]
    return {"score": task.score, "unit": task.unit, "values": values}


def _moves(task: Task, labels, found, each: list[dict], seed: int) -> dict[str, Any]:
    if "bias" not in each[0]:
        return {}
    content = {"bias": [one["bias"].to_json() for one in each]}
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


def sample(examples: sources.Examples, seed: int = 0) -> np.ndarray:
    """Ascending numbers of at most `MOST_FACES` examples, drawn without repeats."""
    n = min(len(examples), MOST_FACES)
    rows = np.random.default_rng(seed).choice(len(examples), n, replace=False)
    rows.sort()
    return rows


def predictions(
    runtime: runtimes.Runtime,
    examples: sources.Examples,
    rows: np.ndarray,
    variants: Sequence[Variant],
    title: str,
) -> list[dict[str, np.ndarray]]:
    """What the network predicts for the faces under each variant.

    Args:
        examples: decodable ones.
        rows: numbers of the examples, n >= 1.
        title: of the progress bar.

    Returns:
        One dict a variant, by the names of `task.outputs`: `[n]` or `[n, classes]`.
    """
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in variants]
    total = len(rows) * len(variants)
    with tqdm(total=total, desc=title, unit="img", disable=None) as bar:
        for start in range(0, len(rows), _BATCH):
            batch = [int(row) for row in rows[start : start + _BATCH]]
            faces = [decoding.decode(examples.read(row)) for row in batch]
            for part, variant in zip(parts, variants, strict=True):
                images = [variant(*pair) for pair in zip(faces, batch, strict=True)]
                part.append(runtime.predictions(np.stack(images)))
                bar.update(len(batch))
    return [
        {name: np.concatenate([batch[name] for batch in part]) for name in part[0]}
        for part in parts
    ]


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
