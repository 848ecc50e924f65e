"""Warm-up requests: the first user of a new version does not wait for it.

TensorFlow Serving plays `assets.extra/tf_serving_warmup_requests`, a TFRecord
file of `PredictionLog` messages, through a version before it sends traffic
there. The messages come from the package tensorflow-serving-api, which is
asked for by the extra `serve` and by nothing else here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from absl import logging

# Both names are TensorFlow Serving's.
FOLDER = "assets.extra"
FILE = "tf_serving_warmup_requests"
# One image, and a few at once. TensorFlow Serving refuses more than 1000
# records and plays them one after another while the version waits.
BATCHES = (1, 4)


def drawing(side: int) -> tf.Tensor:
    """A square of colours without a face, uint8 `[side, side, 3]`.

    Nobody's face goes into an artefact, and a network takes the same time for
    every picture.
    """
    ramp = tf.linspace(0.0, 255.0, side)
    red, green = tf.meshgrid(ramp, ramp)
    return tf.cast(tf.stack([red, green, 255 - red], axis=-1), tf.uint8)


def write(requests: Mapping[str, tuple[str, tf.Tensor]], folder: Path) -> bool:
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
            "(pip install '.[tf_serving]'). It answers all the same, only "
            "its first request takes longer.",
            folder,
        )
        return False
    path = folder / FOLDER / FILE
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (name, element) in requests.items():
            for size in BATCHES:
                log = prediction_log_pb2.PredictionLog()
                # No model name: the folder does not know under which one it
                # will be served, and warming up goes by signature.
                request = log.predict_log.request
                request.model_spec.signature_name = signature
                batch = tf.stack([element] * size)
                request.inputs[name].CopyFrom(tf.make_tensor_proto(batch))
                writer.write(log.SerializeToString())
    return True
