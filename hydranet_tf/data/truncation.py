"""PNG and WebP files that end early, made whole so that a decoder takes them.

Both decoders refuse such a file, though most of the picture may be there. What is
missing becomes grey, as in JPEGs. libjpeg reads those by itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hydranet_tf.data.formats import PNG_SIGNATURE, PictureError, check_size

# How what is said of such files begins, as in libjpeg's words.
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
