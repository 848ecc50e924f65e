"""The one door from the bytes of a picture to its pixels, without TensorFlow.

    decode -> square -> resize

Training, evaluation and photographs all come this way. `graph_decoding` does the same
in TensorFlow for the graph of an exported SavedModel; of a whole JPEG or PNG both give
the same pixels, bit for bit: tests/unit/test_decoding.py holds them together.

PNG and WebP files that end early are made whole first: their decoders refuse them,
though most of the picture may be there. What is missing becomes grey, as in JPEGs,
which libjpeg reads by itself.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import JpegImagePlugin, PngImagePlugin

from hydranet_tf.data import formats
from hydranet_tf.data.formats import MAX_PIXELS, PNG_SIGNATURE, PictureError, check_size

ORIENTATION_TAG = 0x0112
TIFF_ENTRY_BYTES = 12
MAX_TIFF_ENTRIES = 256
_LONG = 4
# How `Decoded.damage` begins where the file ends early.
TRUNCATED = "truncated"
# Of libjpeg: what it decodes all the same, and TensorFlow with it.
_WARNINGS = (
    "Corrupt JPEG data",
    "Inconsistent progression sequence",
    "Invalid SOS parameters",
    "Unknown Adobe color transform",
    "Warning: unknown JFIF revision",
)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

# glibc's malloc gives a resize's memory back to the system at every call, and to fetch
# it again, page by page, took five times as long as the arithmetic. It keeps what is
# smaller than a piece that it has seen freed: 4 MiB.
np.empty(2**20, np.float32)

# How what is said of files that end early begins, as in libjpeg's words.
ENDS_EARLY = "Premature end of"
GREY = 128
# By colour type (PNG 3rd edition, 11.2.1): samples of a pixel.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE, _GREY_ALPHA, _RGBA = 3, 4, 6
# Black and white by turns, a third, and 8 of 15.
_GREY_BELOW_8 = {1: b"\x55", 2: b"\x55", 4: b"\x88"}
# A file of some bytes may claim gigabytes.
_MOST_MISSING = 16
# What is made up in the place of missing bytes of a WebP, and so many times as much.
_PADS, _LONGER = (0x00, 0xAA), 8


class Filter(NamedTuple):
    """Which old rows make each new one, and with what weight.

    Attributes:
        taps: int32 `[taps, new]`, the old row of each weight, ascending.
        weights: float32 `[taps, new]`, 0 where a new row needs fewer taps.
    """

    taps: np.ndarray
    weights: np.ndarray


class Decoded(NamedTuple):
    """What could be read of a picture.

    Attributes:
        image: uint8 `[height, width, 3]`, RGB, upright.
        damage: what was wrong with the file, in words; None for a whole one.
    """

    image: np.ndarray
    damage: str | None


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a whole picture and turns it upright.

    Of a JPEG passes what TensorFlow decodes, too, errors within its data included.
    Alpha is laid over white, and the EXIF orientation honoured. Of several pages or
    frames the first is taken.

    Args:
        encoded: the bytes of a file of one of `formats.PICTURES`; its name counts
            for nothing.
        max_pixels: what declares more is not decoded.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        PictureError: if it is damaged, no picture, or out of bounds.
    """
    image, damage = _decode(encoded, max_pixels)
    if damage and not damage.startswith(_WARNINGS):
        kind = formats.kind(encoded[: formats.HEAD_BYTES])
        raise PictureError(f"damaged {kind}: {damage}")
    return image


