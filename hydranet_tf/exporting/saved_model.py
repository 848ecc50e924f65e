"""The SavedModel for servers: encoded images or pixels in, predictions by name out.

Two signatures over one network:

- `serving_default`: `image_bytes`, string `[n]`, each a whole JPEG or PNG
  file. Decoding, turning upright, cropping and resizing happen in the graph, by
  `graph_decoding.decode_and_resize`, which gives the pixels of training.
- `pixels`: `images`, uint8 `[n, size, size, 3]`, RGB 0..255.

Both give a dict: `age` `[n]` in years, `gender` `[n, 2]` and `race` `[n, 5]`
probabilities. The asset `tasks.json` says what the columns mean. The folder
loads wherever TensorFlow is; nothing of this package is needed.

A file of `image_bytes` that cannot be decoded costs its own row and no other:
every number of that row is `UNREADABLE`, -1, which is neither an age nor a
probability. Not NaN, which JSON does not have: TensorFlow Serving writes it
all the same, and JavaScript, Go and Java then refuse the whole response and
with it the predictions to the good images. Not a fourth output, which would cost
every client a look at it; here `age < 0` tells.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from hydranet_tf import tasks as tasks_lib
from hydranet_tf.data import crops, graph_decoding
from hydranet_tf.inference.export_metadata import (
    ENCODED,
    ENCODED_INPUT,
    PIXELS,
    PIXELS_INPUT,
    TASKS_ASSET,
)
from hydranet_tf.tasks import Task

# What a label says that is absent, too.
UNREADABLE = float(tasks_lib.MISSING)
_SERVED = {
    ENCODED: {
        "input": ENCODED_INPUT,
        "unreadable": (
            "every number of the row of an image that cannot be decoded is "
            f"{UNREADABLE:g}; the other rows are as if it had not been there"
        ),
    },
    PIXELS: {"input": PIXELS_INPUT},
}


def write(
    inference_model: keras.Model, description: Mapping[str, Any], folder: Path
) -> None:
    """Writes the network as a SavedModel, warm-up requests included.

    Args:
        inference_model: `HydraNet.inference_model()` under the TensorFlow backend.
        description: goes into the asset `tasks.json`, with what the
            signatures alone need to say.
        folder: is made.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asset = Path(scratch, TASKS_ASSET)
        text = json.dumps({**description, "served": _SERVED}, indent=2) + "\n"
        asset.write_text(text, encoding="utf-8")
        served = _Served(inference_model, str(asset))
        tf.saved_model.save(
            served,
            str(folder),
            signatures={ENCODED: served.encoded, PIXELS: served.pixels},
        )
    size = inference_model.input_shape[1]
    # Not of the network's size, so that resizing is warm too.
    image = tf.io.encode_jpeg(drawing(size + size // 2))
    write_warmup(
        {
            ENCODED: (ENCODED_INPUT, image),
            PIXELS: (PIXELS_INPUT, drawing(size)),
        },
        folder,
    )


def describe(tasks: Sequence[Task], image_size: int) -> dict[str, Any]:
    """What a user of an export must know, as JSON; the content of `tasks.json`."""
    return {
        "tasks": json.loads(tasks_lib.to_json(tasks)),
        "image_size": image_size,
        "pixels": {"channels": "RGB", "lowest": 0, "highest": 255},
        "crop": (
            "turn upright as EXIF says; cut out the largest centred square; "
            "resize with an antialiased bilinear filter; round to whole levels"
        ),
        # Where the face must lie before that, for pictures that hold more of it.
        "face": {"rule": crops.rule(), **crops.CONTRACT},
        "answers": (
            "regressions in their unit; probabilities in the order of classes. "
            "They estimate what annotators saw in a picture, not facts about "
            "the person in it"
        ),
    }


def newest_version(folder: Path) -> int:
    """The highest version number among the folders in `folder`, or 0.

    TensorFlow Serving reads models as NAME/1, NAME/2, ...
    """
    if not folder.is_dir():
        return 0
    numbers = (
        int(child.name)
        for child in folder.iterdir()
        if child.name.isascii() and child.name.isdecimal() and child.is_dir()
    )
    return max(numbers, default=0)


class _Served(tf.Module):
    def __init__(self, inference_model: keras.Model, asset: str):
        super().__init__()
        size = inference_model.input_shape[1]
        # The variables alone: the Keras objects would drag their own
        # serialisation into a folder that is to load without Keras.
        self.weights = [variable.value for variable in inference_model.variables]
        self.description = tf.saved_model.Asset(asset)

        def predict(images):
            # TensorFlow's fused convolutions refuse a batch of none, so an
            # empty request runs one black image and drops its prediction.
            n = tf.shape(images)[0]
            spare = tf.cast(tf.equal(n, 0), tf.int32)
            images = tf.pad(
                tf.cast(images, tf.float32), [[0, spare], [0, 0], [0, 0], [0, 0]]
            )
            outputs = inference_model(images, training=False)
            return {name: output[:n] for name, output in outputs.items()}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, size, size, 3], tf.uint8, name=PIXELS_INPUT)
            ]
        )
        def pixels(images):
            return predict(images)

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, name=ENCODED_INPUT)]
        )
        def encoded(image_bytes):
            images, decoded = _decode_all(image_bytes, size)
            return {
                name: _unreadable_unless(decoded, output)
                for name, output in predict(images).items()
            }

        self.pixels = pixels
        self.encoded = encoded


