"""Where a face lies in its crop, and how it gets there: the crop contract.

Training images are UTKFace's aligned and cropped faces. A face from another
picture is turned, scaled and shifted so that its eyes and mouth come to where
those crops have theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from hydranet_tf.data import decoding

if TYPE_CHECKING:
    from hydranet_tf.data.detection import Detection

# As fractions of the square's side, from its left and top. Medians over 499 crops
# of UTKFace's validation part, on which MTCNN found one face. Exported networks carry
# them, so they stay, and the landmarks of `detection` are brought to them;
# benchmarks/crop_contract.py measures how well. Left and right as the viewer sees them.
CONTRACT: Mapping[str, Any] = {
    "points": {
        "left_eye": (0.32, 0.31),
        "right_eye": (0.71, 0.31),
        "nose": (0.515, 0.54),
        "mouth_left": (0.335, 0.71),
        "mouth_right": (0.69, 0.71),
    },
    # Of the detector's box, for faces without landmarks.
    "box": (0.08, -0.1, 0.925, 0.99),
}

# All five: on those crops the eyes alone misplace the square by twice as much.
_USED = (0, 1, 2, 3, 4)
# A crop is first cut in about the picture's own resolution. Larger ones hold no
# more of a face that a network of a few hundred pixels could see.
_LARGEST_CROP = 2048


def rule() -> str:
    """The contract in words, for whoever cuts faces without this package."""
    eyes, mouth = (
        "({:g}, {:g}) and ({:g}, {:g})".format(*left, *right)
        for left, right in (
            (CONTRACT["points"]["left_eye"], CONTRACT["points"]["right_eye"]),
            (CONTRACT["points"]["mouth_left"], CONTRACT["points"]["mouth_right"]),
        )
    )
    nose = "({:g}, {:g})".format(*CONTRACT["points"]["nose"])
    return (
        "One upright face fills a square, turned in the plane until the eyes are "
        f"level. In fractions of its side from the left and the top, the eyes are at "
        f"{eyes}, the tip of the nose at {nose} and the corners of the mouth at "
        f"{mouth}: a similarity transform of least squares. Beyond the picture its "
        "edge is repeated"
    )


@dataclasses.dataclass(frozen=True)
class Square:
    """A turned square in a picture.

    Attributes:
        corner: its upper left corner, as x + y * 1j in pixels.
        across: from there along its upper edge to the next corner.
    """

    corner: complex
    across: complex

    @property
    def side(self) -> float:
        return abs(self.across)

    def corners(self) -> list[complex]:
        """All four, clockwise from the upper left."""
        down = self.across * 1j
        return [
            self.corner,
            self.corner + self.across,
            self.corner + self.across + down,
            self.corner + down,
        ]


def locate(
    detection: Detection,
    contract: Mapping[str, Any] = CONTRACT,
    used: Sequence[int] = _USED,
) -> Square:
    """The square that shows a face as the contract says.

    From landmarks by the similarity transform (turn, scale, shift) with the
    least squared distance to the contract's points; from a box alone by
    its centre and height, not turned.

    Args:
        contract: another than `CONTRACT`, while it is being measured.
        used: which of five landmarks count.
    """
    if detection.landmarks is None:
        left, top, right, bottom = detection.box
        low_x, low_y, high_x, high_y = contract["box"]
        side = (bottom - top) / (high_y - low_y)
        centre = complex(left + right, top + bottom) / 2
        fraction = complex(low_x + high_x, low_y + high_y) / 2
        return Square(centre - side * fraction, complex(side))
    found = np.array([complex(*point) for point in detection.landmarks])
    target = np.array([complex(*point) for point in contract["points"].values()])
    used = list(used) if len(found) > 2 else [0, 1]
    found, target = found[used], target[used]
    # In complex numbers such a transform is z -> across * z + corner, and
    # finding it a linear regression.
    centred = target - target.mean()
    across = np.vdot(centred, found) / np.vdot(centred, centred)
    return Square(complex(found.mean() - across * target.mean()), complex(across))


def crop(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Crops a picture to a square of any angle.

    Args:
        image: uint8 `[height, width, 3]`.
        square: beyond the picture its edge is repeated.
        size: side of the result.

    Returns:
        uint8 `[size, size, 3]`.
    """
    # As many whole pixels for each of the result's as keep the picture's
    # resolution; then the resize that every image takes.
    finer = max(1, min(int(np.ceil(square.side / size)), _LARGEST_CROP // size))
    return decoding.resize(sampled(image, square, size * finer), size)


def sampled(
    image: np.ndarray, square: Square, n: int, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """The pixels of a square, by bilinear interpolation.

    Args:
        image: uint8 `[height, width, 3]`.
        square: where they lie.
        n: how many to a side.
        border: what lies beyond the picture, as OpenCV names it.

    Returns:
        uint8 `[n, n, 3]`.
    """
    corners = np.array(square.corners())
    height, width = image.shape[:2]
    # The part alone: OpenCV ends at 32,767 pixels.
    left = int(np.clip(np.floor(corners.real.min()) - 1, 0, width - 1))
    top = int(np.clip(np.floor(corners.imag.min()) - 1, 0, height - 1))
    right = int(np.clip(np.ceil(corners.real.max()) + 2, left + 1, width))
    bottom = int(np.clip(np.ceil(corners.imag.max()) + 2, top + 1, height))
    # Pixel j of the result is centred at (j + 0.5) / n of its side.
    step = square.across / n
    start = square.corner + step * (0.5 + 0.5j) - complex(left, top) - (0.5 + 0.5j)
    inverse = np.array(
        [[step.real, -step.imag, start.real], [step.imag, step.real, start.imag]]
    )
    return cv2.warpAffine(
        np.ascontiguousarray(image[top:bottom, left:right]),
        inverse,
        (n, n),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )
