"""Rows on disk, and how a broken run goes on."""

from __future__ import annotations

import csv
import json

import pandas
import pytest

from hydranet_tf.inference.table import row
from hydranet_tf.photos import rows
from hydranet_tf.photos.rows import COLUMNS, Rows, RowsError, name_of

FORMATS = ("csv", "jsonl")
NAMES = ("a.jpg", "b, with \"quotes\".jpg", "two\nlines.jpg", "a\rreturn.jpg", "ü.jpg",
         "bad\udcff.jpg")  # fmt: skip


def rows_of(file, faces=2):
    if not faces:
        return [row(file, "no_face")]
    return [
        row(file, "ok", face=i, age=30.25, p_gender_male=1e-06) for i in range(faces)
    ]


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_the_columns_are_those_of_the_contract():
    assert ",".join(COLUMNS) == (
        "file,face,left,top,right,bottom,detection_score,age,age_low,age_high,gender,"
        "p_gender_male,p_gender_female,race,p_race_white,p_race_black,p_race_asian,"
        "p_race_indian,p_race_others,status"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_come_back_as_they_went(tmp_path, kind):
    path = tmp_path / "new" / f"faces.{kind}"
    with Rows(path) as rows:
        for name in NAMES:
            rows.add(rows_of(name))
        assert rows.outcomes.faces == 2 * len(NAMES) and rows.outcomes.statuses == {
            "ok": len(NAMES)
        }
    found = read(path)
    names = [*NAMES[:-1], r"bad\xff.jpg"]
    assert [one["file"] for one in found] == [n for n in names for _ in range(2)]
    blank, number = ("", float) if kind == "csv" else (None, lambda value: value)
    for one in found:
        assert tuple(one) == COLUMNS
        assert number(one["age"]) == 30.25 and number(one["p_gender_male"]) == 1e-6
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
                if name_of(name) not in rows.finished:
                    rows.add(rows_of(name, faces))
            assert rows.finished == {name for name, _ in pictures}
            assert sum(rows.outcomes.statuses.values()) == len(pictures)
            assert rows.outcomes.faces == sum(faces for _, faces in pictures)
        assert cut.read_bytes() == whole, length


@pytest.mark.parametrize("kind", FORMATS)
def test_only_the_last_picture_is_done_anew(tmp_path, kind):
    path = tmp_path / f"faces.{kind}"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add([row("b.jpg", "unreadable: no image")])
    with Rows(path, ["a.jpg", "b.jpg"]) as rows:
        # One row is all there is to say about b, and another run may say another.
        assert rows.finished == {"a.jpg"}
        assert rows.outcomes.statuses == {"ok": 1, "unreadable": 1}
        rows.add(rows_of("c.jpg"))
    whole = path.read_bytes()
    with Rows(path, ["b.jpg", "c.jpg"]) as rows:
        # c may have had a third face.
        assert rows.finished == {"a.jpg"}
    # A run that fails before it has a prediction has changed nothing.
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_of_other_pictures_keeps_all_rows(tmp_path, kind):
    path = tmp_path / f"faces.{kind}"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add(rows_of("b.jpg", 3))
    for name, kept in (("c.jpg", 5), ("d.jpg", 6)):
        with Rows(path, [name]) as rows:
            assert rows.outcomes.faces == kept and "b.jpg" in rows.finished
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


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "status",
    ["unreadable: no image", "failed: no memory", "no_face: truncated: it ends", "ok"],
)
def test_what_could_not_be_read_is_tried_again_and_its_rows_replaced(
    tmp_path, kind, status
):
    path = tmp_path / f"faces.{kind}"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add([row("b.jpg", status)])
        rows.add([row("c.jpg", "no_face")])
    before = path.read_bytes()
    with Rows(path, ["c.jpg"]):
        pass
    assert path.read_bytes() == before, "a run of other pictures leaves it"
    is_final = status == "ok"
    with Rows(path, ["a.jpg", "b.jpg", "c.jpg"]) as rows:
        assert ("b.jpg" in rows.finished) == is_final
    assert path.read_bytes() == before, "as long as there is nothing new"
    with Rows(path, ["a.jpg", "b.jpg", "c.jpg"]) as rows:
        if not is_final:
            rows.add(rows_of("b.jpg", 3))
            assert rows.outcomes.statuses == {"ok": 2, "no_face": 1}
            assert rows.outcomes.faces == 5
    files = [one["file"] for one in read(path)]
    expected = ["a.jpg"] * 2 + ["c.jpg"] + ["b.jpg"] * 3
    assert files == (["a.jpg"] * 2 + ["b.jpg", "c.jpg"] if is_final else expected)
    with Rows(path, ["a.jpg"]) as rows:
        assert rows.outcomes.statuses == {"ok": 2, "no_face": 1}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_crash_before_old_rows_are_out_loses_nothing(tmp_path, kind):
    path, cut = tmp_path / f"faces.{kind}", tmp_path / f"cut.{kind}"
    with Rows(path) as rows:
        rows.add([row("a.jpg", "unreadable: no image")])
        rows.add(rows_of("b.jpg", 1))
    before = path.stat().st_size
    rows = Rows(path, ["a.jpg"])
    rows.add(rows_of("a.jpg", 2))
    # As a killed process leaves it.
    both = path.read_bytes()
    rows.__exit__()
    whole = path.read_bytes()
    assert whole != both
    for length in range(before, len(both) + 1, 7):
        cut.write_bytes(both[:length])
        with Rows(cut, ["a.jpg", "b.jpg"]) as rows:
            for name, faces in (("b.jpg", 1), ("a.jpg", 2)):
                if name not in rows.finished:
                    rows.add(rows_of(name, faces))
            assert rows.outcomes.faces == 3
        assert cut.read_bytes() == whole, length


