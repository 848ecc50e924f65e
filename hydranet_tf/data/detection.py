"""Finds faces of any size and turn: what a detector is, and YuNet, which comes along.

A detector is any callable from a picture to `Detection`s; `FaceFinder` is the one that
is used where the user names none. It is YuNet (Wu et al. 2023,
https://doi.org/10.1007/s11633-023-1423-y), a network of 75,000 weights that OpenCV
runs. It sees a face in any position, but its landmarks follow a turned face only where
the face is about 160 pixels wide in its input, and not beyond 30 degrees. So there are
two steps:

1. The whole picture is searched at a small scale, with a low threshold.
2. Every candidate is looked at again: a patch of the picture, in which the face has
   the width that suits the network, and black beyond the picture's edge. The patch is
   turned until the face stands upright in it. Score and landmarks come from there.
"""

from __future__ import annotations

import cmath
import dataclasses
import functools
import importlib.resources
import math
import threading
from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np

from hydranet_tf import notices
from hydranet_tf.data import crops
from hydranet_tf.errors import HydraNetError

MODEL_FILE = "face_detection_yunet_2023mar.onnx"
# Of 0..1. docs/detection.md says what it lets through.
MIN_SCORE = 0.88

# Side of the picture that is searched, in pixels: of its shorter side.
_SEARCHED = 640
# The smallest face, in pixels of the searched picture, that most faces pass: 46 of 48
# pasted ones, against 36 of 48 at 12 pixels.
_SMALLEST = 16
_CANDIDATE_SCORE = 0.4
# Of this width in a patch a turn by 20 degrees is seen as one by 19; at 96 pixels it is
# seen as one by 7.
_PATCH_FACE, _PATCH = 160, 256
# The last look is closer: landmarks are the steadier, the larger the face.
_CLOSE_FACE = 200
# An upright face of that width has a score above this in 95 of 100 pictures, a
# sideways or upside-down one a lower one in 95 of 100.
_SURELY_UPRIGHT = 0.92
# One of the four quarter turns is at most 45 degrees off, where 95 of 100 faces score
# above 0.79. What stays below this is not a face.
_HOPELESS = 0.6
# A quarter turn has to do so much better than the upright face.
_TURN_GAIN = 0.02
_LEVEL_DEGREES = 6
_LOOKS = 3
# What has to be added to the landmarks, in sides of the square: the crop contract was
# measured with another detector, which sees every point further right and down. Medians
# over 999 faces of UTKFace's validation part.
_TO_CONTRACT = np.array(
    [0.029 + 0.025j, 0.025 + 0.021j, 0.042 + 0.038j, 0.022 + 0.036j, 0.038 + 0.033j]
)
# Mean distance of the landmarks to those of the crop contract, in sides of the
# square. 995 of 1,000 faces stay below 0.1, profiles reach 0.15.
_MOST_MISPLACED = 0.2
# Larger pictures are searched in tiles, and larger faces than the overlap at half the
# scale.
_TILE, _OVERLAP = 1280, 256
_MOST_ENLARGED = 2.0
# Faces of pictures on their side are mostly large.
_TURNED_SCALE = 0.5
# Of the box; and its width as a fraction of the contract's square.
_HEIGHT_OF_WIDTH, _FACE_OF_SQUARE = 1.25, 0.88
# Large faces are sampled so much finer before they shrink to a patch.
_FINEST = 8

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


