"""The pixels of one picture against those of the path through TensorFlow."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from hydranet_tf.data import compiled_resize, decoding, graph_decoding
from hydranet_tf.data.formats import PictureError


def picture(height=40, width=56):
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def faded():
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned(orientation, byte_order="<"):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "a maker, so that the tag is not the first entry"
    exif[0x0112] = orientation
    return exif.tobytes()


COMMON = {
    "jpeg": encode(picture(), "JPEG", quality=90),
    "jpeg, grey": encode(picture().convert("L"), "JPEG"),
    "jpeg, odd sides, colours halved": encode(picture(41, 57), "JPEG", subsampling=2),
    "jpeg, colours whole": encode(picture(), "JPEG", subsampling=0),
    "jpeg, progressive": encode(picture(), "JPEG", progressive=True),
    "jpeg, restarts": encode(picture(), "JPEG", restart_marker_blocks=2),
    "jpeg, without YCbCr": encode(picture(), "JPEG", keep_rgb=True),
    "png": encode(picture(), "PNG"),
    "png, grey": encode(picture().convert("L"), "PNG"),
    "png, alpha": encode(faded(), "PNG"),
    "png, grey, alpha": encode(faded().convert("LA"), "PNG"),
} | {
    f"{format}, orientation {n}{order}": encode(
        picture(), format, exif=turned(n, order)
    )
    for format in ("JPEG", "PNG")
    for n, order in [(n, "<") for n in range(10)] + [(6, ">"), (7, ">")]
}


def frames(**options):
    return encode(
        picture(), "PNG", save_all=True, append_images=[picture().rotate(90)], **options
    )


def palette():
    image = picture().convert("P")
    image.info["transparency"] = bytes([0, 128, 255])
    return image


# Uncommon ones of which TensorFlow knows the pixels, too.
UNCOMMON = {
    "cmyk": encode(picture().convert("CMYK"), "JPEG"),
    "palette": encode(picture().convert("P"), "PNG"),
    "palette, alpha": encode(palette(), "PNG"),
    "one bit": encode(picture().convert("1"), "PNG"),
    "16 bits": encode(Image.fromarray(np.eye(20, dtype=np.uint16) * 4660), "PNG"),
    "16 bits, colour": cv2.imencode(
        ".png", np.arange(20 * 30 * 3, dtype=np.uint16).reshape(20, 30, 3) * 36
    )[1].tobytes(),
    "16 bits, alpha": cv2.imencode(
        ".png", np.arange(20 * 30 * 4, dtype=np.uint16).reshape(20, 30, 4) * 27
    )[1].tobytes(),
    "16 bits, colour key": encode(
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)), "PNG",
        transparency=257,
    ),
    "colour key": encode(picture(), "PNG", transparency=picture().getpixel((3, 4))),
    "grey, colour key": encode(picture().convert("L"), "PNG", transparency=120),
    "one bit, colour key": encode(picture().convert("1"), "PNG", transparency=0),
    "moving": frames(),
    "moving, another first": frames(default_image=True),
}  # fmt: skip

REFUSED = {
    "nothing": (b"", "empty"),
    "no picture": (b"path,age\n", "expected a picture .* the content is b'path,age'"),
    "a page": (b"<!DOCTYPE html><html>", "a file of the kind HTML"),
    "half a jpeg": (COMMON["jpeg"][:600], "truncated JPEG: it ends before its pixels"),
    "the most of a jpeg": (COMMON["jpeg"][:-200], "damaged JPEG: Premature end"),
    "without the end": (COMMON["jpeg"][:-2], "Premature end of JPEG file"),
    "half a png": (COMMON["png"][:300], "damaged PNG"),
    "a wrong checksum": (
        COMMON["png"][:-20] + b"\0" + COMMON["png"][-19:], "damaged PNG"
    ),
    "small": (encode(picture(40, 7), "PNG"), r"at least 8 .* \[40 7\]"),
    "large": (encode(Image.new("L", (12_000, 9_000)), "PNG"), "at most 100000000"),
    "half a webp": (encode(picture(), "WEBP")[:99], "WebP"),
    "most of a webp": (
        encode(picture(), "WEBP")[:-20], "damaged WebP: Premature end"
    ),
}  # fmt: skip


def by_tensorflow(data):
    return graph_decoding.decode(tf.constant(data)).numpy()


@pytest.mark.parametrize("data", COMMON.values(), ids=COMMON)
def test_common_pictures_have_the_same_pixels(data):
    found = decoding.decode(data)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, by_tensorflow(data))


@pytest.mark.parametrize("data", UNCOMMON.values(), ids=UNCOMMON)
def test_uncommon_pictures_have_the_same_pixels(data):
    np.testing.assert_array_equal(decoding.decode(data), by_tensorflow(data))


@pytest.mark.parametrize("data, reason", REFUSED.values(), ids=REFUSED)
def test_what_is_no_whole_picture_is_told(data, reason):
    with pytest.raises(PictureError, match=reason):
        decoding.decode(data)
    with pytest.raises(tf.errors.InvalidArgumentError):
        by_tensorflow(data)


def test_damage_changes_no_pixel():
    """Whatever both decode is the same; no damage raises anything else."""
    rng = np.random.default_rng(0)
    whole = [data for name, data in COMMON.items() if "orient" not in name]
    whole += [COMMON["JPEG, orientation 6<"], COMMON["PNG, orientation 6>"]]
    both = 0
    for i in range(200):
        data = bytearray(whole[i % len(whole)])
        # Headers are a small part of a file and most of what can go wrong.
        at = int(rng.integers(len(data) if i % 2 else 200))
        data[at] = int(rng.integers(256))
        try:
            found, expected = decoding.decode(bytes(data)), by_tensorflow(bytes(data))
        except (PictureError, tf.errors.InvalidArgumentError):
            continue
        np.testing.assert_array_equal(found, expected)
        both += 1
    assert both > 50


def with_exif(tiff, plain=COMMON["jpeg"]):
    segment = b"Exif\0\0" + bytes(tiff)
    marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    return plain[:2] + marker + segment + plain[2:]


def test_orientation_that_points_anywhere():
    rng = np.random.default_rng(1)
    turns = set()
    for i in range(48):
        tiff = bytearray(turned(1 + i % 8, "<>"[i % 2])[6:])
        for at in rng.integers(0, len(tiff), i % 3):
            tiff[at] = int(rng.choice([0, 1, 8, 0x12, 0xFF, *b"IM"]))
        data = with_exif(tiff)
        found = decoding.decode(data)
        np.testing.assert_array_equal(found, by_tensorflow(data))
        turns.add(found[0, 0].tobytes() + found[-1, 0].tobytes())
    assert len(turns) == 8


def one_entry(orientation, order, kind):
    """A directory of EXIF with the orientation alone, as SHORT (3) or LONG (4)."""
    size = {3: 2, 4: 4}[kind]
    value = orientation.to_bytes(size, order).ljust(4, b"\0")
    head = b"II*\0" if order == "little" else b"MM\0*"
    numbers = [(8, 4), (1, 2), (0x0112, 2), (kind, 2), (1, 4)]
    return head + b"".join(n.to_bytes(s, order) for n, s in numbers) + value + bytes(4)


@pytest.mark.parametrize("kind", [3, 4], ids=["SHORT", "LONG"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_wherever_it_stands(orientation, order, kind):
    tiff = one_entry(orientation, order, kind)
    other = b"\xff\xe2" + (60_002).to_bytes(2, "big") + bytes(60_000)
    jpeg = with_exif(tiff)
    far = jpeg[:2] + 3 * other + jpeg[2:]
    png = COMMON["png"]
    body = b"eXIf" + tiff
    chunk = len(tiff).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    late = png[:-12] + chunk + png[-12:]
    for data in (jpeg, far, late, encode(picture(), "WEBP", exif=b"Exif\0\0" + tiff)):
        # As Pillow has it, by code that shares nothing with ours.
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        found = decoding.decode(data)
        if data[:4] == b"RIFF":
            expected = expected.convert("RGB")
        np.testing.assert_array_equal(found, np.asarray(expected))


SIDES = pytest.mark.parametrize("height, width, size", [
    (200, 200, 80), (200, 200, 128), (64, 64, 64), (20, 20, 48), (300, 90, 37),
    (8, 1111, 24), (513, 512, 224), (640, 480, 8),
])  # fmt: skip


def compiled(image, size):
    # Nothing of what stood there before may remain.
    found = np.full((size, size, 3), 77, np.uint8)
    compiled_resize.resize(image, found)
    return found


WAYS = pytest.mark.parametrize("resize", [decoding.resize, compiled])


@WAYS
@SIDES
def test_resized_to_the_same_numbers(height, width, size, resize):
    image = np.random.default_rng(size).integers(0, 256, (height, width, 3), np.uint8)
    found = resize(image, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, graph_decoding.resize(image, size))


@WAYS
def test_pictures_that_are_cut_or_may_not_be_written(resize):
    whole = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    whole.flags.writeable = False
    for image in (whole, whole[:, 15:105], whole[:, ::-1], whole.transpose(1, 0, 2)):
        found = resize(image, 32)
        np.testing.assert_array_equal(found, graph_decoding.resize(image, 32))


def test_threads_resize_side_by_side():
    """Each its own rows, whatever the others do meanwhile."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 100, 100, 3), np.uint8)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(compiled, images, [48] * len(images)))
    np.testing.assert_array_equal(found, [decoding.resize(i, 48) for i in images])


def test_loops_are_compiled_where_no_folder_can_be_written(tmp_path):
    """As in a container whose file system may only be read."""
    script = """if True:
        from numba.core import caching

        def nowhere(*_):
            raise RuntimeError("cannot cache function: no locator available")

        caching.FunctionCache.__init__ = nowhere
        import numpy as np
        from hydranet_tf.data import compiled_resize, decoding

        image = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)
        found = np.empty((20, 20, 3), np.uint8)
        compiled_resize.resize(image, found)
        assert (found == decoding.resize(image, 20)).all()
        print("the same")
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "the same\n", done.stderr


def test_one_face_does_not_wait_for_a_compiler():
    script = """if True:
        import sys
        from hydranet_tf.data import crops; from hydranet_tf.inference import predictor

        print({"numba", "scipy", "tensorflow"} & sys.modules.keys())
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("height, width", [(20, 61), (61, 20), (33, 33)])
def test_the_same_square(height, width):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    np.testing.assert_array_equal(decoding.square(image), graph_decoding.square(image))
