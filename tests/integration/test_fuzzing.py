"""Broken pictures, names and tables: an error that says so, or the right result.

Thousands of cases, most of them made by breaking valid files: random bytes alone
would never pass the first check.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import synthetic
import tensorflow as tf
from broken_bytes import broken, memory
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hydranet_tf.data import file_names, formats, graph_decoding, reading
from hydranet_tf.data.formats import PictureError
from hydranet_tf.data.sources import ALL, open_source
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import TASKS, LabelError

# --- pictures


def pictures():
    image = synthetic.picture(30, 0, 1, side=24)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        (image, "JPEG", {}),
        (image, "JPEG", {"exif": exif, "progressive": True}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif}),
        (image.convert("RGBA"), "PNG", {}),
        (image.convert("P"), "PNG", {}),
        (image.convert("1"), "PNG", {}),
        (image.convert("I;16"), "PNG", {}),
    ]
    found = []
    for picture, form, options in made:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


@pytest.fixture(scope="module")
def decode():
    """The decoder as tf.data and served models run it."""
    return tf.function(
        graph_decoding.decode, input_signature=[tf.TensorSpec([], tf.string)]
    )


@settings(max_examples=1500)
@given(data=broken(pictures()))
def test_broken_pictures_are_decoded_or_refused(decode, data):
    try:
        image = decode(data)
    except tf.errors.InvalidArgumentError as error:
        assert error.message
    else:
        assert image.dtype == tf.uint8
        height, width, channels = image.shape
        assert min(height, width) >= graph_decoding.MIN_SIDE
        assert height * width <= graph_decoding.MAX_PIXELS
        assert channels == 3


def bomb(form):
    """A picture of a few bytes that declares 60,000 x 60,000 pixels or more."""
    side = 60_000
    if form == "JPEG":
        data = synthetic.encoded("JPEG")
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
    if form == "PNG":
        data = synthetic.encoded("PNG")
        return data[:16] + struct.pack(">II", side, side) + data[24:]
    data = bytearray(synthetic.encoded(form))
    if form == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    else:
        data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_declared_size_is_refused_before_memory_is_taken(decode, form):
    expected = "pixels in all" if form in ("JPEG", "PNG") else "JPEG or PNG"
    data = bomb(form)
    # Starts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        decode(data)
    # Decoded it would be 10 GB.
    assert memory("VmHWM") - before < 64_000


# --- names and tables

_FIELDS = st.one_of(
    st.integers(-3, 200).map(str),
    st.sampled_from(["", "0", "00", "1", "٣", "²", "1e1", " 1", "20170116174525125"]),
    st.text(max_size=6),
)


@settings(max_examples=1000)
@given(
    name=st.one_of(
        st.text(max_size=40),
        st.lists(_FIELDS, min_size=1, max_size=6).map("_".join),
        st.lists(_FIELDS, min_size=3, max_size=5).map(lambda f: "_".join(f) + ".jpg"),
    )
)
def test_any_name_gives_its_own_labels_or_none(name):
    try:
        found = file_names.parse_name(name)
    except LabelError:
        return
    age, gender, rest = name.split("_", 2)
    race = rest.split("_")[0]
    expected = {"age": int(age), "gender": int(gender), "race": -1}
    if "_" in rest:
        expected["race"] = int(race)
    else:
        assert len(race) >= 8
    assert found == expected
    assert 0 <= found["age"] <= 120
    assert found["gender"] in (0, 1)
    assert found["race"] in (-1, 0, 1, 2, 3, 4)


@given(name=st.text(st.characters(), max_size=30))
def test_every_name_has_a_split(name):
    assert file_names.hash_split(name) in file_names.SPLITS


TABLE = (
    "path,age,gender,race,split\n"
    "a.jpg,26,male,asian,train\n"
    "b.jpg,1,1,,validation\n"
    '"c,d.jpg",101.5,female,4,test\n'
    "a.png,,0,black,train\n"
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    for name in ("a.jpg", "b.jpg", "c,d.jpg", "a.png"):
        (folder / name).write_bytes(b"")
    return folder


def label_of(task, cell):
    """What a cell says, worked without the package's parser; None if nothing."""
    cell = cell.strip()
    if cell.lower() in ("", "nan", "-", "?"):
        return -1
    cell = cell.removesuffix(".0")
    if task.is_regression:
        plain = cell.isascii() and "_" not in cell
        return np.float32(float(cell)) if plain else None
    by_name = {name: i for i, name in enumerate(task.classes)}
    return by_name.get(cell.lower(), int(cell) if cell.isdecimal() else None)