def _decode_all(image_bytes: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch in which any file may be damaged.

    A failed operation fails its whole graph, and with it the good images of
    the request. A tf.data set, which may also stand inside a graph, can drop
    the rows that fail; their numbers tell which are missing.

    Returns:
        uint8 `[n, size, size, 3]`, black where nothing could be decoded, and
        bool `[n]`, which rows could.
    """
    n = tf.size(image_bytes)
    rows = (
        tf.data.Dataset.from_tensor_slices((tf.range(n), image_bytes))
        .map(
            lambda row, encoded: (
                row,
                graph_decoding.decode_and_resize(encoded, size),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .ignore_errors()
    )
    # `batch` gives nothing at all for no rows; one more row than asked for
    # keeps it going when every image is damaged.
    last = tf.data.Dataset.from_tensors((n, tf.zeros([size, size, 3], tf.uint8)))
    kept, images = (
        rows.concatenate(last).batch(tf.cast(n + 1, tf.int64)).get_single_element()
    )
    images = tf.scatter_nd(kept[:, tf.newaxis], images, [n + 1, size, size, 3])
    decoded = tf.scatter_nd(kept[:, tf.newaxis], tf.ones_like(kept), [n + 1])
    return images[:n], decoded[:n] > 0


def _unreadable_unless(decoded: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    row = tf.reshape(decoded, [-1] + [1] * (len(output.shape) - 1))
    return tf.where(row, output, UNREADABLE)


# Warm-up requests: the first user of a new version does not wait for it.
#
# TensorFlow Serving plays `assets.extra/tf_serving_warmup_requests`, a TFRecord
# file of `PredictionLog` messages, through a version before it sends traffic
# there. The messages come from the package tensorflow-serving-api, which is
# asked for by the extra `serve` and by nothing else here.


# Both names are TensorFlow Serving's.
WARMUP_FOLDER = "assets.extra"
WARMUP_FILE = "tf_serving_warmup_requests"
# One image, and a few at once. TensorFlow Serving refuses more than 1000
# records and plays them one after another while the version waits.
WARMUP_BATCHES = (1, 4)


def drawing(side: int) -> tf.Tensor:
    """A square of colours without a face, uint8 `[side, side, 3]`.

    Nobody's face goes into an export, and a network takes the same time for
    every picture.
    """
    ramp = tf.linspace(0.0, 255.0, side)
    red, green = tf.meshgrid(ramp, ramp)
    return tf.cast(tf.stack([red, green, 255 - red], axis=-1), tf.uint8)


def write_warmup(requests: Mapping[str, tuple[str, tf.Tensor]], folder: Path) -> bool:
    """Adds warm-up requests to a SavedModel folder.

    Args:
        requests: by signature name, the name of its one input and one element
            of a batch for it.
        folder: of the SavedModel.

    Returns:
        Whether they were written: without tensorflow-serving-api they are
        not, and a line in the log says so.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        logging.info(
            "No warm-up requests in %s: they need tensorflow-serving-api "
            "(pip install '.[tf_serving]'). It works all the same, only "
            "its first request takes longer.",
            folder,
        )
        return False
    path = folder / WARMUP_FOLDER / WARMUP_FILE
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (name, element) in requests.items():
            for size in WARMUP_BATCHES:
                log = prediction_log_pb2.PredictionLog()
                # No model name: the folder does not know under which one it
                # will be served, and warming up goes by signature.
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                batch = tf.stack([element] * size)
                request.inputs[name].CopyFrom(tf.make_tensor_proto(batch))
                writer.write(log.SerializeToString())
    return True
