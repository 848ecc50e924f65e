"""Random changes of training images, a layer that runs on the accelerator.

What a face photograph may differ in without changing its labels: side, crop,
tilt, light, colour, a covered part. Being a layer, its random state is saved
with the network, and outside of training it is not there.

Mixup lays another face over each (Zhang et al. 2018, arXiv:1710.09412). The network may
not be sure of a face that it has learned by heart when it lies under another one. Their
shares are drawn from a Beta distribution; here they are spread evenly over the rows of
the batch. A batch is a random choice in random order, so each face meets another
partner in another share each time, and the loss knows both from a row's number alone:
nothing has to be handed from the layer to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

# Weights of red, green and blue in luma: ITU-R BT.601, as JPEG uses.
LUMA = (0.299, 0.587, 0.114)

STRENGTHS = ("none", "standard", "strong")

# Side in pixels below which compiling, half a second for each shape, is not worth it.
_SMALLEST_FUSED = 96


def fused(function: Callable) -> Callable:
    """Has TensorFlow compile a function of `(images, ...)` by XLA.

    Operation by operation, each of dozens would write a batch of images to memory and
    the next read it again: augmentation took a fifth of a training step on a CPU, and
    takes a twentieth. The convolutions of a network are slower under XLA there, so the
    step as a whole is not compiled. JAX compiles a step anyway.

    Args:
        function: of Keras operations alone, without variables or random draws (XLA
            would draw again for each use of a number). The images, its first argument,
            are `[batch, side, side, 3]`.
    """
    compiled = None

    @functools.wraps(function)
    def call(images, *arguments):
        nonlocal compiled
        if keras.backend.backend() != "tensorflow" or images.shape[1] < _SMALLEST_FUSED:
            return function(images, *arguments)
        if compiled is None:
            import tensorflow as tf

            compiled = tf.function(function, jit_compile=True, autograph=False)
        return compiled(images, *arguments)

    return call


@keras.saving.register_keras_serializable("hydranet_tf")
class Augmentation(keras.layers.Layer):
    """Flips, crops, turns, recolours and covers images 0..255.

    The geometry is one warp: combined, flip, zoom, shift and turn sample each
    pixel once instead of blurring it four times. The zoom and shift stand for
    the crops of other face detectors.

    Args:
        flip: mirror every second image left to right.
        zoom: largest change of scale, as a fraction.
        shift: largest shift, as a fraction of the image's side.
        rotation: largest, in degrees.
        brightness: largest change of brightness and contrast, as a fraction.
        colour: largest change of saturation, as a fraction.
        grey: fraction of images that lose their colour.
        erasing: fraction of images that get a grey rectangle.
        seed: of the random state.
    """

    def __init__(
        self,
        flip: bool = True,
        zoom: float = 0.15,
        shift: float = 0.06,
        rotation: float = 10.0,
        brightness: float = 0.25,
        colour: float = 0.3,
        grey: float = 0.05,
        erasing: float = 0.0,
        seed: int = 0,
        name: str = "augmentation",
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        self.flip = flip
        self.zoom = zoom
        self.shift = shift
        self.rotation = rotation
        self.brightness = brightness
        self.colour = colour
        self.grey = grey
        self.erasing = erasing
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def of_strength(cls, strength: str, seed: int = 0) -> Augmentation | None:
        """Returns the layer called `strength`, or None for `"none"`.

        Raises:
            ValueError: listing the known strengths.
        """
        if strength == "none":
            return None
        if strength == "standard":
            return cls(seed=seed)
        if strength == "strong":
            return cls(
                zoom=0.25, shift=0.1, rotation=15.0, brightness=0.4, colour=0.5,
                grey=0.1, erasing=0.4, seed=seed,
            )  # fmt: skip
        raise ValueError(
            f"unknown augmentation {strength!r}; known are {', '.join(STRENGTHS)}"
        )

    def call(self, images, training=False):
        """Changes `[batch, side, side, 3]` images; 0..255 in and out."""
        if not training:
            return images
        images = self._warp(images)
        images = self._recolour(images)
        if self.erasing:
            images = self._erase(images)
        return images

    def _uniform(self, images, low, high, count=1):
        draws = keras.random.uniform(
            (ops.shape(images)[0], count), low, high, seed=self.seed_generator
        )
        return [draws[:, i] for i in range(count)]

    def _warp(self, images):
        """Samples output pixel p from A (p - c) + c + shift of the input."""
        side = images.shape[1]
        centre = (side - 1) / 2
        (log_zoom,) = self._uniform(
            images, -math.log1p(self.zoom), math.log1p(self.zoom)
        )
        limit = math.radians(self.rotation)
        (angle,) = self._uniform(images, -limit, limit)
        reach = self.shift * side
        dx, dy = self._uniform(images, -reach, reach, 2)
        zoom = ops.exp(log_zoom)
        cos, sin = zoom * ops.cos(angle), zoom * ops.sin(angle)
        a, b, d, e = cos, -sin, sin, cos
        if self.flip:
            (coin,) = self._uniform(images, -1.0, 1.0)
            mirror = ops.where(coin < 0, -1.0, 1.0)
            a, d = a * mirror, d * mirror
        c = centre - centre * (a + b) + dx
        f = centre - centre * (d + e) + dy
        return _affine(images, a, b, c, d, e, f)

    def _recolour(self, images):
        gain, contrast = self._uniform(
            images, 1 - self.brightness, 1 + self.brightness, 2
        )
        (saturation,) = self._uniform(images, 1 - self.colour, 1 + self.colour)
        (grey_coin,) = self._uniform(images, 0.0, 1.0)
        saturation = ops.where(grey_coin < self.grey, 0.0, saturation)
        return _recoloured(images, saturation, contrast, gain)

    def _erase(self, images):
        """Lays a mid-grey rectangle over a fraction of the images.

        Random erasing (Zhong et al. 2020, arXiv:1708.04896), sides a tenth to
        four tenths of the image's.
        """
        side = images.shape[1]
        height, width = self._uniform(images, 0.1 * side, 0.4 * side, 2)
        top, left = self._uniform(images, 0.0, 1.0, 2)
        (coin,) = self._uniform(images, 0.0, 1.0)
        return _erased(images, height, width, top, left, coin < self.erasing)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = (
            "flip", "zoom", "shift", "rotation", "brightness", "colour", "grey",
            "erasing",
            "seed",
        )  # fmt: skip
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
        }


@fused
def _recoloured(images, saturation, contrast, gain):
    saturation, contrast, gain = (
        ops.reshape(v, (-1, 1, 1, 1)) for v in (saturation, contrast, gain)
    )
    luma = ops.sum(images * ops.convert_to_tensor(LUMA), -1, keepdims=True)
    images = luma + saturation * (images - luma)
    mean = ops.mean(luma, axis=(1, 2), keepdims=True)
    return ops.clip(gain * (mean + contrast * (images - mean)), 0.0, 255.0)


@fused
def _erased(images, height, width, top, left, is_covered):
    side = images.shape[1]
    at = ops.arange(side, dtype="float32")

    def inside(start, length):
        start = ops.expand_dims(start * (side - length), -1)
        return (at >= start) & (at < start + ops.expand_dims(length, -1))

    mask = ops.expand_dims(inside(top, height), 2) & ops.expand_dims(
        inside(left, width), 1
    )
    mask = mask & ops.reshape(is_covered, (-1, 1, 1))
    return ops.where(ops.expand_dims(mask, -1), 127.5, images)


@fused
def _affine(images, a, b, c, d, e, f):
    """Bilinear samples at (a x + b y + c, d x + e y + f), edges repeated.

    Not `ops.image.affine_transform`: on TensorFlow it has no XLA kernel, so that
    no step with it could be compiled, and on JAX it mixes 16 pixels where 4 do.

    Args:
        images: float32 `[batch, side, side, 3]`.
        a, b, c, d, e, f: `[batch]`, in pixels of the input for each output pixel.
    """
    side = images.shape[1]
    at = ops.arange(side, dtype="float32")
    across, down = ops.reshape(at, (1, 1, -1)), ops.reshape(at, (1, -1, 1))

    def position(by_x, by_y, shift):
        by_x, by_y, shift = (ops.reshape(v, (-1, 1, 1)) for v in (by_x, by_y, shift))
        found = ops.clip(by_x * across + by_y * down + shift, 0.0, side - 1.0)
        before = ops.floor(found)
        fraction = ops.expand_dims(found - before, -1)
        before = ops.cast(before, "int32")
        return before, ops.minimum(before + 1, side - 1), fraction

    left, right, share_x = position(a, b, c)
    top, bottom, share_y = position(d, e, f)
    pixels = ops.reshape(images, (-1, 3))
    numbers = ops.arange(ops.shape(images)[0], dtype="int32")
    first = ops.reshape(numbers, (-1, 1, 1)) * side**2

    def row(y):
        one = ops.take(pixels, first + y * side + left, axis=0)
        other = ops.take(pixels, first + y * side + right, axis=0)
        return one + share_x * (other - one)

    above = row(top)
    return above + share_y * (row(bottom) - above)


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
