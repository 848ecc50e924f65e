"""Draws cartoon faces whose shapes, and nothing else, encode three labels.

- Age: the dial around the head. It starts at the top, grows down both sides and
  closes at the bottom after 100 years. Both sides, so that a mirrored drawing
  keeps its label as a mirrored face does.
- Gender: the outline of the head, round (male) or square (female).
- Race: the pattern on the head: dots, chequers, stripes, zigzag or none.

Which shape stands for which class is arbitrary and imitates nobody. Colours,
background, position, size, light, gaze and mouth are drawn at random and say
nothing about the labels.
"""

from __future__ import annotations

import colorsys
import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw

AGES = (1, 100)
_DIAL_YEARS = 100
# Shapes are drawn this many times larger and then reduced: Pillow draws hard
# edges.
_OVERSAMPLING = 3
_JPEG_QUALITY = 92
# Hues from green over blue to violet, so that no colour is one of skin.
_HUES = (0.25, 0.83)
_INK = (38, 34, 66)
_SHADOW = [round(0.2 * value) for value in range(256)]

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Face:
    """A drawing and what it shows.

    Attributes:
        jpeg: encoded image, RGB.
        age: whole years from 1 to 100.
        gender: class index, 0 or 1.
        race: class index, 0 to 4.
        eyes: centres of the left and the right one, as the viewer sees them, in
            pixels from the left and the top.
    """

    jpeg: bytes
    age: int
    gender: int
    race: int
    eyes: tuple[tuple[float, float], tuple[float, float]]


def draw_face(seed: int, number: int, size: int = 96) -> Face:
    """Draws face `number` of the endless series that belongs to `seed`.

    Args:
        seed: at least 0; the same numbers give the same face.
        number: at least 0. Every age, gender and race is equally likely.
        size: side in pixels.
    """
    random = np.random.default_rng([seed, number])
    age = int(random.integers(AGES[0], AGES[1] + 1))
    gender = int(random.integers(len(_OUTLINES)))
    race = int(random.integers(len(_PATTERNS)))
    image, eyes = _draw(random, age, gender, race, size)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return Face(encoded.getvalue(), age, gender, race, eyes)


def _draw(
    random: np.random.Generator, age: int, gender: int, race: int, size: int
) -> tuple[Image.Image, tuple[tuple[float, float], tuple[float, float]]]:
    side = size * _OVERSAMPLING
    hue = random.uniform(*_HUES)
    other_hue = _HUES[0] + (hue - _HUES[0] + random.uniform(0.15, 0.4)) % (
        _HUES[1] - _HUES[0]
    )
    canvas = _background(random, side)
    pen = ImageDraw.Draw(canvas)
    radius = side * random.uniform(0.25, 0.29)
    centre = side * (0.5 + random.uniform(-0.045, 0.045, size=2))

    _draw_dial(pen, centre, 1.5 * radius, age, _colour(other_hue, 0.75, 0.8))

    head = Image.new("L", canvas.size)
    _OUTLINES[gender](ImageDraw.Draw(head), centre, radius)
    shadow = ImageChops.offset(head, 0, round(side * 0.02))
    canvas.paste(_INK, mask=shadow.point(_SHADOW))
    light = random.uniform(0.8, 0.95)
    canvas.paste(_colour(hue, random.uniform(0.25, 0.4), light), mask=head)

    pattern = Image.new("L", canvas.size)
    _PATTERNS[race](ImageDraw.Draw(pattern), centre, radius)
    canvas.paste(
        _colour(hue, 0.65, light * random.uniform(0.65, 0.8)),
        mask=ImageChops.multiply(pattern, head),
    )
    _draw_features(pen, centre, radius, random)
    image = _lit(canvas.resize((size, size), Image.Resampling.BOX), random)
    left, right = (_eye(centre, radius, end) / _OVERSAMPLING for end in (-1, 1))
    return image, (tuple(left.tolist()), tuple(right.tolist()))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _background(random: np.random.Generator, side: int) -> Image.Image:
    """A pale gradient with a few paler discs in it."""
    hue = random.uniform(*_HUES)
    ends = [
        _colour(hue, random.uniform(0.05, 0.25), random.uniform(0.85, 1)) for _ in "ab"
    ]
    canvas = Image.new("RGB", (1, 2))
    canvas.putdata(ends)
    canvas = canvas.resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for _ in range(random.integers(0, 4)):
        _draw_disc(
            pen,
            random.uniform(0, side, size=2),
            side * random.uniform(0.05, 0.2),
            (255, 255, 255, 70),
        )
    return canvas


