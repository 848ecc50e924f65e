"""What names tell: labels, splits by list, corrections."""

from __future__ import annotations

import pytest
from source_files import NAMES, labels_of, write_folder, write_lists

from hydranet_tf.data import file_names, sources
from hydranet_tf.data.sources import open_source
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import LabelError


@pytest.mark.parametrize(
    ("name", "age", "gender", "race"),
    [
        ("9_1_2_20161219204347420.jpg.chip.jpg", 9, 1, 2),
        ("116_0_4_20170120225751953.jpg.chip.jpg", 116, 0, 4),
        # The eight odd names of UTKFace.
        ("39_1_20170116174525125.jpg.chip.jpg", 39, 1, -1),
        ("61_1_20170109142408075.jpg.chip.jpg", 61, 1, -1),
        ("61_1_20170109150557335.jpg.chip.jpg", 61, 1, -1),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24, 0, 1),
        ("28_1_2_201701161846515488.jpg.chip.jpg", 28, 1, 2),
        ("38_0_1_201701162330572788.jpg.chip.jpg", 38, 0, 1),
        ("55_0_0_20170116232725357jpg.chip.jpg", 55, 0, 0),
        ("14_0_0_2017011022340900.jpg.chip.jpg", 14, 0, 0),
        ("0_1_3_my_own_photo.png", 0, 1, 3),
    ],
)
def test_a_name_gives_its_labels(name, age, gender, race):
    assert file_names.parse_name(name) == {"age": age, "gender": gender, "race": race}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("999_0_1_20170110.jpg", "0 to 120"),
        ("30_0_7_20170110.jpg", "4 others"),
        ("30_2_1_20170110.jpg", "1 female"),
        # Neither a race that is read as a timestamp nor the reverse.
        ("30_1_2.jpg", "not of the form"),
        ("30_1_1234567.jpg", "not of the form"),
        ("30_1_20170110_3.jpg", "race must be"),
        ("30_20170110223113654.jpg", "not of the form"),
        ("-3_0_1_20170110.jpg", "not of the form"),
        ("3.5_0_1_20170110.jpg", "not of the form"),
        ("30_male_1_20170110.jpg", "not of the form"),
        ("__1_20170110.jpg", "not of the form"),
        # Digits of another script, which int() would read.
        ("\u0663\u0660_0_1_20170110.jpg", "not of the form"),
        ("holiday.jpg", "not of the form"),
    ],
)
def test_a_name_without_possible_labels_gives_none(name, reason):
    with pytest.raises(LabelError, match=reason):
        file_names.parse_name(name)


def test_lists_decide_and_keep_names_as_they_are(tmp_path):
    odd = "24_0_1_20170116220224657 .jpg"
    folder = write_folder(tmp_path / "faces", [*NAMES, odd])
    lists = write_lists(tmp_path / "lists", [NAMES[3], odd], NAMES[:1], NAMES[1:2])

    def ids(split):
        return open_source(folder, split, split_lists=lists).ids.tolist()

    assert ids("train") == [NAMES[3], odd]
    assert ids("validation") == NAMES[:1]
    assert ids("test") == NAMES[1:2]
    assert ids("all") == [NAMES[3], odd, NAMES[0], NAMES[1]]


def test_files_in_no_list_are_named(tmp_path, caplog):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES[:3])
    open_source(folder, "train", split_lists=lists)
    assert f"1 files in {folder} are in no split list" in caplog.text
    assert NAMES[3] in caplog.text


def test_a_listed_file_that_is_not_there_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "faces", NAMES[:2])
    lists = write_lists(tmp_path / "lists", NAMES[:3])
    for split in ("train", "all"):
        with pytest.raises(SourceError, match=f"1 of the 3 files.*{NAMES[2]}"):
            open_source(folder, split, split_lists=lists)


def test_a_split_kept_elsewhere_is_an_error_only_when_asked_for(tmp_path, caplog):
    folder = write_folder(tmp_path / "faces", NAMES[:2])
    lists = write_lists(tmp_path / "lists", NAMES[:2], [], NAMES[2:])
    assert len(open_source(folder, "all", split_lists=lists)) == 2
    assert "none of the 2 files in test.txt" in caplog.text
    with pytest.raises(SourceError, match="none of the 2 files in test.txt"):
        open_source(folder, "test", split_lists=lists)


def test_a_file_in_two_lists_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES[:2], NAMES[1:2])
    with pytest.raises(SourceError, match="in train.txt and in validation.txt"):
        open_source(folder, "train", split_lists=lists)
    write_lists(tmp_path / "lists", NAMES[:2] + NAMES[:1])
    with pytest.raises(SourceError, match="in train.txt and in train.txt"):
        open_source(folder, "train", split_lists=lists)


def test_an_absent_list_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES)
    (lists / "test.txt").unlink()
    with pytest.raises(SourceError, match="expected the split list .*test.txt"):
        open_source(folder, "train", split_lists=lists)


@pytest.mark.parametrize("place", ["lists", "lists/.."])
def test_corrections_concern_the_training_split_alone(tmp_path, place):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES[:3], NAMES[3:])
    (tmp_path / place / "corrections.csv").write_text(
        "file,change,reason\n"
        f"{NAMES[0]},exclude,not a face\n"
        f"{NAMES[1]},age=31.5,three people agree\n"
        f"{NAMES[1]},race=,they do not\n"
        f"{NAMES[2]},race=asian,two people agree\n"
    )

    train = open_source(folder, "train", split_lists=lists)

    assert labels_of(train) == {NAMES[1]: (31.5, 1, -1), NAMES[2]: (39, 1, 2)}
    assert train.skipped == (sources.Skipped(NAMES[0], "not a face"),)
    everything = open_source(folder, "all", split_lists=lists)
    assert labels_of(everything)[NAMES[1]] == (26, 1, 2)
    assert not everything.skipped


def test_corrections_of_the_lists_go_before_those_one_level_up(tmp_path):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES)
    header = "file,change,reason\n"
    (tmp_path / "corrections.csv").write_text(f"{header}{NAMES[0]},exclude,far\n")
    (lists / "corrections.csv").write_text(f"{header}{NAMES[1]},exclude,near\n")
    train = open_source(folder, "train", split_lists=lists)
    assert train.skipped == (sources.Skipped(NAMES[1], "near"),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{NAMES[3]},exclude,reason", "row 2.*not in train.txt"),
        (f"{NAMES[0]},exclude, ", "row 2.*give a reason"),
        (f"{NAMES[0]},delete,reason", "exclude, or one of age=, gender=, race="),
        (f"{NAMES[0]},height=3,reason", "exclude, or one of age=, gender=, race="),
        (f"{NAMES[0]},age=200,reason", "row 2: age must be"),
        (f"{NAMES[0]},exclude", "row 2: expected 3 cells"),
    ],
)
def test_unreadable_corrections_are_an_error(tmp_path, row, message):
    folder = write_folder(tmp_path / "faces")
    lists = write_lists(tmp_path / "lists", NAMES[:3], NAMES[3:])
    (lists / "corrections.csv").write_text(f"file,change,reason\n{row}\n")
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(folder, "train", split_lists=lists)