@dataclasses.dataclass(frozen=True)
class FaceFinder:
    """A detector with its settings; see `detection.Detector`.

    It may be called from several threads at once, and pickled.

    Attributes:
        min_score: faces below it are left out, 0..1.
        min_face: width in pixels of the smallest face to find. Smaller means slower.
            None: 1/40 of the picture's shorter side, or 16 where that is less.
    """

    min_score: float = MIN_SCORE
    min_face: int | None = None

    def __post_init__(self):
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"expected a min_score in 0..1; got {self.min_score}")
        if self.min_face is not None and self.min_face < 1:
            raise ValueError(
                f"expected a min_face of 1 pixel or more; got {self.min_face}"
            )

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Finds the faces of a picture: uint8 `[height, width, 3]`, RGB.

        Returns:
            Detections with a score and five landmarks, the best first.
        """
        found = self._search(image, 0)
        if not found:
            # A picture that was never turned upright. Its faces are more often large.
            for quarters in (1, 2, 3):
                found += self._search(image, quarters)
        return [look.detection for look in _distinct(found)]

    def _search(self, image: np.ndarray, quarters: int) -> list[_Look]:
        """The faces of a picture that is turned by quarters for the first step."""
        height, width = image.shape[:2]
        if self.min_face is None:
            scale = min(1.0, _SEARCHED / min(height, width))
        else:
            scale = min(_MOST_ENLARGED, _SMALLEST / self.min_face)
        if quarters:
            scale *= _TURNED_SCALE
        looks = []
        for one in _distinct(_candidates(image, scale, quarters)):
            look = _examined(image, one)
            if (
                look
                and look.score >= self.min_score
                and look.width >= (self.min_face or 0)
                and look.misplacement() < _MOST_MISPLACED
            ):
                looks.append(look)
        return looks


def find_faces(image: np.ndarray) -> list[Detection]:
    """Finds faces with the default settings of `FaceFinder`."""
    return FaceFinder()(image)


@dataclasses.dataclass(frozen=True)
class _Look:
    """A face as it was seen in a part of a picture, in pixels of the picture.

    Attributes:
        score: 0..1.
        centre: of its box, x + y * 1j.
        width: of its box, along `upright`.
        height: of its box, across it.
        upright: unit vector along the part's upper edge: 1 where it was not turned.
        points: complex `[5]`, in the order of `detection.LANDMARKS`.
    """

    score: float
    centre: complex
    width: float
    height: float
    upright: complex
    points: np.ndarray

    @property
    def face(self) -> float:
        """Width of the face, from the area of the box: the steadier measure."""
        return math.sqrt(self.width * self.height / _HEIGHT_OF_WIDTH)

    @property
    def detection(self) -> Detection:
        # Around the ellipse in the turned box, as no face fills its corners.
        across, down = self.width / 2 * self.upright, self.height / 2 * self.upright
        x = math.hypot(across.real, down.imag)
        y = math.hypot(across.imag, down.real)
        at = self.centre
        return Detection(
            (at.real - x, at.imag - y, at.real + x, at.imag + y),
            self.score,
            tuple((float(point.real), float(point.imag)) for point in self.points),
        )

    def square(self) -> crops.Square:
        return crops.locate(self.detection)

    def degrees(self) -> float:
        """How far the landmarks are turned from how the part was."""
        return math.degrees(cmath.phase(self.square().across / self.upright))

    def misplacement(self) -> float:
        """Mean distance of the landmarks to the contract's, in sides of the square."""
        square = self.square()
        target = np.array([complex(*p) for p in crops.CONTRACT["points"].values()])
        expected = square.corner + square.across * target
        return float(np.abs(self.points - expected).mean() / square.side)


def _candidates(image: np.ndarray, scale: float, quarters: int) -> list[_Look]:
    """What may be a face in a picture that is shrunk and turned clockwise."""
    height, width = image.shape[:2]
    # Where the turned picture's upper left corner and upper edge lie in the picture.
    corner = (0, height * 1j, width + height * 1j, width + 0j)[quarters]
    upright = (-1j) ** quarters
    picture = _resized(image, scale)
    if quarters:
        picture = np.ascontiguousarray(np.rot90(picture, -quarters))
    across = width if quarters % 2 == 0 else height
    found = []
    while True:
        step = upright * across / picture.shape[1]
        for left, top, tile in _tiles(picture):
            start = corner + step * complex(left, top)
            found += _seen(tile, start, step, _CANDIDATE_SCORE)
        if max(picture.shape[:2]) <= _TILE:
            return found
        picture = _resized(picture, 0.5)


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return image
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=way)


