"""The pixels of `preprocessing` for one picture, without TensorFlow.

A command that answers for a photograph shall not wait seconds for a framework to
be imported, nor run fifty of its operations to read one file. Both modules give
the same pixels, bit for bit; tests/test_pixels.py holds them together. What is
damaged or out of the ordinary is left to `preprocessing`, whose word on it counts.
"""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import PngImagePlugin

# A few hundred bytes can declare gigabytes of pixels. 100 megapixels pass
# every phone camera's usual output and bound what one image takes: 300 MB of
# pixels, and 3.2 GB at the peak for a PNG, whose alpha is laid over white.
MAX_PIXELS = 100_000_000
# Nothing of a face is left below this; such files are icons or damaged.
MIN_SIDE = 8

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# EXIF stands in the first segments of a file, and a JPEG segment ends before
# 64 KiB; what begins later than this is not looked for.
EXIF_WINDOW = 68 * 1024
ORIENTATION_TAG = 0x0112
TIFF_ENTRY_BYTES = 12
MAX_TIFF_ENTRIES = 256

# glibc's malloc gives a resize's memory back to the system at every call, and to fetch
# it again, page by page, took five times as long as the arithmetic. It keeps what is
# smaller than a piece that it has seen freed: 4 MiB.
np.empty(2**20, np.float32)


class Filter(NamedTuple):
    """Which old rows make each new one, and with what weight.

    Attributes:
        taps: int32 `[taps, new]`, the old row of each weight, ascending.
        weights: float32 `[taps, new]`, 0 where a new row needs fewer taps.
    """

    taps: np.ndarray
    weights: np.ndarray


# Followed by the number of bytes.
NO_PICTURE = (
    "expected the bytes of a JPEG or PNG image; got bytes that begin like neither, of "
    "the length"
)


def decode(encoded: bytes) -> np.ndarray | None:
    """Decodes a common, whole picture and turns it upright.

    Args:
        encoded: the bytes of a file.

    Returns:
        uint8 `[height, width, 3]`, RGB, as `preprocessing.decode` gives; None
        where that has to be asked: for CMYK, palettes, 16 bits, colour keys,
        animations, damage, sides out of bounds, and what is no JPEG or PNG.
    """
    try:
        if encoded.startswith(JPEG_SIGNATURE):
            image = _decode_jpeg(encoded)
        elif encoded.startswith(PNG_SIGNATURE):
            image = _decode_png(encoded)
        else:
            return None
        if image is None:
            return None
        orientation = _orientation(encoded)
    # Pillow raises a dozen kinds on damage.
    except Exception:
        return None
    return np.ascontiguousarray(_upright(image, orientation))


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    if colours not in ("YCbCr", "RGB", "Gray") or not _fits(height, width):
        return None
    # Strict is the default: what libjpeg would only warn of is damage here.
    return simplejpeg.decode_jpeg(encoded)


def _decode_png(encoded: bytes) -> np.ndarray | None:
    # Loading alone passes over checksums of pixels.
    PngImagePlugin.PngImageFile(io.BytesIO(encoded)).verify()
    image = PngImagePlugin.PngImageFile(io.BytesIO(encoded))
    is_common = (
        encoded[24] == 8  # Bits.
        and image.mode in ("RGB", "RGBA", "L", "LA")
        and not image.is_animated
    )
    width, height = image.size
    if not is_common or not _fits(height, width):
        return None
    image.load()
    # Known for sure only now: the chunk may come late.
    if "transparency" in image.info:
        return None
    if image.mode in ("RGB", "L"):
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
    alpha = rgba[..., 3:] / np.float32(255)
    over_white = rgba[..., :3] * alpha + np.float32(255) * (1 - alpha)
    return np.rint(over_white).astype(np.uint8)


def _fits(height: int, width: int) -> bool:
    return min(height, width) >= MIN_SIDE and height * width <= MAX_PIXELS


def square(image: np.ndarray) -> np.ndarray:
    """Cuts the largest centred square out of `[height, width, 3]`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _weighted_rows(image: np.ndarray, rows: Filter) -> np.ndarray:
    """Sums of rows of `[old, n]`, added from the first tap to the last.

    Returns:
        float32 `[new, n]`.
    """
    found = np.zeros((rows.taps.shape[1], image.shape[1]), np.float32)
    for taps, weights in zip(*rows, strict=True):
        found += weights[:, np.newaxis] * image[taps]
    return found


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 `[h, w, 3]` to uint8 `[size, size, 3]`: bilinear, antialiased.

    In float32 and in the order in which TensorFlow's ScaleAndTranslate adds:
    first along columns, then along rows. Where a processor's compiler joined
    products and sums (ARM), single values may differ by one. Who resizes many
    pictures takes `compiled_resize`.
    """
    height, width = image.shape[:2]
    rows = _weighted_rows(image.reshape(height, -1), resize_filter(height, size))
    # Turned, so that both sums run over long rows of values.
    columns = cv2.transpose(rows.reshape(size, width, 3)).reshape(width, -1)
    # Rounded, ties to even. Nothing is below zero.
    levels = cv2.convertScaleAbs(_weighted_rows(columns, resize_filter(width, size)))
    return cv2.transpose(levels.reshape(size, size, 3))


@functools.lru_cache(maxsize=256)
def resize_filter(old: int, new: int) -> Filter:
    """The triangle of Pillow and TensorFlow.

    It is as wide as a new pixel, and at least as wide as an old one.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = one / (np.float32(new) / np.float32(old))
    width = max(step, one)
    centre = (np.arange(new, dtype=np.float32) + half) * step
    first = np.clip(np.ceil(centre - width - half), 0, old - 1).astype(np.int32)
    last = np.clip(np.floor(centre + width - half), 0, old - 1).astype(np.int32)
    count = np.arange((last - first).max() + 1, dtype=np.int32)[:, np.newaxis]
    taps = first + count
    distance = (taps.astype(np.float32) + half - centre) * (one / width)
    weights = np.maximum(0, one - np.abs(distance)) * (taps <= last)
    # One after the other: numpy's sum would pair them.
    total = functools.reduce(np.add, weights)
    # A tap of no weight may lie outside the picture.
    return Filter(np.minimum(taps, old - 1), weights * (one / total))


def _orientation(encoded: bytes) -> int:
    """EXIF orientation 1..8, read as `preprocessing` does."""
    is_jpeg = encoded.startswith(JPEG_SIGNATURE)
    name = b"Exif\0\0" if is_jpeg else b"eXIf"
    if encoded.find(name, 0, EXIF_WINDOW) < 0:
        return 1
    # The padding is that of `preprocessing`, and so are all fixed bounds.
    window = (encoded[:EXIF_WINDOW] + b"\0" * 32)[:EXIF_WINDOW]
    at = window.find(name)
    tiff = window[at + len(name) :]
    order = "little" if tiff[:1] == b"I" else "big"
    last = len(tiff) - 1

    def uint16(position: int) -> int:
        # Offsets come from the file and may be wild.
        pair = tiff[min(position, last)], tiff[min(position + 1, last)]
        return int.from_bytes(bytes(pair), order)

    low, high = (4, 6) if order == "little" else (6, 4)
    directory = uint16(low) if uint16(high) == 0 else last
    for entry in range(min(uint16(directory), MAX_TIFF_ENTRIES)):
        place = directory + 2 + TIFF_ENTRY_BYTES * entry
        if uint16(place) == ORIENTATION_TAG:
            value = uint16(place + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    # As in `preprocessing`: EXIF 2.32, 4.6.4 A.
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
