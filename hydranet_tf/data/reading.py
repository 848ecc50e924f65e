"""A picture in whatever form it comes, to its pixels."""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hydranet_tf.data import decoding, formats
from hydranet_tf.data.decoding import Decoded
from hydranet_tf.data.formats import PictureError

Picture = (
    str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | np.ndarray
    | Image.Image
)  # fmt: skip

# Telephones with 200 megapixels exist. As RGB such a picture takes 600 MB.
MAX_PIXELS = 2**28
# Held while one of more than `formats.MAX_PIXELS` is decoded: a few small files that
# declare such sizes would fill the memory side by side.
_LARGE = threading.Lock()

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ARRAYS = (
    "expected pixels as uint8 0..255 of the shape [height, width, 3] (RGB, not "
    "OpenCV's BGR), [height, width, 4] (RGBA), [height, width] or [height, width, 1] "
    f"(grey), with sides of at least {formats.MIN_SIDE}"
)


def read(picture: Picture) -> Decoded:
    """The upright pixels of a picture.

    Args:
        picture: a path, a `data:` URI, the bytes of a file, a binary file object, an
            image of Pillow, or an array as numpy makes it: uint8 RGB, RGBA or grey.
            An array is taken as upright; of an image of Pillow EXIF's orientation is
            honoured.

    Returns:
        Pixels, and what was wrong where the file is damaged and was read as far as it
        goes.

    Raises:
        PictureError: if there are no pixels; the message says why.
    """
    if isinstance(picture, np.ndarray):
        return Decoded(_from_array(picture), None)
    if isinstance(picture, Image.Image):
        return Decoded(_from_pillow(picture), None)
    encoded = _encoded(picture)
    try:
        return decoding.decode_damaged(encoded)
    except formats.TooLargeError:
        with _LARGE:
            return decoding.decode_damaged(encoded, MAX_PIXELS)


def refuse_url(path: str) -> None:
    """Nothing is fetched from other machines: the pictures are looked at here.

    Raises:
        PictureError: if a path is a URL.
    """
    scheme = _URL.match(path)
    if not scheme or os.path.lexists(path):
        return
    if scheme[0].lower() == "file://":
        local = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        raise PictureError(f"expected a path, not a URL: {local}")
    raise PictureError(
        "expected a path; URLs are not fetched: download it first, for example "
        f"curl -fO '{path}'"
    )


def _encoded(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (bytearray, memoryview)):
        return bytes(picture)
    if hasattr(picture, "read"):
        content = picture.read()
        if not isinstance(content, bytes):
            raise PictureError(
                "expected a file object that is open for bytes: open(path, 'rb'); "
                f"its read() gave {type(content).__name__}"
            )
        return content
    if isinstance(picture, str):
        if picture[:5].lower() == "data:":
            return _from_data_uri(picture)
        refuse_url(picture)
    try:
        return Path(picture).read_bytes()
    except (OSError, ValueError) as error:
        # A ValueError is about a null byte in the name.
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"cannot be opened: {reason}") from error
    except TypeError:
        raise PictureError(
            "expected a path, the bytes of an image file, a binary file object, an "
            f"image of Pillow or an array; got {type(picture).__name__}"
        ) from None


def _from_data_uri(uri: str) -> bytes:
    """RFC 2397, with base64."""
    header, comma, content = uri.partition(",")
    try:
        if not comma or not header.lower().endswith(";base64"):
            raise ValueError("no ';base64,'")
        return base64.b64decode(urllib.parse.unquote(content), validate=True)
    except (ValueError, binascii.Error) as error:
        raise PictureError(
            "expected a data URI as data:image/jpeg;base64,...; got "
            f"{uri[:40]!r}...: {error}"
        ) from error


def _from_array(array: np.ndarray) -> np.ndarray:
    shape = array.shape
    is_grey = array.ndim == 2 or (array.ndim == 3 and shape[2] == 1)
    is_picture = is_grey or (array.ndim == 3 and shape[2] in (3, 4))
    if not is_picture or min(shape[:2]) < formats.MIN_SIDE or array.dtype != np.uint8:
        raise PictureError(
            f"{_ARRAYS}; got {array.dtype} {list(shape)}{_way_out(array)}"
        )
    if is_grey:
        return formats.grey(array.reshape(shape[:2]))
    if shape[2] == 4:
        return formats.over_white(array)
    return array


def _way_out(array: np.ndarray) -> str:
    """How to bring the levels of an array to 0..255.

    They are never guessed: a dark picture in 0..255 may have no level above 1.
    """
    if np.issubdtype(array.dtype, np.floating):
        return (
            ". Levels in 0..1: np.rint(255 * image).astype(np.uint8); levels in "
            "0..255: np.rint(image).astype(np.uint8)"
        )
    if array.dtype == np.uint16:
        return ". Levels of 16 bits: (image >> 8).astype(np.uint8)"
    if array.dtype == np.bool_:
        return ". A mask: image.astype(np.uint8) * 255"
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] > 4:
        return ". Channels first: image.transpose(1, 2, 0)"
    if array.ndim == 4:
        return ". A batch: pass a list of its pictures, list(images)"
    return ""


def _from_pillow(image: Image.Image) -> np.ndarray:
    formats.check_size(image.height, image.width, MAX_PIXELS)
    try:
        # A copy where it has to be turned; the caller's stays as it is.
        return formats.pixels_of(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damage.
        raise formats.damaged(image.format or "image", error) from error
