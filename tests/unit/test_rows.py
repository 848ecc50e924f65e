"""Rows on disk, and how a broken run goes on."""

from __future__ import annotations

import csv
import json

import pytest

from hydranet_tf.photos import rows
from hydranet_tf.photos.rows import COLUMNS, Rows, RowsError, row

FORMATS = ("csv", "jsonl")
NAMES = ("a.jpg", "b, with \"quotes\".jpg", "two\nlines.jpg", "a\rreturn.jpg", "ü.jpg",
         "bad\udcff.jpg")  # fmt: skip


def rows_of(file, faces=2):
    if not faces:
        return [row(file, "no_face")]
    return [row(file, "ok", face=i, age=30.25, p_male=1e-06) for i in range(faces)]


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_the_columns_are_those_of_the_contract():
    assert ",".join(COLUMNS) == (
        "file,face,left,top,right,bottom,detection_score,age,age_low,age_high,gender,"
        "p_male,p_female,race,p_white,p_black,p_asian,p_indian,p_others,status"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_come_back_as_they_went(tmp_path, kind):
    path = tmp_path / "new" / f"faces.{kind}"
    with Rows(path) as rows:
        for name in NAMES:
            rows.add(rows_of(name))
        assert rows.faces == 2 * len(NAMES) and rows.statuses == {"ok": len(NAMES)}
    found = read(path)
    assert [one["file"] for one in found] == [n for n in NAMES for _ in range(2)]
    blank, number = ("", float) if kind == "csv" else (None, lambda value: value)
    for one in found:
        assert tuple(one) == COLUMNS
        assert number(one["age"]) == 30.25 and number(one["p_male"]) == 1e-6
        assert one["age_low"] == blank and one["status"] == "ok"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("last", [0, 3])
def test_cut_at_any_byte_a_run_goes_on_to_the_same_file(tmp_path, kind, last):
    """Whatever length a crash leaves, finished anew it is the whole."""
    pictures = [(NAMES[0], 2), (NAMES[1], 0), (NAMES[2], 1), (NAMES[3], last)]
    path = tmp_path / f"whole.{kind}"
    with Rows(path) as rows:
        for name, faces in pictures:
            rows.add(rows_of(name, faces))
    whole = path.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    n = len(whole)
    for length in {*range(0, n, 7), *range(40), *range(n - 40, n + 1)}:
        cut.write_bytes(whole[:length])
        with Rows(cut, NAMES) as rows:
            for name, faces in pictures:
                if name not in rows.finished:
                    rows.add(rows_of(name, faces))
            assert rows.finished == {name for name, _ in pictures}
            assert sum(rows.statuses.values()) == len(pictures)
            assert rows.faces == sum(faces for _, faces in pictures)
        assert cut.read_bytes() == whole, length


@pytest.mark.parametrize("kind", FORMATS)
def test_only_the_last_picture_is_done_anew(tmp_path, kind):
    path = tmp_path / f"faces.{kind}"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add([row("b.jpg", "unreadable: no image")])
    with Rows(path, ["a.jpg", "b.jpg"]) as rows:
        # One row is all there is to say about b.
        assert rows.finished == {"a.jpg", "b.jpg"}
        assert rows.statuses == {"ok": 1, "unreadable": 1}
        rows.add(rows_of("c.jpg"))
    whole = path.read_bytes()
    with Rows(path, ["b.jpg", "c.jpg"]) as rows:
        # c may have had a third face.
        assert rows.finished == {"a.jpg", "b.jpg"}
    # A run that fails before it has an answer has changed nothing.
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_of_other_pictures_keeps_all_rows(tmp_path, kind):
    path = tmp_path / f"faces.{kind}"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add(rows_of("b.jpg", 3))
    for name, kept in (("c.jpg", 5), ("d.jpg", 6)):
        with Rows(path, [name]) as rows:
            assert rows.faces == kept and "b.jpg" in rows.finished
            rows.add(rows_of(name, 1))
    files = [one["file"] for one in read(path)]
    assert files == ["a.jpg"] * 2 + ["b.jpg"] * 3 + ["c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("faces.csv", "name,age\na,3\n"),
        ("faces.csv", ",".join(COLUMNS) + "\na.jpg,ok\n"),
        ("faces.csv", ",".join(COLUMNS) + "\n" + "x," * 30 + "\n" + "y," * 19 + "\n"),
        ("faces.jsonl", '{"file": "a"}\n'),
        ("faces.jsonl", "[1, 2]\n"),
        ("faces.jsonl", "some notes"),
    ],
)
def test_other_files_are_refused_and_kept(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(RowsError, match="something else"):
        Rows(path)
    assert path.read_text() == content


def test_an_output_of_another_kind_is_refused(tmp_path):
    with pytest.raises(RowsError, match=r"\.csv or \.jsonl"):
        Rows(tmp_path / "faces.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(RowsError, match="cannot write"):
        Rows(tmp_path / "file" / "faces.csv")


def test_two_runs_do_not_write_one_file(tmp_path):
    with Rows(tmp_path / "faces.csv"):
        with pytest.raises(RowsError, match="another process"):
            Rows(tmp_path / "faces.csv")
    Rows(tmp_path / "faces.csv").__exit__()


def test_numbers_are_no_nan(tmp_path):
    with Rows(tmp_path / "faces.jsonl") as written:
        with pytest.raises(ValueError):
            written.add([row("a", rows.OK, age=float("nan"))])
