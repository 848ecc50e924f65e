"""Pictures with boxes and answers drawn into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hydranet_tf.inference.predictor import Face

_BOX, _INK, _PAPER = "#E69F00", "#FFFFFF", "#000000"
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def write(image: np.ndarray, faces: Sequence[Face], path: Path) -> None:
    """Writes a picture with its faces' boxes and answers.

    Args:
        image: uint8 `[height, width, 3]`.
        faces: of this picture; one without a box stands for the whole picture.
        path: with the ending of a JPEG or PNG file; folders are made.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    stroke = max(1, round(max(picture.size) / 400))
    # All boxes before all answers, so that no box crosses out a neighbour's.
    for face in faces:
        draw.rectangle(_box(face, picture.size), outline=_BOX, width=stroke)
    for face in faces:
        _write_answers(draw, face, picture.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The format by name, because Pillow goes by lower-case endings it knows.
    picture.save(path, _FORMATS[path.suffix.lower()], quality=92)


def lines(face: Face) -> list[str]:
    """The answers in words, for example `34.2 years (28-41)` and `female 93 %`."""
    text = [] if face.age is None else [f"{face.age:.1f} years"]
    if face.age_low is not None:
        text[0] += f" ({face.age_low:.0f}-{face.age_high:.0f})"
    for name, shares in face.probabilities.items():
        best = face.answers[name]
        text.append(f"{best} {100 * shares[best]:.0f} %")
    return text


def _box(face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return face.box or (0, 0, size[0] - 1, size[1] - 1)


def _write_answers(
    draw: ImageDraw.ImageDraw, face: Face, size: tuple[int, int]
) -> None:
    text = "\n".join(lines(face))
    if not text:
        return
    width, height = size
    left, top, right, bottom = _box(face, size)
    # Readable at any size of picture, and no wider than the face where it can be.
    points = min(max(11, round((right - left) / 8)), max(11, height // 24))
    font = ImageFont.load_default(points)
    edges = draw.multiline_textbbox((0, 0), text, font=font)
    pad = max(2, points // 4)
    across, down = edges[2] + 2 * pad, edges[3] + 2 * pad
    # Below the face, above it where there is no room, inside as the last resort.
    if bottom + down <= height:
        y = bottom
    elif top - down >= 0:
        y = top - down
    else:
        y = max(0, height - down)
    x = min(max(0, left), max(0, width - across))
    draw.rectangle((x, y, x + across, y + down), fill=_PAPER, outline=_BOX)
    draw.multiline_text((x + pad, y + pad), text, fill=_INK, font=font)
