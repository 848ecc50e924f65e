"""Pictures in every form and format to the same pixels, or to a reason."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps
from sample_pictures import astronaut

from hydranet_tf.data import decoding, formats, reading
from hydranet_tf.data.formats import PictureError

FORMATS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "BMP": {},
    "TIFF": {},
    "GIF": {},
    "MPO": {"quality": 95, "subsampling": 0},
    "HEIF": {"quality": 95},
}
# Levels by which a format may change a pixel in the mean; a GIF has 256 colours.
BOUNDS = {"PNG": 0, "WEBP": 0, "BMP": 0, "TIFF": 0, "GIF": 8}


@pytest.fixture(scope="module", autouse=True)
def heif():
    """To write one; reading needs no such step."""
    pillow_heif.register_heif_opener()


def picture(size=(96, 64)):
    return astronaut().resize(size)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(picture):
    found, damage = reading.read(picture)
    assert damage is None
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_by_content(kind, tmp_path):
    whole = np.asarray(picture()).astype(int)
    data = encoded(picture(), kind, **FORMATS[kind])
    for name in ("a.jpg", "no ending", "b.txt"):
        (tmp_path / name).write_bytes(data)
        difference = np.abs(pixels(tmp_path / name) - whole).mean()
        assert difference <= BOUNDS.get(kind, 3), difference
    expected = {"WEBP": "WebP", "MPO": "JPEG", "HEIF": "HEIC"}.get(kind, kind)
    assert formats.kind(data[: formats.HEAD_BYTES]) == expected


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "AVIF", "MPO", "PNG"])
def test_the_first_of_several(kind):
    others = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")]
    data = encoded(
        picture(), kind, save_all=True, append_images=others, **FORMATS[kind]
    )
    alone = encoded(picture(), kind, **FORMATS[kind])
    assert len(data) > len(alone)
    # A film of AVIF compresses its first frame otherwise.
    difference = np.abs(pixels(data).astype(int) - pixels(alone)).mean()
    assert difference <= (3 if kind == "AVIF" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_every_format(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Two colours a half: no format blurs the middle of a quarter.
    image = Image.new("RGB", (64, 48), "red")
    image.paste("blue", (0, 0, 32, 24))
    data = encoded(image, kind, exif=exif.tobytes())
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    found = pixels(data)
    assert found.shape == expected.shape
    h, w = found.shape[:2]
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4)]
    for place in places:
        assert np.abs(found[place] - expected[place]).max() < 40, place


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("WEBP", "RGBA"), ("TIFF", "RGBA"), ("TIFF", "LA"), ("TIFF", "I;16"),
        ("TIFF", "CMYK"), ("TIFF", "1"), ("TIFF", "L"), ("TIFF", "P"), ("BMP", "L"),
        ("BMP", "1"), ("BMP", "P"), ("GIF", "P"), ("AVIF", "RGBA"), ("HEIF", "L"),
        ("HEIF", "RGBA"),
    ],
)  # fmt: skip
def test_modes_show_one_colour(kind, mode):
    """Half transparent over white where there is alpha; a level of 102 else."""
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 102 * 257, np.uint16))
    elif mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (30, 20), (0, 0, 0, 153)).convert(mode)
    elif mode == "1":
        image = Image.new("1", (30, 20), 1)
    else:
        image = Image.new("RGB", (30, 20), (102, 102, 102)).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(encoded(image, kind, **options))
    assert found.shape == (20, 30, 3)
    assert np.abs(found.astype(int) - (255 if mode == "1" else 102)).max() <= 2


def test_a_transparent_gif_lies_over_white():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.paste(0, (0, 0, 10, 20))
    found = pixels(encoded(image, "GIF", transparency=0))
    assert found[5, 2].tolist() == [255] * 3 and found[5, 15].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7 ...", "of the kind PDF"),
        (b"\0\0\0\x20ftypisom\0\0\0\0isomiso2" + bytes(20), "of the kind video"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "of the kind macOS metadata"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "of the kind camera raw"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"  \n<!DOCTYPE HTML>", "of the kind HTML"),
        (b"BM and more text, no bitmap", "the content is b'BM and m'"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged WebP"),
        (b"II*\0\x08\0\0\0", "damaged TIFF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf", "damaged HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", "damaged AVIF"),
    ],
)
def test_content_that_is_no_picture_is_named(data, reason):
    with pytest.raises(PictureError, match=reason):
        reading.read(data)


def test_a_cameras_raw_file_is_no_thumbnail():
    data = encoded(picture(), "TIFF", tiffinfo={254: 1})
    with pytest.raises(PictureError, match="raw file.* export it as JPEG"):
        reading.read(data)
    with pytest.raises(PictureError, match="raw file"):
        reading.read(encoded(picture(), "TIFF", tiffinfo={50706: b"\1\4\0\0"}))


def test_heic_without_its_reader_says_what_to_install(monkeypatch):
    data = encoded(picture(), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"pip install 'hydranet_tf\[heic\]'"):
        reading.read(data)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_jpeg_is_read_as_far_as_it_goes(part):
    whole = encoded(picture((400, 300)), "JPEG", quality=90)
    found, damage = reading.read(whole[: int(part * len(whole))])
    assert damage == "truncated: Premature end of JPEG file"
    expected = pixels(whole)
    same = (found == expected).all(axis=(1, 2))
    rows = int(np.argmin(same))
    # It is coded from the top down, 16 rows at once.
    assert 0.7 * part < rows / 300 < 1.3 * part
    assert (found[-1, -100:] == 128).all()


def scene(mode="RGB"):
    """A photograph: what is drawn smoothly compresses to a few hundred bytes."""
    found = astronaut().resize((480, 400))
    if mode == "RGBA":
        found.putalpha(Image.linear_gradient("L").resize(found.size))
        return found
    if mode == "I;16":
        return Image.fromarray(np.asarray(found.convert("L")).astype(np.uint16) * 257)
    return found.quantize(90) if mode == "P" else found.convert(mode)


def rows_there(damage, kind):
    return int(damage.removeprefix(f"truncated: Premature end of {kind} file: ")[:3])


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "LA"])
def test_a_truncated_png_is_read_as_far_as_it_goes(mode, part):
    whole = encoded(scene(mode), "PNG")
    found, damage = reading.read(whole[: int(part * len(whole))])
    rows = rows_there(damage, "PNG")
    assert 0.5 * part < rows / 400 < 1.5 * part
    expected = pixels(whole)
    np.testing.assert_array_equal(found[:rows], expected[:rows])
    if mode in ("RGB", "L", "I;16", "RGBA", "LA"):
        assert (found[rows:] == 128).all()
    assert (found[rows:] != expected[rows:]).any()


def test_a_png_without_its_end_has_all_its_pixels():
    whole = encoded(scene(), "PNG")
    found, damage = reading.read(whole[:-12])
    assert damage == "truncated: Premature end of PNG file: 400 of 400 rows are there"
    np.testing.assert_array_equal(found, pixels(whole))


def test_what_is_left_of_a_png_may_be_too_little():
    whole = encoded(scene(), "PNG")
    for cut in (whole[:40], whole[:60]):
        with pytest.raises(PictureError, match="ends before its pixels"):
            reading.read(cut)
    wrong = bytearray(whole[:-1000])
    wrong[20] ^= 1
    with pytest.raises(PictureError, match="wrong checksum"):
        reading.read(bytes(wrong))
    # OpenCV writes no interlaced ones, and Pillow neither: the header alone says so.
    interlaced = bytearray(whole[:-1000])
    interlaced[28] = 1
    interlaced[29:33] = zlib_crc(interlaced[12:29])
    with pytest.raises(PictureError, match="interlaced"):
        reading.read(bytes(interlaced))


def test_a_small_truncated_png_that_would_unpack_to_gigabytes():
    data = bytearray(encoded(scene(), "PNG")[:-100])
    data[16:24] = (65_000).to_bytes(4, "big") * 2
    data[29:33] = zlib_crc(data[12:29])
    with pytest.raises(PictureError, match="at most"):
        reading.read(bytes(data))


@pytest.mark.parametrize("part", [0.4, 0.7, 0.97])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_truncated_webp_is_read_as_far_as_it_goes(lossless, mode, part):
    picture = astronaut().resize((400, 400))
    if mode == "RGBA":
        picture.putalpha(230)
    whole = encoded(picture, "WEBP", lossless=lossless)
    found, damage = reading.read(whole[: int(part * len(whole))])
    rows = int(
        damage.removeprefix("truncated: Premature end of WebP file: ").split()[0]
    )
    # Its first part says how all blocks are coded.
    assert part - 0.35 < rows / 400 < part + 0.2
    np.testing.assert_array_equal(found[:rows], pixels(whole)[:rows])
    assert (found[rows:] == 128).all()


def test_what_is_left_of_a_webp_may_be_too_little():
    whole = encoded(astronaut(), "WEBP")
    for left in (20, 300, len(whole) // 12):
        with pytest.raises(PictureError, match="truncated WebP: .* bytes are there"):
            reading.read(whole[:left])


def test_a_jpeg_without_its_last_two_bytes_has_all_its_pixels():
    whole = encoded(picture(), "JPEG")
    found, damage = reading.read(whole[:-2])
    assert damage.startswith("truncated")
    np.testing.assert_array_equal(found, pixels(whole))


def test_bytes_behind_the_pixels_are_damage_that_takes_nothing():
    whole = encoded(picture(), "JPEG")
    found, damage = reading.read(whole[:-2] + bytes(range(9)) + whole[-2:])
    assert damage.startswith("damaged: Corrupt JPEG data")
    np.testing.assert_array_equal(found, pixels(whole))


def test_a_declared_size_beyond_the_bound_is_not_decoded():
    """A file of 300 bytes that would take 12 GB."""
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        data = bytearray(encoded(Image.new("L", (16, 16)), kind))
        wide = (65_000).to_bytes(2, "little")
        if kind == "PNG":
            data[16:24] = (65_000).to_bytes(4, "big") * 2
            data[29:33] = zlib_crc(data[12:29])
        elif kind == "GIF":
            at = data.index(b"\x2c\0\0\0\0\x10\0\x10\0")
            data[6:10] = data[at + 5 : at + 9] = wide * 2
        elif kind == "BMP":
            data[18:26] = (wide + b"\0\0") * 2
        else:
            for tag in (256, 257):
                at = data.index(tag.to_bytes(2, "little") + b"\4\0\1\0\0\0")
                data[at + 8 : at + 12] = wide + b"\0\0"
        with pytest.raises(PictureError, match=f"at most {reading.MAX_PIXELS}"):
            reading.read(bytes(data))


def zlib_crc(data):
    import zlib

    return zlib.crc32(bytes(data)).to_bytes(4, "big")


def test_108_megapixels_without_tensorflow(tmp_path):
    data = encoded(picture((600, 450)).resize((12_000, 9_000)), "JPEG", quality=80)
    (tmp_path / "large.jpg").write_bytes(data)
    script = (
        "import sys, time\n"
        "from hydranet_tf.data import reading\n"
        "start = time.process_time()\n"
        "print(reading.read(sys.argv[1]).image.shape)\n"
        "print(time.process_time() - start)\n"
        "print('tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "large.jpg"],
        capture_output=True, text=True,
    )  # fmt: skip
    shape, seconds, has_tensorflow = done.stdout.splitlines()
    assert (shape, has_tensorflow) == ("(9000, 12000, 3)", "False")
    assert float(seconds) < 3


def test_arrays_of_every_kind():
    rgb = np.asarray(picture())
    assert pixels(rgb) is rgb
    grey = rgb[..., 0]
    for one in (grey, grey[..., np.newaxis]):
        np.testing.assert_array_equal(pixels(one), np.dstack([grey] * 3))
    alpha = np.full(grey.shape, 255, np.uint8)
    np.testing.assert_array_equal(pixels(np.dstack([rgb, alpha])), rgb)
    assert (pixels(np.dstack([rgb, 0 * alpha])) == 255).all()


@pytest.mark.parametrize(
    ("array", "way_out"),
    [
        (np.zeros((20, 20, 3), np.float32), r"np.rint\(255 \* image\).astype"),
        (np.zeros((20, 20, 3), np.uint16), r"\(image >> 8\).astype"),
        (np.zeros((20, 20), bool), "255"),
        (np.zeros((3, 20, 20), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 20, 20, 3), np.uint8), r"list\(images\)"),
        (np.zeros((20, 4, 3), np.uint8), "sides of at least 8"),
        (np.zeros(20, np.uint8), r"got uint8 \[20\]"),
    ],
)
def test_arrays_that_are_refused_with_the_way_out(array, way_out):
    with pytest.raises(PictureError, match=way_out):
        reading.read(array)


def test_images_of_pillow_and_file_objects(tmp_path):
    image = picture()
    rgb = np.asarray(image)
    np.testing.assert_array_equal(pixels(image), rgb)
    np.testing.assert_array_equal(
        pixels(image.convert("L")), np.dstack([np.asarray(image.convert("L"))] * 3)
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(pixels(opened), np.rot90(rgb, -1))
        assert opened.size == image.size, "the caller's image stays as it is"
    with open(path, "rb") as file:
        np.testing.assert_array_equal(pixels(file), np.rot90(rgb, -1))
    data = path.read_bytes()
    for other in (bytearray(data), memoryview(data), io.BytesIO(data)):
        np.testing.assert_array_equal(pixels(other), np.rot90(rgb, -1))
    with pytest.raises(PictureError, match="open for bytes"):
        reading.read(io.StringIO("text"))
    with pytest.raises(PictureError, match="mode F"):
        reading.read(Image.new("F", (20, 20)))


def test_data_uris_are_read_and_urls_are_not():
    data = encoded(picture(), "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    np.testing.assert_array_equal(pixels(uri), np.asarray(picture()))
    for wrong in ("data:image/png,abc", "data:image/png;base64,???"):
        with pytest.raises(PictureError, match="expected a data URI"):
            reading.read(wrong)
    with pytest.raises(PictureError, match="curl -fO 'https://example.org/a.jpg'"):
        reading.read("https://example.org/a.jpg")
    with pytest.raises(PictureError, match="not a URL: /home/a b.jpg"):
        reading.read("file:///home/a%20b.jpg")


def test_large_pictures_are_turned_fast():
    """Not pixel by pixel across the memory, as numpy copies a transposed array."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (6000, 4000), "red"), "JPEG", exif=exif)
    start = time.process_time()
    assert pixels(data).shape == (6000, 4000, 3)
    assert time.process_time() - start < 1.5


def test_large_pictures_are_read_one_after_the_other(monkeypatch):
    real, most, now, lock = decoding.decode_damaged, [], set(), threading.Lock()

    def decode(encoded, max_pixels=1000):
        if max_pixels == 1000:
            return real(encoded, max_pixels)
        with lock:
            now.add(threading.get_ident())
            most.append(len(now))
        time.sleep(0.01)
        with lock:
            now.discard(threading.get_ident())
        return real(encoded, max_pixels)

    monkeypatch.setattr(decoding, "decode_damaged", decode)
    data = encoded(picture((40, 30)), "PNG")
    with ThreadPoolExecutor(4) as pool:
        shapes = [found.image.shape for found in pool.map(reading.read, [data] * 8)]
    assert shapes == [(30, 40, 3)] * 8 and most == [1] * 8
