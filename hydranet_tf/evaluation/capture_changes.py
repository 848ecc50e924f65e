"""What cameras, lenses, codecs and resizing do to a face: the changes of a report.

Each is the same whenever it is applied. Amounts in pixels are for a face of 200 pixels
a side, as UTKFace has them, and grow with the side.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from hydranet_tf.data import decoding

# Side of a face, in pixels, that amounts are given for.
SIDE = 200
# Standard deviation in pixels of the blur within an unsharp mask.
_UNSHARP_SIGMA = 1.5


def blur(face: np.ndarray, sigma: float) -> np.ndarray:
    """Convolves with a Gaussian; the edge is repeated.

    Args:
        face: uint8 `[side, side, 3]`.
        sigma: standard deviation in pixels of a face of `SIDE`.
    """
    return _levels(_blurred(face, sigma))


def resize_and_back(face: np.ndarray, side: float) -> np.ndarray:
    """Makes a face smaller and as large again, both bilinear and antialiased.

    Args:
        face: uint8 `[side, side, 3]`.
        side: of the small one, in pixels of a face of `SIDE`.
    """
    small = max(1, round(side * len(face) / SIDE))
    return decoding.resize(decoding.resize(face, small), len(face))


def unsharp_mask(face: np.ndarray, amount: float) -> np.ndarray:
    """Adds `amount` times the difference from a blurred face."""
    return _levels(face + amount * (face - _blurred(face, _UNSHARP_SIGMA)))


def jpeg(face: np.ndarray, quality: int) -> np.ndarray:
    """Compresses with libjpeg's tables at a quality, colours at half the resolution."""
    stream = io.BytesIO()
    Image.fromarray(face).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(stream))


def noise(face: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Adds Gaussian noise of `sigma` levels to each pixel and channel."""
    drawn = np.random.default_rng(seed).normal(0, sigma, face.shape)
    return _levels(face + drawn)


@dataclasses.dataclass(frozen=True)
class Change:
    """One row of the table.

    Attributes:
        kind: what it does, such as `blur`.
        amount: how much, in the words of the report.
        apply: from uint8 `[side, side, 3]` and the face's number to the same shape.
    """

    kind: str
    amount: str
    apply: Callable[[np.ndarray, int], np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.amount}".strip()


UNCHANGED = Change("none", "", lambda face, _: face)


def _changes() -> tuple[Change, ...]:
    def of(kind, amounts, text, function):
        return [
            Change(kind, text.format(amount), lambda f, n, a=amount: function(f, a, n))
            for amount in amounts
        ]

    return (
        *of("blur", (0.8, 1.3, 2, 3), "{} px", lambda f, a, _: blur(f, a)),
        *of("down to", (100, 64, 40), "{} px", lambda f, a, _: resize_and_back(f, a)),
        *of("unsharp mask", (0.5, 1, 2), "{}", lambda f, a, _: unsharp_mask(f, a)),
        *of("JPEG", (50, 20), "quality {}", lambda f, a, _: jpeg(f, a)),
        *of("noise", (5, 12), "{} levels", noise),
    )


CHANGES = _changes()


def _blurred(face: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(
        face.astype(np.float32),
        # As many taps as the deviation wants.
        (0, 0),
        sigma * len(face) / SIDE,
        borderType=cv2.BORDER_REPLICATE,
    )


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