def test_standard_input_is_another_picture_each_time(tmp_path):
    path = tmp_path / "faces.csv"
    for faces in (1, 2):
        with Rows(path, ["-"]) as rows:
            assert not rows.finished
            rows.add(rows_of("-", faces))
    assert [one["file"] for one in read(path)] == ["-"] * 2


# Their first characters make formulas of them, and the last one looks like a guard.
FORMULAS = ("=1+1.jpg", "+1.jpg", "-1.jpg", "@a.jpg", "'=a.jpg", "\ta.jpg", "'a.jpg")


def test_no_cell_is_a_formula_and_names_come_back(tmp_path):
    path = tmp_path / "faces.csv"
    with Rows(path) as rows:
        for name in FORMULAS:
            rows.add([row(name, "ok", left=-5, age=30.5)])
    found = read(path)
    for one, name in zip(found, FORMULAS, strict=True):
        guard = "" if name == "'a.jpg" else "'"
        assert one["file"] == guard + name
        assert (one["left"], one["age"]) == ("-5", "30.5"), "numbers stay numbers"
    with Rows(path, FORMULAS) as rows:
        # The last may lack faces.
        assert rows.finished == set(FORMULAS[:-1])
    with Rows(tmp_path / "faces.jsonl") as written:
        written.add([row("=1.jpg", "ok")])
    assert read(tmp_path / "faces.jsonl")[0]["file"] == "=1.jpg"


def test_a_table_opens_in_pandas(tmp_path):
    path = tmp_path / "faces.csv"
    with Rows(path, bom=True) as rows:
        for name in (*NAMES, *FORMULAS):
            rows.add(rows_of(name))
    assert path.read_bytes().startswith(b"\xef\xbb\xbffile,")
    frame = pandas.read_csv(path)
    assert tuple(frame.columns) == COLUMNS and len(frame) == 2 * 13
    assert frame["age"].dtype == float and (frame["age"] == 30.25).all()
    # With and without the mark, and asked for or not, the next run goes on.
    with Rows(path, NAMES) as rows:
        assert len(rows.finished) == 13
    assert path.read_bytes().count(b"\xef\xbb\xbf") == 1


def test_a_table_that_excel_saved_is_gone_on_with(tmp_path):
    path = tmp_path / "faces.csv"
    with Rows(path) as rows:
        rows.add(rows_of("a.jpg"))
        rows.add([row("b, c.jpg", "no_face")])
    saved = b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n")
    saved = saved.replace(b"1e-06", b"0.000001")
    path.write_bytes(saved)
    with Rows(path, ["a.jpg", "b, c.jpg", "d.jpg"]) as rows:
        assert rows.finished == {"a.jpg", "b, c.jpg"}
        rows.add(rows_of("d.jpg"))
    after = path.read_bytes()
    assert after.startswith(saved)
    assert after.count(b"\r\n") == after.count(b"\n") == 6
    assert [one["file"] for one in read(path)][-2:] == ["d.jpg"] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.replace(b",", b";"), "CSV UTF-8 \\(comma delimited"),
        (lambda data: data.decode().encode("latin-1"), "not UTF-8 any more"),
    ],
)
def test_tables_saved_in_other_ways_are_refused_and_kept(tmp_path, change, reason):
    path = tmp_path / "faces.csv"
    with Rows(path) as rows:
        rows.add(rows_of("ü.jpg"))
    path.write_bytes(changed := change(path.read_bytes()))
    with pytest.raises(RowsError, match=reason):
        Rows(path, ["ü.jpg"])
    assert path.read_bytes() == changed