def decode_damaged(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """As `decode`, but reads a truncated or damaged picture as far as it goes.

    That is of truncated JPEG, PNG and WebP files, and of damaged JPEGs. What is missing
    is grey.
    """
    image, damage = _decode(encoded, max_pixels)
    if damage:
        is_truncated = damage.startswith(ENDS_EARLY)
        damage = f"{TRUNCATED if is_truncated else 'damaged'}: {damage}"
    return Decoded(image, damage)


def _decode(encoded: bytes, max_pixels: int) -> tuple[np.ndarray, str | None]:
    kind = formats.kind(encoded[: formats.HEAD_BYTES])
    if kind not in formats.PICTURES:
        raise formats.unknown(encoded)
    damage = None
    try:
        if kind == formats.JPEG:
            image, damage = _decode_jpeg(encoded, max_pixels)
            exif = _exif_of_jpeg(encoded)
        elif kind == formats.PNG:
            whole, damage = whole_png(encoded, max_pixels)
            image = _decode_png(whole, max_pixels)
            exif = _exif_of_png(whole)
        elif kind == formats.WEBP and is_cut_webp(encoded):
            image, damage = cut_webp(
                encoded, lambda whole: _decode_by_pillow(whole, kind, max_pixels)[0]
            )
            # It stands behind the pixels.
            exif = b""
        else:
            image, exif = _decode_by_pillow(encoded, kind, max_pixels)
    except PictureError:
        raise
    # Pillow raises a dozen kinds on damage.
    except Exception as error:
        raise formats.damaged(kind, error) from error
    image = _upright(image, _orientation(exif.removeprefix(b"Exif\0\0")))
    return np.ascontiguousarray(image), damage


def _decode_by_pillow(
    encoded: bytes, kind: str, max_pixels: int
) -> tuple[np.ndarray, bytes]:
    """Pixels, and the EXIF that they are to be turned by."""
    opened = formats.open_image(encoded, kind)
    formats.check_size(opened.height, opened.width, max_pixels)
    opened.load()
    # Pillow turns a TIFF itself, and pillow-heif a HEIC.
    turned = kind in (formats.TIFF, formats.HEIC)
    exif = b"" if turned else opened.info.get("exif", b"")
    return formats.pixels_of(opened), exif


def decode_and_resize(encoded: bytes, size: int) -> np.ndarray:
    """Decodes a picture and brings it to a network's input size.

    Returns:
        uint8 `[size, size, 3]`, RGB.

    Raises:
        PictureError: see `decode`.
    """
    return resize(square(decode(encoded)), size)


def _decode_jpeg(encoded: bytes, max_pixels: int) -> tuple[np.ndarray, str | None]:
    """Pixels, and what libjpeg said about them: one of its warnings, or an error."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError) as error:
        # TurboJPEG knows the usual kinds of subsampling alone, and gives simplejpeg -1
        # for others; or the file ends before it says which.
        if isinstance(error, ValueError) and "subsampling" not in str(error):
            raise
        if not any(marker == _START_OF_SCAN for marker, _ in _segments(encoded)):
            raise PictureError("truncated JPEG: it ends before its pixels") from None
        return _decode_jpeg_leniently(encoded, max_pixels), None
    formats.check_size(height, width, max_pixels)
    is_cmyk = colours not in ("YCbCr", "RGB", "Gray")
    space = "CMYK" if is_cmyk else "RGB"
    damage = None
    try:
        image = simplejpeg.decode_jpeg(encoded, space)
    except ValueError as error:
        damage = str(error)
        # After an error, what was not reached stays as it is here.
        image = np.full((height, width, 4 if is_cmyk else 3), GREY, np.uint8)
        try:
            simplejpeg.decode_jpeg(encoded, space, buffer=image, strict=False)
        except ValueError:
            # It is as strict as ever about headers.
            return _decode_jpeg_leniently(encoded, max_pixels), damage
        if (image == GREY).all():
            raise
    return (_inks_to_rgb(image, encoded) if is_cmyk else image), damage


def _decode_jpeg_leniently(encoded: bytes, max_pixels: int) -> np.ndarray:
    """The same libjpeg-turbo with fewer conditions, and no word on its warnings."""
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
    formats.check_size(image.height, image.width, max_pixels)
    return formats.pixels_of(image)


def _inks_to_rgb(inks: np.ndarray, encoded: bytes) -> np.ndarray:
    """As TensorFlow does. Adobe stores inks inverted, and all others like Adobe do."""
    has_adobe_marker = any(
        marker == 0xEE and segment.startswith(b"Adobe")
        for marker, segment in _segments(encoded)
    )
    rgb = np.empty((*inks.shape[:2], 3), np.uint8)
    for old, new in zip(inks, rgb, strict=True):
        row = old.astype(np.uint16) if has_adobe_marker else np.uint16(255) - old
        new[:] = row[:, :3] * row[:, 3:] // 255
    return rgb


def _decode_png(encoded: bytes, max_pixels: int) -> np.ndarray:
    # Loading alone passes over checksums of pixels.
    PngImagePlugin.PngImageFile(io.BytesIO(encoded)).verify()
    image = PngImagePlugin.PngImageFile(io.BytesIO(encoded))
    formats.check_size(image.height, image.width, max_pixels)
    image.load()
    bits, is_grey = encoded[24], encoded[25] == 0
    # Known for sure only now: the chunk may come late.
    colour_key = image.info.get("transparency")
    if colour_key is not None and bits < 8 and is_grey:
        # TensorFlow takes these as opaque.
        del image.info["transparency"]
    elif colour_key is not None and bits == 16:
        if not is_grey:
            raise PictureError("a colour key of 16 bits is not supported: save it anew")
        levels = np.asarray(image)
        alpha = np.where(levels == colour_key, 0, 255).astype(np.uint8)
        grey = formats.grey((levels >> 8).astype(np.uint8))
        return formats.over_white(np.dstack([grey, alpha]))
    return formats.pixels_of(image)


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


def _segments(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and contents of a JPEG's segments up to its pixels (ITU-T T.81, B.1)."""
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # Padding.
            at += 1
            continue
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        yield marker, encoded[at + 4 : end]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return
        at = end


def _exif_of_jpeg(encoded: bytes) -> bytes:
    """The TIFF structure of EXIF 2.32, 4.5.2; empty where there is none."""
    name = b"Exif\0\0"
    # Most training images have none, and this is fast.
    if name not in encoded:
        return b""
    for marker, segment in _segments(encoded):
        if marker == 0xE1 and segment.startswith(name):
            return segment
    return b""


def _exif_of_png(encoded: bytes) -> bytes:
    """The chunk eXIf, before the pixels or after them (PNG 3rd edition, 11.3.4.5)."""
    if b"eXIf" not in encoded:
        return b""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(encoded):
        size = int.from_bytes(encoded[at : at + 4], "big")
        if encoded[at + 4 : at + 8] == b"eXIf":
            return encoded[at + 8 : at + 8 + size]
        at += size + 12
    return b""


def _orientation(tiff: bytes) -> int:
    """EXIF orientation 1..8; 1 where there is none or it makes no sense."""
    order: Literal["little", "big"] = "little" if tiff[:1] == b"I" else "big"

    def number(position: int, size: int = 2) -> int:
        # Offsets come from the file and may be wild: beyond it all is zero.
        return int.from_bytes(
            tiff[position : position + size].ljust(size, b"\0"), order
        )

    directory = number(4, 4)
    for entry in range(min(number(directory), MAX_TIFF_ENTRIES)):
        place = directory + 2 + TIFF_ENTRY_BYTES * entry
        if number(place) == ORIENTATION_TAG:
            # A SHORT stands at the beginning of its four bytes in either order.
            value = number(place + 8, 4 if number(place + 2) == _LONG else 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    # As in `graph_decoding`: EXIF 2.32, 4.6.4 A. OpenCV's is fast on large pictures.
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (3, 7):
        return cv2.flip(image, -1)
    if orientation in (2, 6):
        return cv2.flip(image, 1)
    if orientation in (4, 8):
        return cv2.flip(image, 0)
    return image


def whole_png(encoded: bytes, max_pixels: int) -> tuple[bytes, str | None]:
    """A PNG file with all of its rows.

    Args:
        encoded: the bytes of a PNG file.
        max_pixels: what declares more is not unpacked.

    Returns:
        The same bytes and None; or, of a file that ends early, those of another with
        grey rows in the place of the missing ones, and what is missing.

    Raises:
        PictureError: if nothing of the picture is there, or it is interlaced: then
            every row lacks pixels.
    """
    found = list(_chunks(encoded))
    if found and found[-1].kind == b"IEND":
        return encoded, None
    for one in found:
        if one.checksum and one.checksum != _checksum(one.kind, one.content):
            raise PictureError(f"damaged PNG: a wrong checksum in {one.kind!r}")
    chunks = [one[:2] for one in found]
    kinds = [kind for kind, _ in chunks]
    if b"IDAT" not in kinds or kinds[0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise PictureError("truncated PNG: it ends before its pixels")
    width, height, bits, colours, _, _, is_interlaced = struct.unpack(
        ">IIBBBBB", chunks[0][1]
    )
    check_size(height, width, max_pixels)
    if is_interlaced or colours not in _SAMPLES:
        raise PictureError("truncated PNG, interlaced: every row lacks pixels")
    packed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    row = 1 + (width * bits * _SAMPLES[colours] + 7) // 8
    rows = zlib.decompressobj().decompress(packed, row * height)
    there = len(rows) // row
    if not there:
        raise PictureError("truncated PNG: it ends before its pixels")
    grey = _grey_row(width, bits, colours)
    rows = rows[: there * row] + grey * (height - there)
    before = chunks[: kinds.index(b"IDAT")]
    written = [*before, (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    content = PNG_SIGNATURE + b"".join(_chunk(*one) for one in written)
    return content, f"{ENDS_EARLY} PNG file: {there} of {height} rows are there"


class _Chunk(NamedTuple):
    """A part of a PNG file.

    Attributes:
        kind: four letters.
        content: of pixels that break off, what is there.
        checksum: as it stands in the file; None where that broke off.
    """

    kind: bytes
    content: bytes
    checksum: bytes | None


def _chunks(encoded: bytes) -> Iterator[_Chunk]:
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(encoded):
        end = at + 8 + int.from_bytes(encoded[at : at + 4], "big")
        kind = encoded[at + 4 : at + 8]
        is_whole = end + 4 <= len(encoded)
        if is_whole or kind == b"IDAT":
            checksum = encoded[end : end + 4] if is_whole else None
            yield _Chunk(kind, encoded[at + 8 : end], checksum)
        if kind == b"IEND":
            return
        at = end + 4


def _checksum(kind: bytes, content: bytes) -> bytes:
    return zlib.crc32(kind + content).to_bytes(4, "big")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + _checksum(kind, content)


def _grey_row(width: int, bits: int, colours: int) -> bytes:
    """A row without a filter; of a palette its first colour."""
    if colours == _PALETTE:
        return bytes(1 + (width * bits + 7) // 8)
    sample = bytes([GREY] * (bits // 8)) if bits >= 8 else _GREY_BELOW_8[bits]
    if colours in (_GREY_ALPHA, _RGBA):
        opaque = b"\xff" * (bits // 8)
        return b"\0" + (sample * (_SAMPLES[colours] - 1) + opaque) * width
    if bits < 8:
        return b"\0" + sample * ((width * bits + 7) // 8)
    return b"\0" + sample * _SAMPLES[colours] * width


def is_cut_webp(encoded: bytes) -> bool:
    """Whether a WebP file is shorter than it says."""
    return _missing_of_webp(encoded) > 0


def _missing_of_webp(encoded: bytes) -> int:
    # What follows the first eight bytes has this size (RFC 9649, 2.4).
    return 8 + int.from_bytes(encoded[4:8], "little") - len(encoded)


def cut_webp(
    encoded: bytes, decode: Callable[[bytes], np.ndarray]
) -> tuple[np.ndarray, str]:
    """Decodes what is there of a WebP file.

    libwebp decodes no part of a file. So the missing bytes are made up, in two ways:
    what comes out the same in both is the picture's.

    Args:
        encoded: the bytes of a WebP file that ends early.
        decode: of a whole one, to `[height, width, 3]`.

    Returns:
        Pixels, and what is missing.

    Raises:
        PictureError: if nothing of the picture is there.
    """
    missing = _missing_of_webp(encoded)
    size = len(encoded) + missing
    ends = f"truncated WebP: {len(encoded):,} of its {size:,} bytes are there"
    if missing > _MOST_MISSING * len(encoded):
        raise PictureError(ends)
    try:
        first, second = (decode(_padded_webp(encoded, missing, pad)) for pad in _PADS)
    except PictureError:
        raise
    # Pillow raises a dozen kinds on damage.
    except Exception as error:
        raise PictureError(f"{ends}, too few to decode it") from error
    differs = (first != second).any(axis=(1, 2))
    there = int(differs.argmax()) if differs.any() else len(first)
    if not there:
        raise PictureError(f"{ends}, too few to decode it")
    image = first.copy()
    image[there:] = GREY
    return image, f"{ENDS_EARLY} WebP file: {there} of {len(image)} rows are there"


def _padded_webp(encoded: bytes, missing: int, pad: int) -> bytes:
    """With a last chunk that is long enough for whatever the padding stands for.

    Made up pixels take more bits than real ones.
    """
    count = missing + _LONGER * missing + 1024
    content = bytearray(encoded + bytes([pad]) * (count + (count + len(encoded)) % 2))
    content[4:8] = (len(content) - 8).to_bytes(4, "little")
    at = 12
    while at + 8 <= len(encoded):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        following = at + 8 + size + size % 2
        if following > len(encoded):
            content[at + 4 : at + 8] = (len(content) - at - 8).to_bytes(4, "little")
        at = following
    return bytes(content)