def _draw_disc(pen: ImageDraw.ImageDraw, centre, radius: float, fill) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _draw_dial(pen, centre, radius: float, age: int, colour: Colour) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    width = max(1, round(radius * 0.14))
    # Pillow counts degrees from three o'clock.
    pen.arc(box, 0, 360, fill=(255, 255, 255), width=width)
    half = 180 * age / _DIAL_YEARS
    pen.arc(box, -90 - half, -90 + half, fill=colour, width=width)


def _draw_round(pen, centre, radius: float) -> None:
    _draw_disc(pen, centre, radius * 1.08, 255)


def _draw_square(pen, centre, radius: float) -> None:
    x, y = centre
    half = radius * 0.96
    pen.rounded_rectangle(
        (x - half, y - half, x + half, y + half), radius=radius * 0.22, fill=255
    )


def _draw_dots(pen, centre, radius: float) -> None:
    step = radius * 0.42
    for row, column in _grid(5):
        shifted = column + 0.5 * (row % 2)
        _draw_disc(pen, centre + step * np.array([shifted, row]), step * 0.3, 255)


def _draw_chequers(pen, centre, radius: float) -> None:
    step = radius * 0.42
    for row, column in _grid(5):
        if (row + column) % 2:
            x, y = centre + step * np.array([column, row])
            pen.rectangle((x, y, x + step, y + step), fill=255)


def _draw_stripes(pen, centre, radius: float) -> None:
    step = radius * 0.46
    for column in range(-4, 5):
        x = centre[0] + step * (column - 0.22)
        pen.rectangle(
            (x, centre[1] - 2 * radius, x + step * 0.44, centre[1] + 2 * radius),
            fill=255,
        )


def _draw_zigzag(pen, centre, radius: float) -> None:
    step = radius * 0.5
    for row in range(-3, 4):
        points = [
            (
                centre[0] + step * 0.5 * corner,
                centre[1] + step * (row + 0.4 * (corner % 2)),
            )
            for corner in range(-6, 7)
        ]
        pen.line(points, fill=255, width=round(step * 0.36), joint="curve")


def _draw_nothing(pen, centre, radius: float) -> None:
    pass


def _grid(reach: int):
    return (
        (row, column)
        for row in range(-reach, reach + 1)
        for column in range(-reach, reach + 1)
    )


def _eye(centre, radius: float, side: int) -> np.ndarray:
    """Centre of the left (-1) or the right (1) eye."""
    return centre + radius * np.array([0.36 * side, -0.18])


def _draw_features(pen, centre, radius: float, random: np.random.Generator) -> None:
    """Two eyes and a mouth: what makes it a face, the same for all labels."""
    gaze = random.uniform(-0.05, 0.05, size=2)
    for side in (-1, 1):
        eye = _eye(centre, radius, side)
        _draw_disc(pen, eye, radius * 0.25, (255, 255, 255))
        _draw_disc(pen, eye + radius * gaze, radius * 0.13, _INK)
        _draw_disc(
            pen,
            eye + radius * (gaze + [0.04, -0.05]),
            radius * 0.045,
            (255, 255, 255),
        )
    x, y = centre + radius * np.array([0, 0.3])
    wide = radius * random.uniform(0.22, 0.36)
    high = radius * random.uniform(0.08, 0.3)
    pen.chord((x - wide, y - high, x + wide, y + high), 0, 180, fill=_INK)


def _lit(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Light from one side, and a little more or less of it."""
    size = image.width
    angle = random.uniform(0, 2 * math.pi)
    across = np.linspace(-1, 1, size)
    slope = np.cos(angle) * across[None, :] + np.sin(angle) * across[:, None]
    light = random.uniform(0.85, 1.0) * (1 + random.uniform(0, 0.12) * slope)
    pixels = np.asarray(image, np.float64) * light[..., None]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


_OUTLINES: tuple[Callable, ...] = (_draw_round, _draw_square)
_PATTERNS: tuple[Callable, ...] = (
    _draw_dots,
    _draw_chequers,
    _draw_stripes,
    _draw_zigzag,
    _draw_nothing,
)
