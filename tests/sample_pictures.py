"""Photographs for the tests: one in the public domain, others put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import tensorflow as tf
from PIL import Image

from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import TASKS

SIZE = 24


def astronaut() -> Image.Image:
    """Eileen Collins in 1999, by NASA, 512 x 512; from scikit-image's wheel."""
    package = Path(skimage.__file__).parent
    return Image.open(package / "data" / "astronaut.png").convert("RGB")


def crowd(columns: int = 6, rows: int = 5, step: int = 120) -> Image.Image:
    """The astronaut's face again and again, in one picture."""
    face = astronaut().crop((140, 30, 310, 200)).resize((step, step))
    picture = Image.new("RGB", (columns * step, rows * step))
    for column in range(columns):
        for row in range(rows):
            picture.paste(face, (column * step, row * step))
    return picture


def background(width: int, height: int) -> Image.Image:
    """A cup of coffee, by Rachel Michetti, CC0; from scikit-image's wheel."""
    package = Path(skimage.__file__).parent
    picture = Image.open(package / "data" / "coffee.png").convert("RGB")
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def readable_runtime() -> runtimes.Runtime:
    """Predictions that can be worked out from the pixels by hand.

    Age: mean of red. Gender: share of green. Race: blue in fifths, softened.
    """

    def run(images):
        means = images.reshape(len(images), -1, 3).mean(axis=1) / 255
        female = means[:, 1]
        race = np.exp(-10 * np.abs(means[:, 2:] - np.linspace(0, 1, 5)))
        return {
            "age": (100 * means[:, 0]).astype(np.float32),
            "gender": np.stack([1 - female, female], axis=1).astype(np.float32),
            "race": (race / race.sum(axis=1, keepdims=True)).astype(np.float32),
        }

    return runtimes.Runtime(TASKS, SIZE, 8, run)


def small_graph_runtime() -> runtimes.Runtime:
    """A real, if tiny, convolution in TensorFlow, for tests of threads."""
    kernel = tf.random.stateless_normal([5, 5, 3, 8], [1, 2])
    heads = {
        task.name: tf.random.stateless_normal([8, max(1, len(task.classes))], [3, i])
        for i, task in enumerate(TASKS)
    }

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def predictions(images):
        seen = tf.nn.relu(
            tf.nn.conv2d(tf.cast(images, tf.float32) / 255, kernel, 2, "SAME")
        )
        pooled = tf.reduce_mean(seen, [1, 2])
        outputs = {name: pooled @ head for name, head in heads.items()}
        return {
            "age": 30 + outputs["age"][:, 0],
            "gender": tf.nn.softmax(outputs["gender"]),
            "race": tf.nn.softmax(outputs["race"]),
        }

    def run(images):
        return {name: value.numpy() for name, value in predictions(images).items()}

    return runtimes.Runtime(TASKS, SIZE, 8, run)


def everywhere(image):
    """A detector that sees two faces in any picture: its halves."""
    from hydranet_tf.data.detection import Detection

    height, width = image.shape[:2]
    return [
        Detection((0, 0, width / 2, height), 0.75),
        Detection((width / 2, 0, width, height), None),
    ]
