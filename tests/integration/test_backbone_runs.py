"""Each backbone learns from drawn faces and leaves as a LiteRT file."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from hydranet_tf import backbones
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.exporting import litert
from hydranet_tf.training import train

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
FACES = {"train": 8, "validation": 4}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of drawn faces with lists of its splits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "datasets" / "drawn_faces")
        import face_drawing as drawing
    folder = tmp_path_factory.mktemp("drawn")
    for seed, (split, count) in enumerate(FACES.items()):
        names = []
        for number in range(count):
            face = drawing.draw_face(seed, number)
            names.append(f"{face.age}_{face.gender}_{face.race}_{split}{number}.jpg")
            (folder / names[-1]).write_bytes(face.jpeg)
        (folder / f"{split}.txt").write_text("".join(f"{n}\n" for n in sorted(names)))
    (folder / "test.txt").write_text("")
    return folder


@contextlib.contextmanager
def eagerly():
    """Without graphs: to trace and optimise one costs more than a hundred steps."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def settle(model: keras.Model, images: np.ndarray) -> None:
    """Gives batch normalisation the statistics of a batch.

    Those of one step are far from settled: activations grow from layer to layer
    until every prediction stands at the end of its range, where all files agree.
    """
    nested = [getattr(layer, "layers", [layer]) for layer in model.network.layers]
    for layer in (layer for group in nested for layer in group):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model.network(images, training=True)


# That tf.data goes on with graphs is as it should be.
@pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run")
@pytest.mark.parametrize("name", [n for n in backbones.BACKBONES if n != "tiny"])
def test_a_run_and_its_export(name, faces, tmp_path):
    side = max(48, backbones.get(name).smallest)
    settings = TrainingConfig(
        data=str(faces), split_lists=str(faces), backbone=name, image_size=side,
        epochs=1, batch_size=8, optimizer="sgd", learning_rate=1e-4,
        augmentation="none",
    )  # fmt: skip
    workdir = tmp_path / "run"
    with eagerly():
        model = train.train(settings, workdir).model
    (row,) = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    assert row["step"] == 1
    assert math.isfinite(row["loss"]) and math.isfinite(row["val_age_mae"])
    # Some of these are hundreds of megabytes, and pytest keeps what is left.
    shutil.rmtree(workdir)

    examples = sources.open_source(str(faces), "train", split_lists=str(faces))
    images = pipeline.load_faces(examples, side).images
    settle(model, images)
    predictions = model.inference_model()
    expected = {k: np.array(v) for k, v in predictions(images, training=False).items()}
    # Eight faces, eight predictions: a file that ignored its input would be seen.
    assert len(np.unique(expected["race"].round(3), axis=0)) == 8

    content = litert.convert(predictions)
    assert litert.foreign_operators(content) == []
    runner = Interpreter(model_content=content).get_signature_runner()
    for number, image in enumerate(images):
        found = runner(images=image[np.newaxis].astype(np.float32))
        # Wider than the bounds of an export: statistics of eight faces on maps of
        # one pixel enlarge rounding, most of all in InceptionV3's ninety layers.
        for task, bound in (("age", 5e-2), ("gender", 1e-3), ("race", 1e-3)):
            np.testing.assert_allclose(
                found[task][0], expected[task][number], rtol=0, atol=bound
            )
