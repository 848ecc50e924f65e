"""A tiny network, images and a workdir for the tests of exports."""

from __future__ import annotations

import io
import json
import weakref
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from hydranet_tf import checkpoints, losses
from hydranet_tf.config import TrainingConfig
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import TASKS, to_json

SIZE = 40


def random_model(seed: int = 0, tasks=TASKS, backbone: str = "tiny") -> HydraNet:
    """A tiny untrained network whose every weight matters to its predictions.

    Fresh statistics of normalisation are zeros and ones, and a converter that
    lost them would go unnoticed.
    """
    # Kernels come from Keras' global seed, which a module's fixture gets before
    # any test has set it.
    keras.utils.set_random_seed(seed)
    weighting = losses.UncertaintyWeights([task.kind for task in tasks], [1.0] * 3)
    model = HydraNet(backbone, SIZE, weighting=weighting, seed=seed, tasks=tasks)
    rng = np.random.default_rng(seed)
    for variable in model.network.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.7, 1.3, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    # Keeps softmax away from 0 and 1 and age away from its ends, where predictions
    # would agree whatever came in.
    for name in ("age", "gender", "race"):
        kernel = model.network.get_layer(f"{name}_logits").kernel
        kernel.assign(kernel * 0.3)
    return model


# By model; it shares its weights with the model's.
_ANSWERING: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def keras_predictions(model: HydraNet, images: np.ndarray) -> dict[str, np.ndarray]:
    """What Keras predicts, by a network that is made and traced once for each model."""
    if model not in _ANSWERING:
        _ANSWERING[model] = model.inference_model()
    return _ANSWERING[model].predict_on_batch(images)


def random_images(n: int, seed: int = 0) -> np.ndarray:
    """Smooth colour gradients, uint8 `[n, SIZE, SIZE, 3]`, all different."""
    corners = np.random.default_rng(seed).integers(0, 256, (n, 2, 2, 3))
    images = tf.image.resize(corners.astype(np.float32), [SIZE, SIZE])
    return np.round(images.numpy()).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def assert_same_predictions(found, expected, years=1e-3, probability=1e-5) -> None:
    """Compares predictions by name, shapes included."""
    assert sorted(found) == sorted(expected) == ["age", "gender", "race"]
    for name, bound in (("age", years), ("gender", probability), ("race", probability)):
        values = np.asarray(found[name])
        assert values.shape == expected[name].shape, name
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=bound)


def write_workdir(model: HydraNet, workdir: Path, **settings) -> None:
    """What train.py leaves behind, as far as loading a model needs it."""
    workdir.mkdir()
    config = TrainingConfig(backbone="tiny", image_size=SIZE, **settings)
    (workdir / "config.json").write_text(config.to_json())
    (workdir / "model.json").write_text(json.dumps(model.get_config()))
    (workdir / "tasks.json").write_text(to_json(TASKS))
    (workdir / "run.json").write_text(json.dumps({"commit": "c0ffee"}))
    model.compile(optimizer="adam")
    model.optimizer.build(model.trainable_variables)
    checkpoints.save(workdir, "best", model, checkpoints.Progress(step=7))
