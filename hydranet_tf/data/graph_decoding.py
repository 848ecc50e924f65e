"""From encoded bytes to pixels in a TensorFlow graph.

decode -> orient -> centre-crop to a square -> antialiased resize -> uint8 RGB.

The exported SavedModel calls `decode_and_resize`. All that runs in Python gets the same
pixels, bit for bit, from `decoding`, which reads more formats. Pixels are RGB 0..255 at
every border; normalisation belongs to the network.
"""

from __future__ import annotations

import tensorflow as tf

from hydranet_tf.data.decoding import (
    MAX_TIFF_ENTRIES,
    ORIENTATION_TAG,
    TIFF_ENTRY_BYTES,
)
from hydranet_tf.data.formats import (
    JPEG_SIGNATURE,
    MAX_PIXELS,
    MIN_SIDE,
    PNG_SIGNATURE,
)

# EXIF stands in the first segments of a file, and a JPEG segment ends before
# 64 KiB; what begins later than this the graph does not look for.
EXIF_WINDOW = 68 * 1024


def decode_and_resize(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes one image and brings it to the network's input size.

    Args:
        encoded: scalar string, the bytes of a JPEG or PNG file: colour, grey,
            palette, CMYK, 16 bit, with or without alpha.
        size: side of the result in pixels.

    Returns:
        uint8 `[size, size, 3]`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not a complete JPEG or
            PNG, or the image has a side below `MIN_SIDE` or more than
            `MAX_PIXELS` pixels.
    """
    return resize(square(decode(encoded)), size)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one JPEG or PNG and turns it upright.

    The declared size is checked before anything is decoded. Alpha is laid
    over white. The EXIF orientation of either format is honoured.

    Args:
        encoded: scalar string.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: see `decode_and_resize`.
    """
    encoded = tf.convert_to_tensor(encoded)
    # Padding keeps every fixed-position read inside the string, so that a
    # file of three bytes meets our message and not an index error.
    padded = encoded + tf.constant(b"\0" * 32)
    is_jpeg = tf.equal(tf.strings.substr(padded, 0, 3), JPEG_SIGNATURE)
    is_png = tf.equal(tf.strings.substr(padded, 0, 8), PNG_SIGNATURE)
    known_format = _require(
        is_jpeg | is_png,
        "expected the bytes of a JPEG or PNG image; got bytes that begin like neither, "
        "of the length",
        tf.strings.length(encoded),
    )
    with tf.control_dependencies(known_format):
        shape = tf.cond(
            is_jpeg,
            lambda: tf.image.extract_jpeg_shape(encoded)[:2],
            lambda: _png_shape(padded),
        )
    sides_fit = _require(
        (tf.reduce_min(shape) >= MIN_SIDE)
        & (tf.reduce_prod(tf.cast(shape, tf.int64)) <= MAX_PIXELS),
        f"expected an image with sides of at least {MIN_SIDE} pixels and at most "
        f"{MAX_PIXELS} pixels in all; height and width are",
        shape,
    )
    with tf.control_dependencies(sides_fit):
        image = tf.cond(
            is_jpeg,
            lambda: _decode_jpeg(encoded),
            lambda: _decode_png(encoded, padded),
        )
    image.set_shape([None, None, 3])
    return _orient(image, _orientation(padded, is_jpeg))


def square(image: tf.Tensor) -> tf.Tensor:
    """Cuts the largest centred square out of `[height, width, 3]`."""
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 `[h, w, 3]` to uint8 `[size, size, 3]`.

    Bilinear with antialiasing (the filter widens as the image shrinks, as in
    Pillow), rounded to whole levels so that a cached image, a served one and
    one from a phone are the same numbers.
    """
    resized = tf.image.resize(image, [size, size], method="bilinear", antialias=True)
    resized = tf.clip_by_value(tf.round(resized), 0.0, 255.0)
    return tf.ensure_shape(tf.cast(resized, tf.uint8), [size, size, 3])


def _require(condition: tf.Tensor, message: str, found: tf.Tensor) -> list:
    """Asserts in a graph; eagerly raises the message without decoration."""
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(condition, [message, found])]
    if not condition:
        raise tf.errors.InvalidArgumentError(None, None, f"{message} {found.numpy()}")
    return []


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    # The accurate transform is what Pillow, browsers and phones use; the
    # default trades it for a few percent of speed.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(encoded: tf.Tensor, padded: tf.Tensor) -> tf.Tensor:
    rgba = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
    # Grey of 1, 2 or 4 bits comes back with 1, 3 or 15 for "opaque".
    header = tf.io.decode_raw(tf.strings.substr(padded, 24, 2), tf.uint8)
    bits, colour_type = header[0], header[1]
    few_grey_levels = (bits < 8) & tf.equal(colour_type, 0)
    alpha = tf.where(few_grey_levels, 1.0, rgba[..., 3:] / 255.0)
    over_white = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)
    return tf.cast(tf.round(over_white), tf.uint8)


def _png_shape(padded: tf.Tensor) -> tf.Tensor:
    """Height and width from the IHDR chunk, which PNG requires to be first."""
    # PNG ends sides at 2**31 - 1; a larger one reads as negative, hence small.
    fields = tf.io.decode_raw(
        tf.strings.substr(padded, 16, 8), tf.int32, little_endian=False
    )
    return tf.stack([fields[1], fields[0]])


def _orientation(padded: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """EXIF orientation 1..8; 1 where there is none or it makes no sense.

    EXIF 2.32, 4.5.2 (JPEG: after `Exif` and two zero bytes) and PNG's eXIf
    chunk; both hold a TIFF header and a directory of 12-byte entries.
    """
    window = tf.io.decode_raw(tf.strings.substr(padded, 0, EXIF_WINDOW), tf.uint8)
    jpeg_at = _find(window, b"Exif\0\0")
    png_at = _find(window, b"eXIf")
    start = tf.where(is_jpeg, jpeg_at + 6, png_at + 4)
    found = tf.where(is_jpeg, jpeg_at, png_at) >= 0
    return tf.cond(
        found,
        lambda: _orientation_in_tiff(tf.cast(window[start:], tf.int32)),
        lambda: tf.constant(1),
    )


def _find(window: tf.Tensor, pattern: bytes) -> tf.Tensor:
    """First position of `pattern` in a uint8 vector, or a negative number."""
    positions = tf.size(window) - len(pattern) + 1
    hits = tf.ones([positions], tf.bool)
    for offset, byte in enumerate(pattern):
        hits &= tf.equal(window[offset : offset + positions], byte)
    return tf.where(tf.reduce_any(hits), tf.argmax(hits, output_type=tf.int32), -1000)


def _orientation_in_tiff(tiff: tf.Tensor) -> tf.Tensor:
    little_endian = tf.equal(tiff[0], ord("I"))
    last = tf.size(tiff) - 1

    def uint16(position):
        # Offsets come from the file: a wild one reads some byte that is there
        # and the tag it looks for is not.
        first = tf.gather(tiff, tf.clip_by_value(position, 0, last))
        second = tf.gather(tiff, tf.clip_by_value(position + 1, 0, last))
        return tf.where(little_endian, first + 256 * second, 256 * first + second)

    # Offsets above 64 KiB lie outside the window, so the low half is enough
    # once the high half is known to be zero.
    low = tf.where(little_endian, uint16(4), uint16(6))
    high = tf.where(little_endian, uint16(6), uint16(4))
    directory = tf.where(tf.equal(high, 0), low, last)
    entries = tf.minimum(uint16(directory), MAX_TIFF_ENTRIES)
    at = directory + 2 + TIFF_ENTRY_BYTES * tf.range(entries)
    values = tf.boolean_mask(uint16(at + 8), tf.equal(uint16(at), ORIENTATION_TAG))
    value = tf.concat([values, [1]], axis=0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned():
        # The eight orientations are a transposition (5 to 8) followed by
        # mirrorings: EXIF 2.32, 4.6.4 A.
        result = tf.cond(
            orientation >= 5,
            lambda: tf.transpose(image, [1, 0, 2]),
            lambda: image,
        )
        result = tf.cond(
            _is_any(orientation, (2, 3, 6, 7)),
            lambda: tf.reverse(result, [1]),
            lambda: result,
        )
        return tf.cond(
            _is_any(orientation, (3, 4, 7, 8)),
            lambda: tf.reverse(result, [0]),
            lambda: result,
        )

    return tf.cond(tf.equal(orientation, 1), lambda: image, turned)


def _is_any(value: tf.Tensor, choices: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, tf.constant(choices)))
