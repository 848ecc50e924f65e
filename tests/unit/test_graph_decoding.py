"""Decoding against Pillow, on every kind of file the path must take."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from hydranet_tf.data import graph_decoding


def picture(height=40, width=56, seed=0):
    """A smooth colour picture: JPEG keeps it almost unchanged."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data):
    return graph_decoding.decode(tf.constant(data)).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_equal_pillow(mode):
    data = encode(picture().convert(mode), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert np.abs(decoded(data).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_png_modes_equal_pillow(mode):
    data = encode(picture().convert(mode), "PNG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), expected)


def test_sixteen_bit_png_keeps_the_high_byte():
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    data = encode(Image.fromarray(levels), "PNG")
    expected = np.round(levels / 257.0)
    difference = np.abs(decoded(data)[..., 0].astype(float) - expected)
    assert difference.max() <= 1


def test_alpha_is_laid_over_white():
    rgba = picture().convert("RGBA")
    alpha = np.tile(np.linspace(0, 255, 56, dtype=np.uint8), (40, 1))
    rgba.putalpha(Image.fromarray(alpha))
    white = Image.new("RGBA", rgba.size, "white")
    expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"), int)
    found = decoded(encode(rgba, "PNG")).astype(int)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(found[:, 0], 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_pillow(format, byte_order, orientation):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "a maker, so that the tag is not the first entry"
    exif[0x0112] = orientation
    data = encode(picture(), format, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(upright.convert("RGB"), int)
    found = decoded(data).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2


def test_nonsense_in_exif_leaves_the_picture_as_it_is():
    plain = encode(picture(), "JPEG")
    tiff = b"II*\0" + (0xFFF0).to_bytes(4, "little") + b"\xff" * 40
    segment = b"Exif\0\0" + tiff
    marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    damaged = plain[:2] + marker + segment + plain[2:]
    np.testing.assert_array_equal(decoded(damaged), decoded(plain))


@pytest.mark.parametrize("size", [16, 24, 64])
def test_resize_equals_pillow_antialias(size):
    image = picture(200, 200)
    expected = np.asarray(image.resize((size, size), Image.BILINEAR), int)
    found = graph_decoding.resize(np.asarray(image), size).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1


def test_centre_square_of_an_oblong_picture():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    np.testing.assert_array_equal(graph_decoding.square(image), image[:, 20:40])
    np.testing.assert_array_equal(
        graph_decoding.square(image.transpose(1, 0, 2)),
        image.transpose(1, 0, 2)[20:40],
    )


def test_eager_and_tf_data_give_the_same_pixels():
    data = encode(picture(), "JPEG")
    dataset = tf.data.Dataset.from_tensors(data).map(
        lambda b: graph_decoding.decode_and_resize(b, 24)
    )
    np.testing.assert_array_equal(
        next(iter(dataset)), graph_decoding.decode_and_resize(data, 24)
    )


JPEG = encode(picture(), "JPEG")
PNG = encode(picture(), "PNG")


def huge_png():
    """Declares 12,000 x 12,000 pixels in a file of a few hundred kilobytes."""
    return encode(Image.new("1", (12_000, 12_000)), "PNG")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "JPEG or PNG"),
        (lambda: b"\xff\xd8", "JPEG or PNG"),
        (lambda: b"name,age\nme,7\n", "JPEG or PNG"),
        (lambda: encode(picture(), "GIF"), "JPEG or PNG"),
        (lambda: JPEG[: len(JPEG) // 2], "(?i)jpeg"),
        (lambda: JPEG[:20], "(?i)jpeg"),
        (lambda: PNG[: len(PNG) // 2], "(?i)png"),
        (lambda: PNG[:12], "at least 8 pixels"),
        (lambda: encode(picture(1, 1), "PNG"), "at least 8 pixels"),
        (lambda: encode(picture(1, 1), "JPEG"), "at least 8 pixels"),
        (huge_png, "at most 100000000 pixels"),
    ],
    ids=[
        "empty", "two-bytes", "text", "gif", "half-jpeg", "jpeg-head",
        "half-png", "png-head", "1x1-png", "1x1-jpeg", "12000x12000",
    ],
)  # fmt: skip
def test_bad_bytes_are_refused_with_a_reason(make, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoded(make())
    # In a graph, where served models and tf.data run, the error is the same.
    in_graph = tf.data.Dataset.from_tensors(make()).map(graph_decoding.decode)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(in_graph))