def check_table(faces, data):
    table = faces / "faces.csv"
    table.write_bytes(data)
    try:
        examples = open_source(table, ALL)
    except SourceError as error:
        assert str(error)
        return
    text = data.decode("utf-8-sig")
    rows = [[cell.strip() for cell in row] for row in plain_rows(text)]
    header = [name.lower() for name in rows[0]]
    said = {
        row[header.index("path")]: dict(zip(header, row, strict=True))
        for row in rows[1:]
    }
    for i, name in enumerate(examples.ids.tolist()):
        assert (faces / name).is_file()
        for task in TASKS:
            # A column whose name was broken has no labels.
            cell = said[name.strip()].get(task.name, "")
            assert examples.labels[task.name][i] == label_of(task, cell)


def plain_rows(text):
    """Splits a table by hand: states of one character after another."""
    rows, row, cell, quoted, i = [], [], "", False, 0
    text = text.replace("\r\n", "\n").replace("\r", "\n") + "\n"
    while i < len(text):
        mark = text[i]
        if quoted:
            if mark == '"' and text[i + 1 : i + 2] == '"':
                cell += '"'
                i += 1
            elif mark == '"':
                quoted = False
            else:
                cell += mark
        elif mark == '"' and not cell:
            quoted = True
        elif mark == ",":
            row.append(cell)
            cell = ""
        elif mark == "\n":
            if row or cell:
                rows.append([*row, cell])
            row, cell = [], ""
        else:
            cell += mark
        i += 1
    return rows


@settings(max_examples=1000)
@given(data=broken([TABLE.encode(), TABLE.encode("utf-8-sig")], most=3))
def test_a_broken_table_gives_what_it_says_or_an_error(faces, data):
    check_table(faces, data)


@pytest.mark.parametrize(
    "cell",
    ["9" * 5000, "1_0", "٢٦", "nan", "-0.5", "1e999", "x" * 70_000],
    ids=lambda cell: cell[:6],
)
@pytest.mark.parametrize("column", ["path", "age", "gender", "race", "split"])
def test_odd_cells_are_refused(faces, column, cell):
    if cell == "nan" and column in ("age", "gender", "race"):
        # What pandas writes for a blank.
        cell = "nan nan"
    row = {"path": "a.jpg", "age": "1", "gender": "0", "race": "1", "split": "train"}
    row[column] = cell
    table = faces / "odd.csv"
    table.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(SourceError, match="1 rows need a correction"):
        open_source(table, ALL)


def other_pictures():
    """Small ones in the formats that Pillow reads, and what simplejpeg leaves to it."""
    image = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3))
    found = []
    for form in ("WEBP", "AVIF", "BMP", "TIFF", "GIF", "JPEG", "PNG"):
        for one in (image, image.convert("L")):
            buffer = io.BytesIO()
            one.save(buffer, form)
            found.append(buffer.getvalue())
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    return [*found, buffer.getvalue()]


@settings(max_examples=800)
@given(data=broken(other_pictures()))
def test_broken_pictures_of_all_formats_are_read_or_refused(data):
    with warnings.catch_warnings():
        # Pillow's about damage: here they are not errors, as for users.
        warnings.simplefilter("ignore")
        try:
            image, damage = reading.read(data)
        except PictureError as error:
            assert str(error)
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3
            assert min(image.shape[:2]) >= formats.MIN_SIDE
            assert damage is None or damage
