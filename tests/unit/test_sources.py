"""Folders and CSV files as sources, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from source_files import NAMES, labels_of, write_folder

from hydranet_tf.data import file_names, sources
from hydranet_tf.data.sources import open_source
from hydranet_tf.io.tables import SourceError

# --- folders


def test_a_folder_gives_labels_bytes_and_paths(tmp_path):
    folder = write_folder(tmp_path / "faces")

    examples = open_source(folder, "all")

    assert labels_of(examples) == {
        NAMES[0]: (1, 0, 0),
        NAMES[1]: (26, 1, 2),
        NAMES[2]: (39, 1, -1),
        NAMES[3]: (90, 0, 4),
    }
    assert [examples.labels[n].dtype for n in ("age", "gender", "race")] == [
        np.float32,
        np.int32,
        np.int32,
    ]
    for i, name in enumerate(examples.ids):
        assert examples.read(i) == (folder / name).read_bytes()
        assert Path(examples.paths[i]) == folder / name


def test_large_files_are_read_whole(tmp_path):
    """Of a file, more comes than is asked for at once, or just as much, or nothing."""
    folder = write_folder(tmp_path, NAMES)
    asked = sources._READ_BYTES
    for name, count in zip(NAMES, (3 * asked + 1, asked, 2 * asked, 0), strict=True):
        (folder / name).write_bytes(bytes(i % 251 for i in range(count)))
    examples = open_source(folder, "all")
    for i, name in enumerate(examples.ids):
        assert examples.read(i) == (folder / name).read_bytes()


def test_bad_names_are_skipped_with_a_reason(tmp_path):
    bad = ["999_0_1_20170110.jpg", "30_0_7_20170110.jpg", "list.txt"]
    folder = write_folder(tmp_path, [*NAMES, *bad, ".hidden.jpg"])

    examples = open_source(folder, "all")

    assert len(examples) == 4
    reasons = {skipped.id: skipped.reason for skipped in examples.skipped}
    assert sorted(reasons) == sorted(bad)
    assert "0 to 120" in reasons[bad[0]]
    assert "4 others" in reasons[bad[1]]
    assert ".jpg" in reasons[bad[2]]


def test_without_lists_names_are_split_by_their_hash(tmp_path):
    names = [f"{i % 100}_0_1_{10**16 + i}.jpg" for i in range(1000)]
    folder = write_folder(tmp_path, names)

    parts = {split: open_source(folder, split) for split in file_names.SPLITS}

    ids = [set(part.ids) for part in parts.values()]
    assert set().union(*ids) == set(names)
    assert sum(map(len, ids)) == 1000
    # Four standard deviations of binomial counts.
    assert abs(len(parts["train"]) - 800) < 4 * 12.7
    assert abs(len(parts["validation"]) - 100) < 4 * 9.5
    # The same on every machine and in every version: worked with sha256sum.
    assert file_names.hash_split("1.jpg") == "train"
    assert file_names.hash_split("3.jpg") == "validation"
    assert file_names.hash_split("13.jpg") == "test"


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    write_folder(tmp_path / "UTKFace", ["a.jpg"])
    with pytest.raises(SourceError, match="age_gender_race.*directly in.*'UTKFace'"):
        open_source(tmp_path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="found nothing"):
        open_source(tmp_path / "empty", "train")


def test_a_folder_of_bad_names_gives_the_reasons(tmp_path):
    write_folder(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(SourceError, match="(?s)no usable example.*a.jpg: the name is"):
        open_source(tmp_path, "all")


@pytest.mark.parametrize("data", ["nowhere", "no/where", "faces.txt", "nothing.csv"])
def test_data_that_are_not_there(tmp_path, data):
    with pytest.raises(SourceError, match=data):
        open_source(data, "train", data_dir=tmp_path)


def test_an_unknown_split_names_the_known_ones(tmp_path):
    with pytest.raises(SourceError, match="train, validation, test, all; got 'dev'"):
        open_source(tmp_path, "dev")


# --- examples


def test_a_selection_keeps_rows_together(tmp_path):
    examples = open_source(write_folder(tmp_path), "all")
    for indices in ([0, 3], np.array([True, False, False, True])):
        chosen = examples.select(indices).select([-1])
        assert chosen.ids.tolist() == [NAMES[3]]
        assert labels_of(chosen) == {NAMES[3]: (90, 0, 4)}
        assert chosen.read(0) == (tmp_path / NAMES[3]).read_bytes()
        assert Path(chosen.paths[0]) == tmp_path / NAMES[3]
    assert len(examples.select([])) == 0


def test_the_digest_sees_labels_and_not_the_order(tmp_path):
    examples = open_source(write_folder(tmp_path), "all")
    digest = examples.digest()
    assert examples.select([2, 0, 3, 1]).digest() == digest
    assert examples.select([0, 1, 2]).digest() != digest
    for name in examples.labels:
        values = examples.labels[name].copy()
        values[1] = 0
        changed = examples.labels | {name: values}
        other = sources.Examples(examples.ids, changed, examples.read)
        assert other.digest() != digest


# --- CSV


def write_csv(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    write_folder(folder / "images", ["a.jpg", "b.jpg", "c é.jpg"])
    path = folder / "faces.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file_with_splits_blanks_and_further_columns(tmp_path, encoding):
    path = write_csv(
        tmp_path,
        "path,age,note,gender,race,split\r\n"
        'images/a.jpg,31.5,"one, two",Female,indian,train\r\n'
        "images/b.jpg,,,,,train\r\n"
        "images/c é.jpg,0,,0,4,Test\r\n",
        encoding,
    )

    train, test = open_source(path, "train"), open_source(str(path), "test")

    assert labels_of(train) == {
        "images/a.jpg": (31.5, 1, 3),
        "images/b.jpg": (-1, -1, -1),
    }
    assert labels_of(test) == {"images/c é.jpg": (0, 0, 4)}
    assert test.read(0) == (tmp_path / "images" / "c é.jpg").read_bytes()
    assert Path(test.paths[0]).read_bytes() == test.read(0)
    assert len(open_source(path, "all")) == 3
    with pytest.raises(SourceError, match="no usable example in 'validation'"):
        open_source(path, "validation")


def test_a_csv_file_without_splits_is_split_by_the_hash_of_its_paths(tmp_path):
    names = [f"{number}.jpg" for number in range(60)]
    write_folder(tmp_path, names)
    path = tmp_path / "faces.csv"
    path.write_text("path,age,gender,race\n" + "".join(f"{n},1,0,0\n" for n in names))
    for split in file_names.SPLITS:
        expected = [name for name in names if file_names.hash_split(name) == split]
        assert open_source(path, split).ids.tolist() == expected


def test_every_wrong_row_of_a_csv_file_is_in_one_error(tmp_path):
    path = write_csv(
        tmp_path,
        "path,age,gender,race,split\n"
        "images/a.jpg,31,1,3,train\n"
        "images/none.jpg,999,1,3,train\n"
        "images/b.jpg,31,somebody,3,dev\n"
        "images/a.jpg,31,1,3,train\n"
        ",31,1,3,train\n",
    )
    with pytest.raises(SourceError) as caught:
        # Rows of other splits count too.
        open_source(path, "test")
    lines = str(caught.value).splitlines()
    assert "4 rows" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        f"row {number}" for number in (3, 4, 5, 6)
    ]
    assert "no file 'images/none.jpg'" in lines[1]
    assert "age must be" in lines[1]
    assert "0 male, 1 female" in lines[2]
    assert "row 2 already" in lines[3]
    assert "the path is blank" in lines[4]


def test_an_unknown_split_in_a_csv_file(tmp_path):
    path = write_csv(tmp_path, "path,age,gender,race,split\nimages/a.jpg,,,,dev\n")
    with pytest.raises(SourceError, match="row 2: split must be one of train.*'dev'"):
        open_source(path, "all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,note\nimages/a.jpg,1\n", "lacks the columns age, gender, race"),
        ("age,gender,race\n1,0,1\n", "lacks the columns path: .*--columns=path="),
        ("path,age,gendre\n", "no column 'gender' and one 'gendre', which may be"),
        ("path,age,sex,Sex\n", "sex, Sex, each of which may be the gender; say which"),
        ("path:age:gender:race\n", "lacks.*found.*path:age"),
        ("", "lacks the columns path, age, gender, race"),
        ("path,age,gender,race\n", "no usable example"),
        ("path,age,gender,race,age\n", "names a column twice"),
        ("path,age,gender,race\nimages/a.jpg,1,0\n", "row 2: expected 4 cells"),
        ("path,age,gender,race\nimages/a.jpg,1,0,1,9\n", "row 2: expected 4 cells"),
        ('path,age,gender,race\n"images/a.jpg,1,0,1\n', "near row 1: unexpected end"),
    ],
)
def test_a_table_of_another_form(tmp_path, text, message):
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(write_csv(tmp_path, text), "all")


def test_a_column_that_is_absent_is_a_missing_label(tmp_path, caplog):
    path = write_csv(tmp_path, "path,age\nimages/a.jpg,31\n")
    examples = open_source(path, "all")
    assert {name: list(values) for name, values in examples.labels.items()} == {
        "age": [31.0], "gender": [-1], "race": [-1],
    }  # fmt: skip
    assert "has no column gender, race" in caplog.text


def test_a_table_in_another_encoding(tmp_path):
    path = write_csv(
        tmp_path, "path,age,gender,race\nimages/c é.jpg,,,\n", encoding="latin-1"
    )
    with pytest.raises(SourceError, match="not UTF-8.*save it as UTF-8"):
        open_source(path, "all")


def test_lists_go_with_folders_alone(tmp_path):
    path = write_csv(tmp_path, "path,age,gender,race\nimages/a.jpg,,,\n")
    for data in (path, "drawn_faces"):
        with pytest.raises(SourceError, match="split lists go with a folder"):
            open_source(data, "train", split_lists="lists")