def _tiles(picture: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left, top and pixels of overlapping parts that cover a picture."""
    height, width = picture.shape[:2]
    for top in _starts(height):
        for left in _starts(width):
            yield left, top, picture[top : top + _TILE, left : left + _TILE]


def _starts(length: int) -> list[int]:
    count = max(1, math.ceil((length - _OVERLAP) / (_TILE - _OVERLAP)))
    return [round(i * max(0, length - _TILE) / max(1, count - 1)) for i in range(count)]


def _examined(image: np.ndarray, candidate: _Look) -> _Look | None:
    """The second step: the candidate as it looks upright, or None."""
    best = _best_turn(image, candidate, (0,), None)
    if best is None or best.score < _SURELY_UPRIGHT:
        best = _best_turn(image, candidate, (90, 180, 270), best)
        if best is None or best.score < _HOPELESS:
            return None
        if best.score < _SURELY_UPRIGHT:
            best = _best_turn(image, candidate, (45, 135, 225, 315), best) or best
    for _ in range(_LOOKS):
        if abs(best.degrees()) <= _LEVEL_DEGREES:
            break
        other = _look(image, *_placed(best))
        if other is None or other.score < best.score - _TURN_GAIN:
            break
        best = other
    # Two opinions are better than one. The second depends less on where the first
    # step saw the face.
    points = best.points
    if again := _look(image, *_placed(best), _CLOSE_FACE):
        points = (points + again.points) / 2
        best = again if again.score > best.score else best
    shift = _TO_CONTRACT * best.square().across
    return dataclasses.replace(best, points=points + shift)


def _best_turn(
    image: np.ndarray, candidate: _Look, turns: tuple[int, ...], best: _Look | None
) -> _Look | None:
    """The best look among some turns, in degrees, and the one that is there."""
    for degrees in turns:
        turned = candidate.upright * cmath.rect(1, math.radians(degrees))
        other = _look(image, candidate, turned)
        if other and (best is None or other.score > best.score + _TURN_GAIN):
            best = other
    return best


def _placed(look: _Look) -> tuple[_Look, complex]:
    """Where the landmarks say that the face is, and its upper edge's direction."""
    square = look.square()
    width = _FACE_OF_SQUARE * square.side
    centre = square.corner + square.across * (0.5 + 0.5j)
    placed = dataclasses.replace(
        look, centre=centre, width=width, height=_HEIGHT_OF_WIDTH * width
    )
    return placed, square.across / square.side


def _look(
    image: np.ndarray, at: _Look, upright: complex, width: int = _PATCH_FACE
) -> _Look | None:
    """The face in the middle of a turned patch of the picture."""
    side = at.face * _PATCH / width
    across = side * upright
    corner = at.centre - across * (0.5 + 0.5j)
    finer = max(1, min(round(side / _PATCH), _FINEST))
    patch = crops.sampled(
        image, crops.Square(corner, across), finer * _PATCH, cv2.BORDER_CONSTANT
    )
    patch = _resized(patch, 1 / finer)
    near = [
        look
        for look in _seen(patch, corner, across / _PATCH, _CANDIDATE_SCORE, overlap=1)
        if abs(look.centre - at.centre) < at.face / 2
        and at.face / 2 < look.face < at.face * 2
    ]
    if not near:
        return None
    best = max(near, key=lambda look: look.score)
    same = [look for look in near if abs(look.centre - best.centre) < best.face / 2]
    weights = np.array([look.score for look in same])
    # Each of some ten cells of the network has its own opinion of a face: their mean
    # misplaces the square by a tenth less than the best one.
    points = np.average([look.points for look in same], axis=0, weights=weights)
    return dataclasses.replace(best, points=points)


def _seen(
    picture: np.ndarray,
    corner: complex,
    step: complex,
    min_score: float,
    overlap: float = 0.3,
) -> list[_Look]:
    """Runs the network on a picture, a part of another.

    Args:
        corner: where its upper left corner lies in that.
        step: what one pixel to the right is in that.
        min_score: faces below it are left out.
        overlap: of two boxes that share so much of their area one is left out.
    """
    network = _network()
    height, width = picture.shape[:2]
    network.setInputSize((width, height))
    network.setScoreThreshold(min_score)
    network.setNMSThreshold(overlap)
    rows = network.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    looks = []
    for row in () if rows is None else rows.astype(float):
        left, top, across, down = row[:4]
        if not np.isfinite(row).all() or min(across, down) < 1:
            continue
        points = row[4:14:2] + 1j * row[5:14:2]
        if points[0] != points[1]:
            looks.append(
                _Look(
                    float(row[14]),
                    corner + step * complex(left + across / 2, top + down / 2),
                    across * abs(step),
                    down * abs(step),
                    step / abs(step),
                    corner + step * points,
                )
            )
    return looks


def _distinct(looks: list[_Look]) -> list[_Look]:
    """One look a face, the best first."""
    kept: list[_Look] = []
    for look in sorted(looks, key=lambda look: -look.score):
        if all(
            abs(look.centre - other.centre) > 0.4 * max(look.face, other.face)
            for other in kept
        ):
            kept.append(look)
    return kept


_LOCAL = threading.local()
_LOCK = threading.Lock()


def _network() -> cv2.FaceDetectorYN:
    """This thread's own: OpenCV's networks keep their activations in themselves."""
    if not hasattr(_LOCAL, "network"):
        # OpenCV 5 writes to standard error that its new engine knows no targets.
        with _LOCK, notices.opencv_level("ERROR"):
            _LOCAL.network = cv2.FaceDetectorYN.create(
                "onnx", _model(), np.zeros(0, np.uint8), (_PATCH, _PATCH)
            )
    return _LOCAL.network


@functools.cache
def _model() -> np.ndarray:
    folder = importlib.resources.files("hydranet_tf.data") / "face_detector"
    return np.frombuffer((folder / MODEL_FILE).read_bytes(), np.uint8)
