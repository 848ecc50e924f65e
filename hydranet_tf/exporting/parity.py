"""How far an export's predictions are from the Keras model's, and how far they may be.

Two kinds of bound. What computes in floating point must give the same predictions:
the largest difference counts. What computes in eight bits gives other predictions
in the last digits of every face, and what counts is how good they are: the
mean error and the fraction of right classes, on the same faces. Scores of a few faces
can stay while every prediction moves, so those are held to bounds as well, on average
and each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hydranet_tf.data import pipeline, sources
from hydranet_tf.errors import HydraNetError
from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import MISSING, Task

SIZE = 500
_BATCH_SIZE = 32

# Of fewer faces than these the bounds of 8 bits say little.
FEW = 100

# The ways into an export.
PIXELS, IMAGE_BYTES = "pixels", "image_bytes"

# What float32 arithmetic in another order may change; a wrong pixel, a swapped
# class or a lost weight changes more. Weights in 16 bits have three digits: of a
# ResNet18 they moved the predictions by 0.06 years and 0.002, of an EfficientNet-Lite0,
# whose depthwise sums have few terms, by 0.34 and 0.011, and no score of either.
MAX_DIFFERENCE = {
    litert.FLOAT32: {"years": 0.01, "probability": 1e-4},
    litert.FLOAT16: {"years": 0.5, "probability": 0.02},
}
# Of the variants in eight bits, on average over the faces and of each. On 500 faces
# ages differed by up to 3.8 years, of a depthwise network by 4.9, and probabilities by
# 0.11. Where fine-tuning was rounded away: 1.4 years on average, and up to 10.
_IN_8_BITS = {"mean": {"years": 0.75, "probability": 0.03},
              "each": {"years": 8.0, "probability": 0.5}}  # fmt: skip
# 256 steps are half a year each.
_INTEGER = {"mean": {"years": 2.0, "probability": 0.05},
            "each": {"years": 20.0, "probability": 0.5}}  # fmt: skip
MAX_MOVE = {
    litert.DYNAMIC: _IN_8_BITS,
    litert.INT8: _IN_8_BITS,
    litert.INTEGER: _INTEGER,
}
# Against Keras' own error and accuracy.
MAX_LOSS = {"years": 0.25, "accuracy": 0.01}


@dataclasses.dataclass(frozen=True)
class _Measure:
    """How a kind of task is compared.

    Attributes:
        unit: key of the bounds above, and of what they bound.
        score: key of `MAX_LOSS`.
        words, scale: of a loss in a message.
        sign: 1 where a larger score is a loss, else -1.
        one_face: what one face moves the score of all faces, times their number.
        each: labels and predictions to what each adds to the mean score.
    """

    unit: str
    score: str
    words: str
    scale: float
    sign: int
    one_face: float
    each: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _measure(task: Task) -> _Measure:
    if task.is_regression:
        return _Measure(
            "years", "years", "years of MAE", 1, 1, 0.0,
            lambda labels, found: np.abs(found.astype(np.float64) - labels),
        )  # fmt: skip
    return _Measure(
        "probability", "accuracy", "points of accuracy", 100, -1, 1.0,
        lambda labels, found: np.argmax(found, -1) == labels,
    )  # fmt: skip


class ParityError(HydraNetError, RuntimeError):
    """Predictions that cannot be compared; the message says why."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Examples with what the Keras model predicts.

    Attributes:
        tasks: of the model.
        images: uint8 `[n, side, side, 3]`.
        encoded: the same as files.
        labels: by task name, `[n]`.
        predictions: of the Keras model, by task name.
    """

    tasks: tuple[Task, ...]
    images: np.ndarray
    encoded: tuple[bytes, ...]
    labels: Mapping[str, np.ndarray]
    predictions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def scores(self, predictions: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Mean absolute error or accuracy by task; None without any label."""
        return {
            task.name: _score(task, self.labels[task.name], predictions[task.name])
            for task in self.tasks
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An export's predictions beside those of the Keras model.

    Attributes:
        differences: the largest, by task name, over all its outputs: years, or
            probability.
        mean_differences: the mean over faces and classes, likewise.
        scores: see `Sample.scores`.
        losses: by task name, how much worse than Keras' the score is. For a
            task without labels Keras' predictions stand for them, which is the
            most that can be lost.
    """

    differences: dict[str, float]
    mean_differences: dict[str, float]
    scores: dict[str, float | None]
    losses: dict[str, float]


def draw(
    model, examples: sources.Examples, image_size: int, size: int = SIZE
) -> Sample:
    """Decodes evenly spread examples and has the model predict them.

    Args:
        model: a `HydraNet`.
        examples: where they come from.
        image_size: side in pixels.
        size: how many, if there are as many.

    Raises:
        ParityError: if not one can be decoded.
    """
    faces = take(examples, spread(len(examples), size), image_size)
    if not len(faces):
        raise ParityError(
            "no image to check the export with: none of "
            f"{min(len(examples), size)} examples could be decoded; give another "
            "--data or --split"
        )
    return Sample(
        tasks=tuple(model.tasks),
        images=faces.images,
        encoded=tuple(faces.examples.read(i) for i in range(len(faces))),
        labels=faces.examples.labels,
        predictions=runtimes.from_model(model).predictions(faces.images),
    )


def spread(available: int, size: int) -> np.ndarray:
    """Up to `size` row numbers out of `available`, at even distances."""
    return np.linspace(0, available - 1, min(available, size)).astype(int)


def take(examples: sources.Examples, rows: np.ndarray, size: int) -> pipeline.Faces:
    """Decodes some examples; leaves out what cannot be decoded."""
    return pipeline.load_faces(examples.select(rows), size, max_bad_images=len(rows))


def compare(path: Path, sample: Sample) -> dict[str, Comparison]:
    """Compares an export with the Keras model, by every way into it.

    Raises:
        ParityError: if its predictions have other shapes.
    """
    found = {PIXELS: runtimes.load(path).predictions(sample.images)}
    if (path / "saved_model.pb").is_file():
        found[IMAGE_BYTES] = _predictions_to_bytes(path, sample)
    return {way: _compare(predictions, sample) for way, predictions in found.items()}


def excess(comparison: Comparison, variant: str, sample: Sample) -> list[str]:
    """What is beyond the bounds of a variant, each as half a sentence.

    Args:
        comparison: of one way.
        variant: of `litert.VARIANTS`; a SavedModel is `"float32"`.
        sample: that it was made with.
    """
    found = []
    for task in sample.tasks:
        measure = _measure(task)
        unit = measure.unit
        difference = comparison.differences[task.name]
        # Each a value, its bound, and what to say.
        if variant in MAX_DIFFERENCE:
            bound = MAX_DIFFERENCE[variant][unit]
            held = [(difference, bound, 1, f"differs by up to {{}} {unit}")]
        else:
            move = MAX_MOVE[variant]
            mean = comparison.mean_differences[task.name]
            loss, most = comparison.losses[task.name], _largest_loss(task, sample)
            held = [
                (loss, most, measure.scale, f"loses {{}} {measure.words}"),
                (mean, move["mean"][unit], 1, f"differs by {{}} {unit} on average"),
                (difference, move["each"][unit], 1, f"differs by up to {{}} {unit}"),
            ]
        for value, bound, scale, text in held:
            # Written so that NaN, which no comparison holds for, is found too; and
            # rounding in the last digit is not.
            if not value <= bound + 1e-9:
                shown = text.format(f"{scale * value:.2g}")
                found.append(f"{task.name} {shown}, allowed {scale * bound:.2g}")
                break
    return found


def bounds(variant: str, sample: Sample) -> dict[str, float]:
    """What `excess` holds a variant to, for the record."""
    if variant in MAX_DIFFERENCE:
        return {f"difference_in_{k}": v for k, v in MAX_DIFFERENCE[variant].items()}
    found = {f"loss_of_{t.name}": _largest_loss(t, sample) for t in sample.tasks}
    for kind, by_unit in MAX_MOVE[variant].items():
        found |= {f"{kind}_difference_in_{k}": v for k, v in by_unit.items()}
    return found


def _largest_loss(task: Task, sample: Sample) -> float:
    """In years, or as a fraction of the faces that count."""
    measure = _measure(task)
    # Of fewer than a hundred faces, one is more than a point. Without labels,
    # Keras' predictions stand for them.
    labelled = np.count_nonzero(sample.labels[task.name] != MISSING)
    one_face = measure.one_face / (labelled or len(sample))
    return max(MAX_LOSS[measure.score], one_face)


def _predictions_to_bytes(path: Path, sample: Sample) -> dict[str, np.ndarray]:
    import tensorflow as tf

    served = tf.saved_model.load(str(path))
    serve = served.signatures[saved_model.ENCODED]
    parts = [
        serve(image_bytes=tf.constant(sample.encoded[start : start + _BATCH_SIZE]))
        for start in range(0, len(sample), _BATCH_SIZE)
    ]
    return {
        name: np.concatenate([part[name].numpy() for part in parts])
        for task in sample.tasks
        for name in task.outputs
    }


def _compare(predictions: Mapping[str, np.ndarray], sample: Sample) -> Comparison:
    differences, means, losses = {}, {}, {}
    for task in sample.tasks:
        apart = [
            _differences(predictions[name], sample.predictions[name])
            for name in task.outputs
        ]
        differences[task.name] = max(float(np.max(values)) for values in apart)
        means[task.name] = max(float(np.mean(values)) for values in apart)
        found, expected = predictions[task.name], sample.predictions[task.name]
        labels = sample.labels[task.name]
        if np.all(labels == MISSING):
            labels = task.as_labels(expected)
        loss = _score(task, labels, found) - _score(task, labels, expected)
        losses[task.name] = _measure(task).sign * loss
    return Comparison(differences, means, sample.scores(predictions), losses)


def _differences(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    # Broadcasting would let a single prediction stand for all of them.
    if found.shape != expected.shape:
        raise ParityError(
            f"expected predictions of the shape {list(expected.shape)}; the export "
            f"gives {list(found.shape)}"
        )
    return np.abs(found - expected)


def _score(task: Task, labels: np.ndarray, predictions: np.ndarray) -> float | None:
    present = labels != MISSING
    if not np.any(present):
        return None
    return float(np.mean(_measure(task).each(labels[present], predictions[present])))
