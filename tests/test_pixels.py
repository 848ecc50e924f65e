"""The pixels of one picture against those of the path through TensorFlow."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from hydranet_tf.data import compiled_resize, pixels, preprocessing


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

LEFT_TO_TENSORFLOW = {
    "nothing": b"",
    "no picture": b"path,age\n",
    "half a jpeg": COMMON["jpeg"][:600],
    "half a png": COMMON["png"][:300],
    "a wrong checksum": COMMON["png"][:-20] + b"\0" + COMMON["png"][-19:],
    "gif": encode(picture(), "GIF"),
    "cmyk": encode(picture().convert("CMYK"), "JPEG"),
    "palette": encode(picture().convert("P"), "PNG"),
    "one bit": encode(picture().convert("1"), "PNG"),
    "16 bits": encode(Image.fromarray(np.eye(20, dtype=np.uint16)), "PNG"),
    "colour key": encode(picture(), "PNG", transparency=(9, 9, 9)),
    "moving": encode(
        picture(), "PNG", save_all=True, append_images=[picture().rotate(90)]
    ),
    "small": encode(picture(40, 7), "PNG"),
    "large": encode(Image.new("L", (12_000, 9_000)), "PNG"),
}


def by_tensorflow(data):
    return preprocessing.decode(tf.constant(data)).numpy()


@pytest.mark.parametrize("data", COMMON.values(), ids=COMMON)
def test_common_pictures_have_the_same_pixels(data):
    found = pixels.decode(data)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, by_tensorflow(data))


@pytest.mark.parametrize("data", LEFT_TO_TENSORFLOW.values(), ids=LEFT_TO_TENSORFLOW)
def test_others_are_left_alone(data):
    assert pixels.decode(data) is None


def test_damage_changes_no_pixel():
    """Whatever is decoded here at all is what TensorFlow decodes."""
    rng = np.random.default_rng(0)
    whole = [data for name, data in COMMON.items() if "orient" not in name]
    whole += [COMMON["JPEG, orientation 6<"], COMMON["PNG, orientation 6>"]]
    decoded = 0
    for i in range(200):
        data = bytearray(whole[i % len(whole)])
        # Headers are a small part of a file and most of what can go wrong.
        at = int(rng.integers(len(data) if i % 2 else 200))
        data[at] = int(rng.integers(256))
        found = pixels.decode(bytes(data))
        if found is not None:
            np.testing.assert_array_equal(found, by_tensorflow(bytes(data)))
            decoded += 1
    assert decoded > 50


def test_orientation_that_points_anywhere():
    plain = COMMON["jpeg"]
    rng = np.random.default_rng(1)
    turns = set()
    for i in range(48):
        tiff = bytearray(turned(1 + i % 8, "<>"[i % 2])[6:])
        for at in rng.integers(0, len(tiff), i % 3):
            tiff[at] = int(rng.choice([0, 1, 8, 0x12, 0xFF, *b"IM"]))
        segment = b"Exif\0\0" + bytes(tiff)
        marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
        data = plain[:2] + marker + segment + plain[2:]
        expected = by_tensorflow(data)
        with pytest.MonkeyPatch.context() as patch:
            # Pillow reads EXIF as well, for the resolution, and warns.
            patch.setattr("warnings.warn", lambda *_, **__: None)
            found = pixels.decode(data)
        np.testing.assert_array_equal(found, expected)
        turns.add(found[0, 0].tobytes() + found[-1, 0].tobytes())
    assert len(turns) == 8


SIDES = pytest.mark.parametrize("height, width, size", [
    (200, 200, 80), (200, 200, 128), (64, 64, 64), (20, 20, 48), (300, 90, 37),
    (8, 1111, 24), (513, 512, 224), (640, 480, 8),
])  # fmt: skip


def compiled(image, size):
    # Nothing of what stood there before may remain.
    found = np.full((size, size, 3), 77, np.uint8)
    compiled_resize.resize(image, found)
    return found


WAYS = pytest.mark.parametrize("resize", [pixels.resize, compiled])


@WAYS
@SIDES
def test_resized_to_the_same_numbers(height, width, size, resize):
    image = np.random.default_rng(size).integers(0, 256, (height, width, 3), np.uint8)
    found = resize(image, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, preprocessing.resize(image, size))


@WAYS
def test_pictures_that_are_cut_or_may_not_be_written(resize):
    whole = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    whole.flags.writeable = False
    for image in (whole, whole[:, 15:105], whole[:, ::-1], whole.transpose(1, 0, 2)):
        found = resize(image, 32)
        np.testing.assert_array_equal(found, preprocessing.resize(image, 32))


def test_threads_resize_side_by_side():
    """Each its own rows, whatever the others do meanwhile."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 100, 100, 3), np.uint8)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(compiled, images, [48] * len(images)))
    np.testing.assert_array_equal(found, [pixels.resize(i, 48) for i in images])


def test_loops_are_compiled_where_no_folder_can_be_written(tmp_path):
    """As in a container whose file system may only be read."""
    script = """if True:
        from numba.core import caching

        def nowhere(*_):
            raise RuntimeError("cannot cache function: no locator available")

        caching.FunctionCache.__init__ = nowhere
        import numpy as np
        from hydranet_tf.data import compiled_resize, pixels

        image = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)
        found = np.empty((20, 20, 3), np.uint8)
        compiled_resize.resize(image, found)
        assert (found == pixels.resize(image, 20)).all()
        print("the same")
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "the same\n", done.stderr


def test_one_face_does_not_wait_for_a_compiler():
    script = """if True:
        import sys
        from hydranet_tf.photos import crops, predictor

        print({"numba", "scipy", "tensorflow"} & sys.modules.keys())
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("height, width", [(20, 61), (61, 20), (33, 33)])
def test_the_same_square(height, width):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    np.testing.assert_array_equal(pixels.square(image), preprocessing.square(image))
