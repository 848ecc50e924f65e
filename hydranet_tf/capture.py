"""Random changes of training images that a camera, a lens or a codec makes.

Faces of a training set came from few cameras and were resized alike. Photographs are
sharper or softer, smaller, noisier, compressed and lit otherwise, and none of that
changes a person's age. Keras' own layers blur or sharpen a whole batch by one draw and
know neither resolution nor JPEG.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from hydranet_tf.augmentation import LUMA, fused

# RGB to luma and two colour differences, JFIF 1.02. JPEG adds 128 to the differences,
# which changes no rounding of what is not constant.
_TO_YCC = np.array(
    [LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)], "float32"
)

# Quantisation at quality 50: tables K.1 and K.2 of ITU-T T.81.
_LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    "float32",
)
_COLOUR_TABLE = np.full((8, 8), 99, "float32")
_COLOUR_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
_BLOCK = 8

# Fields of noise that are drawn for a batch. Its images share them with other
# strengths; to draw one for each would cost more than all else here.
_NOISE_FIELDS = 8


@keras.saving.register_keras_serializable("hydranet_tf")
class Capture(keras.layers.Layer):
    """Changes sharpness, resolution, noise, compression and light of images 0..255.

    One of four images keeps its sharpness; of the others a third is blurred, a third
    gets an unsharp mask and a third is made smaller and large again. Noise, JPEG and
    light are drawn independently of it, each for half of the images.

    Args:
        blur: largest standard deviation of a Gaussian blur, as a fraction of the side.
        unsharp: largest amount of an unsharp mask: how often the difference from a
            blurred image is added.
        resolution: smallest side of an image that is made smaller, as a fraction.
        noise: largest standard deviation of Gaussian noise, in levels.
        jpeg: lowest quality of JPEG, 1 to 100; 100 leaves images as they are.
        light: largest natural logarithm of the gain at the edge of a hard light.
        shine: largest fraction by which highlights are drawn towards white.
        balance: largest natural logarithm of the gain of red and of blue.
        seed: of the random state.
    """

    def __init__(
        self,
        blur: float = 0.01,
        unsharp: float = 1.5,
        resolution: float = 0.35,
        noise: float = 8.0,
        jpeg: float = 35.0,
        light: float = 0.25,
        shine: float = 0.25,
        balance: float = 0.08,
        seed: int = 0,
        name: str = "capture",
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(name=name, **kwargs)
        if not 0 < resolution <= 1 or not 1 <= jpeg <= 100:
            raise ValueError(
                "resolution must be above 0 and at most 1, jpeg from 1 to 100; got "
                f"{resolution} and {jpeg}"
            )
        self.blur = blur
        self.unsharp = unsharp
        self.resolution = resolution
        self.noise = noise
        self.jpeg = jpeg
        self.light = light
        self.shine = shine
        self.balance = balance
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def of_strength(cls, strength: str, seed: int = 0) -> Capture | None:
        """Returns the layer for an augmentation called `strength`; None for "none"."""
        if strength == "none":
            return None
        if strength == "strong":
            return cls(
                blur=0.015, unsharp=2.5, resolution=0.2, noise=14.0, jpeg=15.0,
                light=0.5, shine=0.5, balance=0.15, seed=seed,
            )  # fmt: skip
        return cls(seed=seed)

    def call(self, images, training=False):
        """Changes `[batch, side, side, 3]` images; 0..255 in and out."""
        if not training:
            return images
        # A first layer may be given the pipeline's bytes.
        images = ops.cast(images, "float32")
        if self.light or self.shine or self.balance:
            images = self._relight(images)
        if self.blur or self.unsharp or self.resolution < 1:
            images = self._refocus(images)
        if self.noise:
            images = self._add_noise(images)
        images = ops.clip(images, 0.0, 255.0)
        if self.jpeg < 100:
            quality = self._some(images, self.jpeg, 95.0, otherwise=100.0)
            images = compressed(images, quality)
        return images

    def _uniform(self, images, low, high):
        """One number an image, `[batch]`."""
        shape = (ops.shape(images)[0],)
        return keras.random.uniform(shape, low, high, seed=self.seed_generator)

    def _some(self, images, low, high, otherwise=0.0):
        """One number for half of the images, `otherwise` for the rest."""
        coin = self._uniform(images, 0.0, 1.0)
        return ops.where(coin < 0.5, self._uniform(images, low, high), otherwise)

    def _relight(self, images):
        angle = self._uniform(images, -math.pi, math.pi)
        offset = self._uniform(images, -0.5, 0.5)
        # From a soft fall of light to the edge of a shadow.
        hardness = ops.exp(self._uniform(images, math.log(0.7), math.log(6.0)))
        amount = self._some(images, 0.0, self.light)
        red = self._some(images, -self.balance, self.balance)
        blue = self._some(images, -self.balance, self.balance)
        shine = self._some(images, 0.0, self.shine)
        return relit(images, angle, offset, hardness, amount, red, blue, shine)

    def _refocus(self, images):
        side = images.shape[1]
        kind = self._uniform(images, 0.0, 1.0)
        is_blur = (kind >= 0.25) & (kind < 0.5)
        is_mask = (kind >= 0.5) & (kind < 0.75)
        is_small = kind >= 0.75
        # Even in the logarithm, for sharpness is.
        low, high = math.log(0.002), math.log(max(self.blur, 0.0021))
        blur = side * ops.exp(self._uniform(images, low, high))
        # A mask is as wide as the blurs that cameras and editors take away.
        mask = side * self._uniform(images, 0.003, 0.011)
        masked = -self._uniform(images, 0.0, self.unsharp)
        amount = ops.where(is_blur | is_small, 1.0, ops.where(is_mask, masked, 0.0))
        small = ops.exp(self._uniform(images, math.log(self.resolution), 0.0))
        small = ops.where(is_small, ops.maximum(ops.round(small * side), 2.0), side)
        soft = self._uniform(images, 0.0, 1.0) < 0.5
        sigma = ops.where(is_mask, mask, blur)
        return refocused(images, amount, sigma, is_small, small, soft)

    def _add_noise(self, images):
        side = images.shape[1]
        colour, grey = _NOISE_FIELDS // 2, _NOISE_FIELDS - _NOISE_FIELDS // 2
        fields = ops.concatenate(
            [
                keras.random.normal((colour, side, side, 3), seed=self.seed_generator),
                ops.broadcast_to(
                    keras.random.normal(
                        (grey, side, side, 1), seed=self.seed_generator
                    ),
                    (grey, side, side, 3),
                ),
            ]
        )
        count = ops.shape(images)[0]
        numbers = (ops.arange(count) * 5) % _NOISE_FIELDS
        sigma = self._some(images, 0.0, self.noise)
        return images + _per_image(sigma, 4) * ops.take(fields, numbers, axis=0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = (
            "blur", "unsharp", "resolution", "noise", "jpeg", "light", "shine",
            "balance", "seed",
        )  # fmt: skip
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
        }


def _per_image(values, rank: int):
    """`[batch]` with axes of one behind it, as many as make `rank`."""
    return ops.reshape(values, (-1,) + (1,) * (rank - 1))


@fused
def relit(images, angle, offset, hardness, amount, red, blue, shine):
    """Images under a light from one side, of another colour, on skin that shines.

    Args:
        images: `[batch, side, side, 3]`, 0..255.
        angle: where the light comes from, in radians; `[batch]`, as all that follow.
        offset: from the middle of the image to that between light and dark, in halves
            of the side.
        hardness: how steeply the one turns into the other.
        amount: natural logarithm of the gain on the light side, and of its inverse.
        red: natural logarithm of the gain of red.
        blue: natural logarithm of the gain of blue.
        shine: how far what is lighter than its image is drawn towards white; 1 makes
            white of what is 128 levels above the mean luma.
    """
    side = images.shape[1]
    at = (ops.arange(side, dtype="float32") + 0.5) * (2 / side) - 1
    across, down = ops.reshape(at, (1, 1, -1)), ops.reshape(at, (1, -1, 1))
    along = _per_image(ops.cos(angle), 3) * across
    along = along + _per_image(ops.sin(angle), 3) * down
    slope = _per_image(hardness, 3) * (along - _per_image(offset, 3))
    gain = ops.exp(_per_image(amount, 3) * ops.tanh(slope))
    colour = ops.exp(ops.stack([red, ops.zeros_like(red), blue], -1))
    images = images * ops.expand_dims(gain, -1) * ops.reshape(colour, (-1, 1, 1, 3))
    luma = ops.sum(images * ops.convert_to_tensor(LUMA), -1, keepdims=True)
    above = ops.relu(luma - ops.mean(luma, axis=(1, 2), keepdims=True)) / 128.0
    return images + (_per_image(shine, 4) * above) * (255.0 - images)


@fused
def refocused(images, amount, sigma, is_small, small, soft):
    """Images softer or sharper.

    Args:
        images: `[batch, side, side, 3]`.
        amount: how much of the way to the soft image is gone, below 0 away from it;
            `[batch]`, as all that follow.
        sigma: of the Gaussian that softens, in pixels.
        is_small: booleans: by `resampling` instead.
        small: see `resampling`.
        soft: see `resampling`.
    """
    side = images.shape[1]
    again = resampling(small, side, soft)
    matrix = ops.where(_per_image(is_small, 3), again, gaussian(sigma, side))
    return images + _per_image(amount, 4) * (separable(images, matrix) - images)


def gaussian(sigma, side: int):
    """The matrices of a Gaussian blur along one axis, edges cut off.

    Args:
        sigma: `[batch]`, standard deviation in pixels, above 0.
        side: pixels.

    Returns:
        `[batch, side, side]`, rows sum to 1.
    """
    at = ops.arange(side, dtype="float32")
    distance = ops.expand_dims(ops.reshape(at, (-1, 1)) - ops.reshape(at, (1, -1)), 0)
    weights = ops.exp(-0.5 * ops.square(distance / _per_image(sigma, 3)))
    return weights / ops.sum(weights, -1, keepdims=True)


def resampling(small, side: int, soft):
    """The matrices of making an axis `small` pixels long and `side` again.

    Args:
        small: `[batch]`, whole numbers of pixels, 1 to `side`.
        side: pixels.
        soft: `[batch]` booleans: down by a triangle twice as wide as a new pixel and up
            by linear interpolation, as Pillow's BILINEAR; otherwise down by the mean
            over a new pixel and up by cubic convolution (Keys 1981, a = -0.5).

    Returns:
        `[batch, side, side]`, rows sum to 1.
    """
    at = ops.arange(side, dtype="float32") + 0.5
    scale = _per_image(side / small, 3)
    soft = _per_image(soft, 3)
    new = ops.reshape(at, (1, -1, 1))
    old = ops.reshape(at, (1, 1, -1))
    exists = new < _per_image(small, 3)

    # Down: from `side` pixels to the first `small` rows.
    reach = old / scale - new
    triangle = ops.relu(1.0 - ops.abs(reach))
    # How much of each pixel lies in the new one.
    box = ops.clip((0.5 - ops.abs(reach)) * scale + 0.5, 0.0, 1.0)
    down = ops.where(exists, ops.where(soft, triangle, box), 0.0)
    down = down / ops.maximum(ops.sum(down, -1, keepdims=True), 1e-6)

    # Up: from those to `side` pixels, the transposed distances.
    reach = ops.abs(ops.transpose(reach, (0, 2, 1)))
    near = 1.0 + ops.square(reach) * (1.5 * reach - 2.5)
    far = 2.0 + reach * (-4.0 + reach * (2.5 - 0.5 * reach))
    cubic = ops.where(reach < 1.0, near, ops.where(reach < 2.0, far, 0.0))
    up = ops.where(soft, ops.relu(1.0 - reach), cubic)
    up = ops.where(ops.transpose(exists, (0, 2, 1)), up, 0.0)
    up = up / ops.sum(up, -1, keepdims=True)
    return ops.matmul(up, down)


def separable(images, matrix):
    """Applies `[batch, side, side]` along the rows and along the columns of images."""
    side = images.shape[1]
    for _ in range(2):
        images = ops.matmul(matrix, ops.reshape(images, (-1, side, 3 * side)))
        images = ops.reshape(images, (-1, side, side, 3))
        images = ops.transpose(images, (0, 2, 1, 3))
    return images


def _block_matrices():
    """Cosine transform of a column, and of a row with its colours, of a block."""
    at = np.arange(_BLOCK)
    cosines = np.cos((2 * at + 1) * at[:, None] * math.pi / (2 * _BLOCK)) / 2
    cosines[0] /= math.sqrt(2)
    row = np.kron(cosines.T, _TO_YCC.T)
    back = np.kron(cosines, np.linalg.inv(_TO_YCC).T)
    table = np.stack([_LUMA_TABLE, _COLOUR_TABLE, _COLOUR_TABLE], -1)
    return (
        cosines.astype("float32"),
        row.astype("float32"),
        back.astype("float32"),
        table.reshape(1, 1, _BLOCK, 1, 3 * _BLOCK),
    )


_COSINES, _ROW, _ROW_BACK, _TABLE = _block_matrices()


@fused
def compressed(images, quality):
    """What JPEG leaves of images, colours at full resolution.

    Args:
        images: `[batch, side, side, 3]`, 0..255.
        quality: `[batch]`, 1 to 100 as libjpeg counts; an image of 100 comes back as
            it was, unrounded.

    Returns:
        `[batch, side, side, 3]`, 0..255.
    """
    side = images.shape[1]
    count = -(-side // _BLOCK)
    more = count * _BLOCK - side
    whole = ops.pad(images, ((0, 0), (0, more), (0, more), (0, 0)), "symmetric")
    flat = (-1, count, _BLOCK, count, 3 * _BLOCK)
    down = (-1, count, _BLOCK, count * 3 * _BLOCK)
    # jpeg_quality_scaling and jpeg_add_quant_table of libjpeg.
    scale = ops.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    table = ops.clip(ops.floor((_TABLE * _per_image(scale, 5) + 50) / 100), 1.0, 255.0)
    found = ops.matmul(ops.reshape(whole - 128.0, flat), _ROW)
    found = ops.reshape(ops.matmul(_COSINES, ops.reshape(found, down)), flat)
    found = ops.round(found / table) * table
    found = ops.matmul(_COSINES.T, ops.reshape(found, down))
    found = ops.matmul(ops.reshape(found, flat), _ROW_BACK)
    found = ops.reshape(found, (-1, side + more, side + more, 3))[:, :side, :side]
    found = ops.clip(found + 128.0, 0.0, 255.0)
    return ops.where(_per_image(quality, 4) < 100, found, images)
