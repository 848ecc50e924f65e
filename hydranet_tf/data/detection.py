"""What a detector is and what it gives.

A detector is any callable from a picture to `Detection`s; `yunet.FaceFinder` is the
one that is used where the user names none.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from hydranet_tf.errors import HydraNetError

# In the order of `Detection.landmarks`.
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class DetectionError(HydraNetError, RuntimeError):
    """A detector that failed or gave what it should not; the message says what."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """One face in a picture, in pixels of the upright picture.

    Attributes:
        box: left, top, right, bottom; close around the face from the hairline
            to the chin. It may reach beyond the picture.
        score: how sure the detector is; None where it does not say.
        landmarks: x and y of the eyes, or of the five points of `LANDMARKS`.
            Left and right as the viewer sees them. None where the detector
            finds none; the face is then cut by its box, and not turned.
    """

    box: tuple[float, float, float, float]
    score: float | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self):
        left, top, right, bottom = self.box
        points = np.asarray(self.landmarks or ((0, 0), (1, 0)), float)
        if not (left < right and top < bottom and np.isfinite(self.box).all()):
            raise DetectionError(
                "expected a box as left, top, right, bottom with left < right and "
                f"top < bottom; got {self.box}"
            )
        if points.shape not in ((2, 2), (5, 2)) or not np.isfinite(points).all():
            raise DetectionError(
                "expected as landmarks x and y of two eyes or of the five points "
                f"{', '.join(LANDMARKS)}; got {self.landmarks}"
            )
        if (points[0] == points[1]).all():
            raise DetectionError(f"expected two eyes; both are at {points[0]}")


class Detector(Protocol):
    """What may be passed as a detector; it is called from several threads."""

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Finds the faces of a picture.

        Args:
            image: uint8 `[height, width, 3]`, RGB, upright.
        """
