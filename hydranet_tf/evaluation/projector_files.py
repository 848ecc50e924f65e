"""What TensorBoard's embedding projector reads: features of faces, as points.

    features.tsv           one row a face: the backbone's pooled features
    metadata.tsv           one row a face: id, label and prediction of each task
    sprite.png             the faces, where they may be shown
    projector_config.pbtxt names the others; `tensorboard --logdir` takes the folder

Faces that lie together look alike to the network. Coloured by a task's labels or by
its errors they show what it keeps apart, and where it fails.
"""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from tensorboard.plugins import projector

from hydranet_tf.data import decoding
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.evaluation import report
from hydranet_tf.evaluation.findings import EvaluationError, Findings
from hydranet_tf.inference import loading
from hydranet_tf.tasks import MISSING, Task

# As many as the projector's t-SNE moves smoothly in a browser.
MOST_POINTS = 2_000
FEATURES, METADATA, SPRITE = "features.tsv", "metadata.tsv", "sprite.png"

_SPRITE_SIDE = 48
_BATCH = 64


def features_of(path: Path) -> keras.Model:
    """The backbone of a workdir's best checkpoint, or of a preset.

    Raises:
        EvaluationError: if the path holds a model that gives predictions alone.
        loading.LoadError: if it holds no whole model.
    """
    network = loading.load(path)
    if network:
        return network.feature_extractor()
    raise EvaluationError(
        "--projector shows features from within a network: expected a workdir of "
        f"train.py or a preset; {path} gives predictions alone"
    )


def write(
    features: keras.Model,
    found: Findings,
    faces: Faces,
    folder: Path,
    show_faces: bool = False,
    seed: int = 0,
) -> None:
    """Writes the files; earlier ones are replaced.

    Args:
        features: from `features_of`.
        found: what was predicted for `faces`.
        faces: at most `MOST_POINTS` of them are drawn.
        folder: an existing one.
        show_faces: whether each point is a picture of its face.
        seed: of the drawing.

    Raises:
        report.ReportError: if a file cannot be written.
    """
    n = min(len(faces), MOST_POINTS)
    rows = np.random.default_rng(seed).choice(len(faces), n, replace=False)
    rows.sort()
    side = features.input_shape[1]
    points, tiles = [], []
    for start in range(0, n, _BATCH):
        images = np.stack([_image(faces, row, side) for row in rows[start:][:_BATCH]])
        # float32 also where the network computes in 16 bits.
        points.append(features.predict_on_batch(images).astype(np.float32))
        if show_faces:
            tiles += [_tile(image) for image in images]
    try:
        np.savetxt(folder / FEATURES, np.concatenate(points), "%.6g", "\t")
        text = "".join("\t".join(row) + "\n" for row in metadata(found, rows))
        (folder / METADATA).write_text(text, encoding="utf-8")
        (folder / SPRITE).unlink(missing_ok=True)
        if tiles:
            # People's pictures, kept out of a repository that the folder is in.
            (folder / ".gitignore").write_text("*\n")
            sheet(tiles).save(folder / SPRITE)
        projector.visualize_embeddings(str(folder), _config(bool(tiles)))
    except OSError as error:
        raise report.ReportError(
            f"the files of the projector could not be written into {folder}: {error}. "
            "Free some space or name another folder with --projector"
        ) from error


def metadata(found: Findings, rows: np.ndarray) -> list[list[str]]:
    """Header and rows: `id`, and for each task its label, its prediction, its error.

    A label that is missing, and an error without one, is blank. The error of a
    classification is `right` or `wrong`.
    """
    columns = [["id", *(" ".join(str(found.ids[row]).split()) for row in rows)]]
    for task in found.tasks:
        labels, predictions = (
            found.labels[task.name][rows],
            found.predictions[task.name][rows],
        )
        predictions = task.as_labels(predictions)
        pairs = list(zip(labels, predictions, strict=True))
        columns += [
            [f"{task.name} label", *(_said(task, label) for label in labels)],
            [
                f"{task.name} prediction",
                *(_said(task, prediction) for prediction in predictions),
            ],
            [f"{task.name} error", *(_error(task, *pair) for pair in pairs)],
        ]
    return [list(row) for row in zip(*columns, strict=True)]


def sheet(tiles: list[Image.Image]) -> Image.Image:
    """Tiles row by row in a square, as the projector cuts them."""
    side, across = tiles[0].width, math.ceil(math.sqrt(len(tiles)))
    picture = Image.new("RGB", (across * side, across * side))
    for i, tile in enumerate(tiles):
        picture.paste(tile, (i % across * side, i // across * side))
    return picture


def _image(faces: Faces, row: int, side: int) -> np.ndarray:
    if faces.images is not None:
        return faces.images[row]
    return decoding.decode_and_resize(faces.examples.read(int(row)), side)


def _tile(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((_SPRITE_SIDE, _SPRITE_SIDE))


def _said(task: Task, value) -> str:
    return "" if value == MISSING else task.format_label(value, ".1f")


def _error(task: Task, label, prediction) -> str:
    if label == MISSING:
        return ""
    if task.is_regression:
        return f"{prediction - label:.1f}"
    return "right" if label == prediction else "wrong"


def _config(has_sprite: bool) -> projector.ProjectorConfig:
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="features", tensor_path=FEATURES, metadata_path=METADATA
    )
    if has_sprite:
        embedding.sprite.image_path = SPRITE
        embedding.sprite.single_image_dim.extend([_SPRITE_SIDE, _SPRITE_SIDE])
    return config
