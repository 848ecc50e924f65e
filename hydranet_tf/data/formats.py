"""What kind of file some bytes are, and the pixels of those that are pictures.

JPEG and PNG have a way of their own in `pixels`, because training and served graphs
agree on them bit for bit. All other pictures are read by Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    TiffImagePlugin,
    WebPImagePlugin,
)

from hydranet_tf import errors
from hydranet_tf.errors import HydraNetError

# Nothing of a face is left below this; such files are icons or damaged.
MIN_SIDE = 8
# A few hundred bytes can declare gigabytes of pixels. 100 megapixels pass most
# cameras' output and bound what one image takes: 300 MB.
MAX_PIXELS = 100_000_000
# `kind` asks for no more.
HEAD_BYTES = 64

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

JPEG, PNG, WEBP, AVIF, BMP, TIFF, GIF, HEIC = PICTURES = (
    "JPEG", "PNG", "WebP", "AVIF", "BMP", "TIFF", "GIF", "HEIC"
)  # fmt: skip

VIDEO = "video"
# Of an ISO base media file without `ftyp`, as early QuickTime has it.
_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip")

# Pictures that are not read, and what is found in folders of pictures.
_OTHERS = (
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    # "._x.jpg" beside "x.jpg", where macOS keeps what other systems have no place for.
    (b"\0\x05\x16\x07", "macOS metadata"),
    (b"PK\x03\x04", "ZIP"),
    (b"<?xml", "XML"),
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"version https://git-lfs", "Git LFS pointer"),
    # Matroska and WebM, MPEG, Flash, Windows Media.
    (b"\x1aE\xdf\xa3", VIDEO),
    (b"\0\0\x01\xba", VIDEO),
    (b"\0\0\x01\xb3", VIDEO),
    (b"FLV\x01", VIDEO),
    (b"0&\xb2u\x8ef\xcf\x11", VIDEO),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706

_PLUGINS = {
    WEBP: WebPImagePlugin.WebPImageFile,
    AVIF: AvifImagePlugin.AvifImageFile,
    BMP: BmpImagePlugin.BmpImageFile,
    TIFF: TiffImagePlugin.TiffImageFile,
    GIF: GifImagePlugin.GifImageFile,
}


class PictureError(HydraNetError, ValueError):
    """A picture that cannot be read; the message says why."""


class TooLargeError(PictureError):
    """A picture that declares more pixels than are decoded."""


def kind(head: bytes) -> str | None:
    """What a file is, by how it begins.

    Args:
        head: the first `HEAD_BYTES` of a file, or more.

    Returns:
        One of `PICTURES`, the name of something else, or None where it is unknown.
    """
    if head.startswith(JPEG_SIGNATURE):
        return JPEG
    if head.startswith(PNG_SIGNATURE):
        return PNG
    if head.startswith(b"RIFF"):
        return {b"WEBP": WEBP, b"AVI ": VIDEO}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _kind_by_brand(head)
    if head[4:8] in _QUICKTIME:
        return VIDEO
    if head.startswith(b"BM") and len(head) > 17 and head[14:18] > b"\0\0\0\0":
        # The size of the header that follows; text may begin with these letters, too.
        return BMP if int.from_bytes(head[14:18], "little") in range(12, 256) else None
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "camera raw" if head[8:10] == b"CR" else TIFF
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, name in _OTHERS:
        if head.startswith(signature) or start.startswith(signature.lower()):
            return name
    return None


def _kind_by_brand(head: bytes) -> str:
    """Of an ISO base media file (ISO/IEC 14496-12): box size, `ftyp`, brands."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return AVIF
        if brand in _HEIC_BRANDS:
            return HEIC
    if head[8:12] == b"crx ":
        return "camera raw"
    return HEIC if head[8:12] in (b"mif1", b"msf1") else VIDEO


def unknown(encoded: bytes) -> PictureError:
    """The error for bytes that are not a picture."""
    if not encoded:
        return PictureError("the file is empty")
    found = kind(encoded[:HEAD_BYTES])
    begins = f"a file of the kind {found}" if found else f"{encoded[:8]!r}..."
    return PictureError(
        f"expected a picture ({', '.join(PICTURES[:-1])} or {HEIC}); the content is "
        f"{begins}"
    )


def check_size(height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuses a picture by its declared size, before anything is decoded.

    Raises:
        PictureError: if a side is below `MIN_SIDE`, or there are too many pixels.
    """
    is_large = height * width > max_pixels
    if min(height, width) < MIN_SIDE or is_large:
        raise (TooLargeError if is_large else PictureError)(
            f"expected an image with sides of at least {MIN_SIDE} pixels and at most "
            f"{max_pixels} pixels in all; height and width are [{height} {width}]"
        )


def open_image(encoded: bytes, found: str) -> Image.Image:
    """Reads the header of a picture that is neither JPEG nor PNG.

    Args:
        encoded: the bytes of a file.
        found: its `kind`, one of `PICTURES`.

    Raises:
        PictureError: if it is damaged, or its reader is not installed.
    """
    try:
        # Not by Image.open, whose warning about large pictures is one process's
        # setting and comes at another size than ours.
        image = _plugin(found)(io.BytesIO(encoded))
    # Pillow's plugins raise a dozen kinds on damage.
    except Exception as error:
        if isinstance(error, PictureError):
            raise
        raise damaged(found, error) from error
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_thumbnail(image)
    return image


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image: grey, palette, alpha, CMYK and 16 bits, too.

    Alpha is laid over white; of 16 bits the upper eight are taken.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        PictureError: for modes whose levels have no known range.
    """
    if image.mode.startswith("I;16"):
        return grey((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise PictureError(
            f"expected levels of 8 or 16 bits; got an image of Pillow's mode "
            f"{image.mode}: convert it to RGB first"
        )
    if image.has_transparency_data:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def grey(levels: np.ndarray) -> np.ndarray:
    """From `[height, width]` to `[height, width, 3]`."""
    return np.repeat(levels[..., np.newaxis], 3, axis=2)


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Lays uint8 `[height, width, 4]` over white, in float32 as a served graph does."""
    result = np.empty((*rgba.shape[:2], 3), np.uint8)
    for rows in _strips(*rgba.shape[:2]):
        some = rgba[rows].astype(np.float32)
        alpha = some[..., 3:] / np.float32(255)
        blended = some[..., :3] * alpha + np.float32(255) * (1 - alpha)
        result[rows] = np.rint(blended)
    return result


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a megapixel at a time: whole pictures in float32 would fill gigabytes."""
    step = max(1, 2**20 // width)
    return (slice(start, start + step) for start in range(0, height, step))


def damaged(found: str, error: BaseException) -> PictureError:
    """The error for a picture that its decoder gave up on."""
    reason = " ".join((str(error) or type(error).__name__).split())
    return PictureError(f"damaged {found}: {reason}")


def _plugin(found: str) -> Callable[[io.BytesIO], Image.Image]:
    if found != HEIC:
        return _PLUGINS[found]
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise PictureError(
            f"HEIC needs pillow-heif: {errors.installation('heic')}"
        ) from None
    return HeifImageFile


def _refuse_thumbnail(image: TiffImagePlugin.TiffImageFile) -> None:
    """The first page of most cameras' raw files is a stamp of a few hundred pixels."""
    tags = image.tag_v2
    if tags.get(_SUBFILE_TYPE, 0) & 1 or _DNG_VERSION in tags:
        raise PictureError(
            "expected a picture; got a camera's raw file, of which only a preview can "
            "be read: export it as JPEG or TIFF"
        )
