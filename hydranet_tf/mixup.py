"""Two faces in one training image, and the labels of both.

After Zhang et al. 2018 (arXiv:1710.09412). The network may not be sure of a face that
it has learned by heart when it lies under another one.

Their shares are drawn from a Beta distribution; here they are spread evenly over the
rows of the batch. A batch is a random choice in random order, so each face meets
another partner in another share each time, and the loss knows both from a row's number
alone: nothing has to be handed from the layer to it.
"""

from __future__ import annotations

import keras
from keras import ops


def partners(values):
    """The row before each row, `[batch, ...]`; that of the first is the last."""
    return ops.roll(values, 1, axis=0)


def fractions(count, largest: float):
    """How much of its partner is in each row, float32 `[count]`, 0 to `largest`."""
    rows = ops.arange(count, dtype="float32") + 0.5
    return largest * rows / ops.cast(count, "float32")


@keras.saving.register_keras_serializable("hydranet_tf")
class Mixup(keras.layers.Layer):
    """Lays its partner's image over each image of a batch, in training.

    Args:
        largest: share of the partner, at most 0.5, so that a row's own label stays
            that of the clearer face.
    """

    def __init__(self, largest: float, name: str = "mixup", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.largest = largest

    def call(self, images, training=False):
        """Changes `[batch, side, side, 3]` images; 0..255 in and out."""
        if not training:
            return images
        # A first layer may be given the pipeline's bytes.
        images = ops.cast(images, "float32")
        fraction = ops.reshape(
            fractions(ops.shape(images)[0], self.largest), (-1, 1, 1, 1)
        )
        return images + fraction * (partners(images) - images)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "largest": self.largest}
