"""Pictures with boxes and predictions drawn into them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hydranet_tf.inference.predictor import Face

_BOX, _INK, _PAPER = "#E69F00", "#FFFFFF", "#000000"
# Points of the smallest font that can be read.
_LEAST = 11
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def write(image: np.ndarray, faces: Sequence[Face], path: Path) -> None:
    """Writes a picture with its faces' boxes and predictions.

    A prediction stands beside its box and covers no face. Where there is no room for
    it, the box has a number, and the prediction stands below the picture, which grows.

    Args:
        image: uint8 `[height, width, 3]`.
        faces: of this picture; one without a box stands for the whole picture.
        path: with the ending of a JPEG or PNG file; folders are made.
    """
    picture, below = _drawn(image, faces)
    if below:
        picture = _with_legend(picture, below)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The format by name, because Pillow goes by lower-case endings it knows.
    picture.save(path, _FORMATS[path.suffix.lower()], quality=92)


def drawn(image: np.ndarray, faces: Sequence[Face], names: Sequence[str]) -> np.ndarray:
    """A frame of a film with boxes and predictions, at the frame's own size.

    Args:
        image: uint8 `[height, width, 3]`.
        faces: of this frame.
        names: what each face is called: the first line of its prediction, and all of
            it where there is no room for more.
    """
    return np.asarray(_drawn(image, faces, names)[0])


def _drawn(
    image: np.ndarray, faces: Sequence[Face], names: Sequence[str] | None = None
) -> tuple[Image.Image, list[str]]:
    """The picture, and the predictions for which it has no room."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    stroke = max(1, round(max(picture.size) / 400))
    for face in faces:
        if face.box:
            draw.rectangle(face.box, outline=_BOX, width=stroke)
    below = []
    labels = place(faces, picture.size, names)
    for number, (face, label) in enumerate(zip(faces, labels, strict=True)):
        if label:
            _write(draw, label)
        elif lines(face):
            # A face alone needs no number to be told from others.
            tag = names[number] if names else f"{number + 1}" * (len(faces) > 1)
            below.append(f"{tag}{': ' if tag else ''}{', '.join(lines(face))}")
            if tag and face.box:
                _write(draw, _tag(tag, face.box))
    return picture, below


def lines(face: Face) -> list[str]:
    """The predictions in words, for example `34.2 years (28-41)` and `female 93 %`.

    The last line is the detector's score, where it gives one.
    """
    text = [] if face.age is None else [f"{face.age:.1f} years"]
    if face.age_low is not None:
        text[0] += f" ({face.age_low:.0f}-{face.age_high:.0f})"
    for name, fractions in face.probabilities.items():
        best = face.predictions[name]
        text.append(f"{best} {100 * fractions[best]:.0f} %")
    if face.detection_score is not None:
        text.append(f"score {face.detection_score:.2f}")
    return text


class Label(NamedTuple):
    """Text on paper.

    Attributes:
        box: left, top, right, bottom of the paper.
        text: lines.
        points: size of the font.
    """

    box: tuple[int, int, int, int]
    text: str
    points: int


def place(
    faces: Sequence[Face], size: tuple[int, int], names: Sequence[str] | None = None
) -> list[Label | None]:
    """Where the predictions of faces stand: upon no face and no other prediction.

    Args:
        size: width and height of the picture.
        names: a first line for each.

    Returns:
        A label a face; None where there is no room, no box or nothing to say.
    """
    taken = [face.box for face in faces if face.box]
    labels = []
    for face, name in zip(faces, names or [""] * len(faces), strict=True):
        text = "\n".join([name] * bool(name) + lines(face))
        label = _free_label(text, face.box, size, taken)
        if label:
            taken.append(label.box)
        labels.append(label)
    return labels


def _free_label(
    text: str,
    of: tuple[int, int, int, int] | None,
    size: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> Label | None:
    if not text or not of:
        return None
    width, height = size
    left, top, right, bottom = of
    # Readable at any size of picture, and no wider than the face where it can be.
    largest = min(max(_LEAST, (right - left) // 8), max(_LEAST, height // 24))
    for points in sorted({largest, (largest + _LEAST) // 2, _LEAST}, reverse=True):
        across, down = _extent(text, points)
        within = min(max(0, left), max(0, width - across))
        upper = min(max(0, top), max(0, height - down))
        corners = (
            (within, bottom + 1),
            (within, top - down - 1),
            (right + 1, upper),
            (left - across - 1, upper),
        )
        for x, y in corners:
            box = (x, y, x + across, y + down)
            is_inside = x >= 0 and y >= 0 and box[2] < width and box[3] < height
            if is_inside and not any(_overlap(box, other) for other in taken):
                return Label(box, text, points)
    return None


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return (
        one[0] <= other[2] and other[0] <= one[2]
        and one[1] <= other[3] and other[1] <= one[3]
    )  # fmt: skip


def _extent(text: str, points: int) -> tuple[int, int]:
    """Width and height of a label, its margins included."""
    edges = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), text, font=ImageFont.load_default(points)
    )
    return tuple(math.ceil(edge) + 2 * _margin(points) for edge in edges[2:])


def _margin(points: int) -> int:
    return max(2, points // 4)


def _tag(text: str, box: tuple[int, int, int, int]) -> Label:
    """A number in the upper left corner of a box, where a face has hair at most."""
    left, top = max(0, box[0]), max(0, box[1])
    across, down = _extent(text, _LEAST)
    return Label((left, top, left + across, top + down), text, _LEAST)


def _with_legend(picture: Image.Image, texts: Sequence[str]) -> Image.Image:
    points = max(_LEAST, picture.height // 40)
    while points > _LEAST and _extent("\n".join(texts), points)[0] > picture.width:
        points -= 1
    letters = max(8, picture.width // max(1, points // 2))
    text = "\n".join(textwrap.fill(one, letters) for one in texts)
    _, down = _extent(text, points)
    wide = Image.new("RGB", (picture.width, picture.height + down), _PAPER)
    wide.paste(picture)
    place = _margin(points), picture.height + _margin(points)
    ImageDraw.Draw(wide).multiline_text(
        place, text, fill=_INK, font=ImageFont.load_default(points)
    )
    return wide


def _write(draw: ImageDraw.ImageDraw, label: Label) -> None:
    left, top = label.box[:2]
    margin = _margin(label.points)
    draw.rectangle(label.box, fill=_PAPER, outline=_BOX)
    draw.multiline_text(
        (left + margin, top + margin), label.text, fill=_INK,
        font=ImageFont.load_default(label.points),
    )  # fmt: skip
