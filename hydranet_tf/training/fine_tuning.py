"""A run that starts at a network: what the start scores, and what was gained.

The start is epoch 0. It is scored like every epoch, its line stands in metrics.jsonl,
and it is the best checkpoint until an epoch is better. At the end both are compared on
the same faces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from hydranet_tf import checkpoints, heads
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.io import atomic
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import MISSING, score_name
from hydranet_tf.training import callbacks

# Of the validation's faces; fewer tell two networks apart by chance alone.
FEW = 100
# Of the faces to train on: 48 make other faces worse unless the backbone is frozen, and
# thousands do not (docs/fine_tuning.md).
FEW_TO_TRAIN = 500
RESAMPLES = 2_000
_START = "start_scores.npz"

Scores = Mapping[str, np.ndarray]


def example_scores(model: HydraNet, faces: Faces, batch_size: int) -> Scores:
    """What each face adds to each score.

    Returns:
        By the score's name float64 `[n]`: the absolute error, or 1 where the class is
        right and 0 where not; NaN where there is no label.
    """
    logits = _logits(model, faces, batch_size)
    labels = faces.examples.labels
    found = {}
    for task in model.tasks:
        known = labels[task.name]
        widths = labels.get(task.half_width_name, np.zeros(len(known)))
        score = heads.of(task).example_scores(known, logits[task.name], widths)
        found[score_name(task)] = np.where(known == MISSING, np.nan, score)
    return found


def _logits(model: HydraNet, faces: Faces, batch_size: int) -> Mapping[str, np.ndarray]:
    """What the heads say of every face, by task.

    All batches have one size: at each other one TensorFlow would trace the network
    again, and warn of it.
    """
    parts = []
    for images, _ in pipeline.evaluation_batches(faces, batch_size).as_numpy_iterator():
        missing = batch_size - len(images)
        filled = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        found = model.predict_on_batch(filled)
        parts.append({name: values[: len(images)] for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def keep_start(
    workdir: Path,
    model: HydraNet,
    validation: Faces,
    progress: checkpoints.Progress,
    monitor: str,
    batch_size: int,
) -> Scores:
    """Scores a network before its first step, and saves it as the best so far.

    Args:
        workdir: of the run, which gets the line of epoch 0, the scores of each face and
            a checkpoint.
        model: compiled.
        validation: faces.
        progress: of the run; gets the monitored score.
        monitor: its name.
        batch_size: of the validation.
    """
    found = example_scores(model, validation, batch_size)
    means = {name: _mean(values) for name, values in found.items()}
    for source, rows in validation.examples.by_source().items():
        means |= {f"{source}/{name}": _mean(v[rows]) for name, v in found.items()}
    means = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    # A run that died before its first checkpoint does this again.
    log = [row for row in callbacks.logged(workdir) if row["epoch"] > 0]
    log.insert(
        0, {"epoch": 0, "step": 0} | {f"val_{n}": mean for n, mean in means.items()}
    )
    text = "".join(f"{json.dumps(row)}\n" for row in log)
    atomic.write_text(workdir / callbacks.METRICS_FILE, text)
    with (workdir / _START).open("wb") as file:
        np.savez(file, **found)
    progress.best = means[monitor]
    model.optimizer.build(model.trainable_variables)
    checkpoints.save(workdir, checkpoints.BEST, model, progress)
    print(f"epoch 0, the start | validation {_shown(model, means)}", flush=True)
    return found


def start_scores(workdir: Path) -> Scores:
    """What `keep_start` kept; nothing where a run had no start."""
    path = workdir / _START
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def summary(workdir: Path, validation: Faces, config: TrainingConfig) -> list[str]:
    """What a run gained over its start: lines for its end.

    Args:
        workdir: of the run.
        validation: faces.
        config: of the run, with a batch size.

    Returns:
        Nothing where the run had no start.
    """
    before = start_scores(workdir)
    if not before:
        return []
    rows = callbacks.logged(workdir)
    epoch = best_epoch(workdir)
    last = rows[-1]["epoch"] if rows else 0
    best = checkpoints.load_model(workdir)
    lines = compared(before, example_scores(best, validation, config.batch_size))
    if epoch == 0:
        lines = [
            f"best by {config.monitor}: the start. None of {last} epochs was better: "
            "try a lower --learning_rate, --freeze=backbone or more faces",
            *lines[:1],
        ]
    else:
        lines.insert(0, f"best by {config.monitor}: epoch {epoch} of {last}")
    return [
        *lines,
        f"next: python evaluate.py --model={workdir} --output={workdir}/report",
    ]


def best_epoch(workdir: Path) -> int:
    """The epoch whose network is the best checkpoint; 0 for the start."""
    folder, _ = checkpoints.newest(workdir)
    step = int(folder.name.rpartition("-")[2])
    rows = callbacks.logged(workdir)
    return next((row["epoch"] for row in rows if row["step"] == step), 0)


def compared(before: Scores, after: Scores) -> list[str]:
    """Two networks on the same faces, with 95 % intervals by the bootstrap."""
    random = np.random.default_rng(0)
    lines = {"before": [], "after ": [], "gain  ": []}
    for name, first in before.items():
        kept = ~np.isnan(first)
        if name not in after or not kept.any():
            continue
        first, second = first[kept], after[name][kept]
        drawn = random.integers(len(first), size=(RESAMPLES, len(first)))
        error = name.endswith("_mae")
        unit = 1 if error else 100
        gain = (first - second) * (1 if error else -1)
        for line, values in zip(lines.values(), (first, second, gain), strict=True):
            means = unit * values[drawn].mean(1)
            low, high = np.percentile(means, [2.5, 97.5])
            sign = "+" if values is gain else ""
            line.append(
                f"{name} {unit * values.mean():{sign}.2f} "
                f"({low:{sign}.2f} to {high:{sign}.2f})"
            )
    return [f"{name}: {', '.join(parts)}" for name, parts in lines.items()]


def freeze(model: HydraNet, part: str) -> None:
    """Keeps a part of the backbone as it is, normalisation statistics included.

    Args:
        part: `backbone`, or the fraction of its layers, counted from the image on, as
            a text; blank for none.
    """
    if not part:
        return
    headed = {layer for task in model.tasks for layer in heads.of(task).layer_names}
    layers = [
        layer
        for layer in _leaves(model.network)
        if layer.weights and layer.name not in headed
    ]
    fraction = 1.0 if part == "backbone" else float(part)
    for layer in layers[: round(fraction * len(layers))]:
        layer.trainable = False


def _leaves(model: keras.Model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def sized_batch(count: int, replicas: int = 1, most: int = 32) -> int:
    """Examples in a batch that suits `count` faces: an eighth of them, 8 to `most`.

    Never more than there are; a multiple of the number of devices that share it.
    """
    size = min(most, max(8, count // 8), count)
    return max(1, size // replicas) * replicas


def few_faces(validation: Faces) -> list[str]:
    """A line where the validation is too small to choose an epoch by."""
    count = len(validation)
    if count >= FEW:
        return []
    return [
        f"only {count} faces to validate: which epoch scores best is partly chance. "
        "--folds=5 scores each face of both parts by a network that has not seen it"
    ]


def nothing_frozen(training: Faces, frozen: str) -> list[str]:
    """A line where few faces go on with a whole network.

    Args:
        training: the faces to train on.
        frozen: `--freeze`, empty where every layer learns.
    """
    if frozen or len(training) >= FEW_TO_TRAIN:
        return []
    return [
        f"only {len(training)} faces to train, and every layer learns: this can make "
        "other faces worse. --freeze=backbone --learning_rate=1e-3 --optimizer=adamw "
        "--epochs=15 is what docs/fine_tuning.md measures"
    ]


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def _shown(model: HydraNet, means: Mapping[str, float]) -> str:
    parts = []
    for task in model.tasks:
        value = means.get(score_name(task))
        if value is None:
            parts.append(f"{task.name} -")
        else:
            parts.append(f"{task.name} {task.format_score(value)}")
    return " ".join(parts)
