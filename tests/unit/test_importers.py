"""Data sets as other people publish them, and tables as pandas writes them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from source_files import jpeg, labels_of, write_folder

from hydranet_tf.data import labels
from hydranet_tf.data.sources import open_source
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS, LabelError, Task

WHITE, BLACK, ASIAN, INDIAN, OTHERS = range(5)
MALE, FEMALE = 0, 1


def ages_of(examples):
    """Middle and half width of each age by id."""
    widths = examples.labels.get("age_half_width", np.zeros(len(examples)))
    rows = zip(examples.labels["age"].tolist(), widths.tolist(), strict=True)
    return dict(zip(examples.ids.tolist(), rows, strict=True))


# --- cells


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (GENDER, "0.0", MALE),
        (GENDER, "1.0", FEMALE),
        (GENDER, " M ", MALE),
        (GENDER, "f", FEMALE),
        (GENDER, "Woman", FEMALE),
        (GENDER, "man", MALE),
        (GENDER, "NaN", MISSING),
        (GENDER, "None", MISSING),
        (RACE, "East Asian", ASIAN),
        (RACE, "Southeast Asian", ASIAN),
        (RACE, "Latino_Hispanic", OTHERS),
        (RACE, "Middle Eastern", OTHERS),
        (RACE, "Caucasian", WHITE),
        (RACE, "BLACK", BLACK),
        (RACE, "3.0", INDIAN),
        (AGE, "31.5", 31.5),
        (AGE, "31,5", 31.5),
        (AGE, "26.0", 26.0),
        (AGE, "", MISSING),
        (AGE, "nan", MISSING),
    ],
)
def test_labels_are_read_as_people_write_them(task, text, expected):
    assert labels.read(task, text) == {task.name: expected}


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("20-29", 20, 29),
        ("3-9", 3, 9),
        ("(25, 32)", 25, 32),
        ("[20, 30]", 20, 30),
        ("20 to 29", 20, 29),
        ("20 – 29", 20, 29),
        ("60+", 60, 120),
        ("more than 70", 70, 120),
        ("70 and older", 70, 120),
        (">=65", 65, 120),
        ("under 3", 0, 3),
        ("<= 2.5", 0, 2.5),
    ],
)
def test_ranges_are_a_middle_and_half_a_width(text, low, high):
    found = labels.read(AGE, text)
    assert found == {"age": (low + high) / 2, "age_half_width": (high - low) / 2}


def test_a_range_of_one_value_is_that_value():
    assert labels.read(AGE, "(35, 35)") == {"age": 35.0}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (AGE, "29-20"), (AGE, "100-130"), (AGE, "20-"), (AGE, "-5"), (AGE, "1,000"),
        (AGE, "twenties"), (AGE, "20-29-39"), (GENDER, "2"), (GENDER, "0.5"),
        (GENDER, "mf"), (RACE, "5.0"), (RACE, "1.0.0"), (RACE, "martian"),
    ],
)  # fmt: skip
def test_doubtful_labels_are_refused(task, text):
    with pytest.raises(LabelError):
        labels.read(task, text)


def test_a_class_that_is_called_like_a_blank_is_a_class():
    task = Task("glasses", "categorical", "delta", classes=("none", "sun", "other"))
    assert labels.read(task, "None") == {"glasses": 0}


def test_names_of_columns_and_classes():
    names = labels.Names.parse(
        "path=file, age=Age (years)", "race:East Asian=asian,Martian=,gender:1=male",
        TASKS,
    )  # fmt: skip
    assert names.columns == {"path": "file", "age": "Age (years)"}
    assert names.classes["race"] == {"east asian": "asian", "martian": ""}
    assert labels.read(RACE, "Martian", names.classes["race"]) == {"race": MISSING}
    assert labels.read(GENDER, "1", names.classes["gender"]) == {"gender": MALE}


@pytest.mark.parametrize(
    ("columns", "classes", "message"),
    [
        (
            "height=h",
            "",
            "NAME out of path, split, age, gender, race; got 'height=h'",
        ),
        ("age", "", "got 'age'"),
        ("age=a,age=b", "", "names age twice"),
        ("", "asian=x", "expected TASK:WORD=CLASS"),
        ("", "age:old=60", "a TASK out of gender, race"),
        ("", "race:x=martian", "race has the classes white, black"),
    ],
)
def test_names_that_make_no_sense(columns, classes, message):
    with pytest.raises(LabelError, match=message):
        labels.Names.parse(columns, classes, TASKS)


# --- tables


def write_table(folder, text, name="faces.csv"):
    write_folder(folder, ["a.jpg", "b.jpg", "c.jpg"])
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_pandas_writes(tmp_path, mark):
    rows = [
        ["", "File", "Age", "Sex", "ethnicity", "split"],
        ["0", "a.jpg", "31.0", "M", "nan", "Train"],
        ["1", "b.jpg", "", "woman", "0.0", "val"],
        ["2", "c.jpg", "4.5", "nan", "4.0", "training"],
    ]
    table = write_table(tmp_path, "\n".join(mark.join(row) for row in rows))
    assert labels_of(open_source(table, "train")) == {
        "a.jpg": (31, MALE, MISSING),
        "c.jpg": (4.5, MISSING, OTHERS),
    }
    assert labels_of(open_source(table, "validation")) == {
        "b.jpg": (MISSING, FEMALE, WHITE)
    }


def test_columns_and_classes_have_the_names_that_are_given(tmp_path):
    table = write_table(
        tmp_path, "photo,years,who,file,race\na.jpg,20-29,1,x,East Asian\n"
        "b.jpg,60+,2,x,Other\n",
    )  # fmt: skip
    found = open_source(
        table, "all", columns="path=photo,age=years,gender=who",
        classes="gender:1=female,2=,race:East Asian=indian",
    )  # fmt: skip
    assert labels_of(found) == {
        "a.jpg": (24.5, FEMALE, INDIAN), "b.jpg": (90, MISSING, OTHERS)
    }  # fmt: skip
    assert ages_of(found) == {"a.jpg": (24.5, 4.5), "b.jpg": (90, 30)}
    with pytest.raises(SourceError, match="row 3: gender must be.*got '2'"):
        open_source(
            table, "all", columns="path=photo,age=years,gender=who",
            classes="gender:1=female",
        )  # fmt: skip
    with pytest.raises(SourceError, match="no column 'nothing'; it has photo, years"):
        open_source(table, "all", columns="path=nothing")
    with pytest.raises(SourceError, match="--columns goes with a table"):
        open_source(tmp_path, "all", columns="path=nothing")


def test_columns_of_one_of_several_tables(tmp_path):
    first = write_table(tmp_path / "a", "path,age\na.jpg,1\nb.jpg,2\n")
    second = write_table(tmp_path / "b", "path,years\nc.jpg,3\n", "more.csv")
    found = open_source(f"{first},{second}", "all", columns="age=years")
    assert found.labels["age"].tolist() == [1, 2, 3]
    with pytest.raises(SourceError, match="no table of faces, more has.*'nothing'"):
        open_source(f"{first},{second}", "all", columns="age=years,race=nothing")


# --- data sets of others


def test_fairface(tmp_path):
    header = "file,age,gender,race,service_test\n"
    (tmp_path / "fairface_label_train.csv").write_text(
        header + "train/1.jpg,50-59,Male,East Asian,True\n"
        "train/2.jpg,more than 70,Female,Latino_Hispanic,False\n"
    )
    (tmp_path / "fairface_label_val.csv").write_text(
        header + "val/1.jpg,0-2,Female,Black,True\n"
    )
    write_folder(tmp_path / "train", ["1.jpg", "2.jpg"])
    write_folder(tmp_path / "val", ["1.jpg"])

    train, val = open_source(tmp_path, "train"), open_source(tmp_path, "validation")

    assert labels_of(train) == {
        "train/1.jpg": (54.5, MALE, ASIAN),
        "train/2.jpg": (95, FEMALE, OTHERS),
    }
    assert ages_of(train) == {"train/1.jpg": (54.5, 4.5), "train/2.jpg": (95, 25)}
    assert ages_of(val) == {"val/1.jpg": (1, 1)}
    assert train.read(1) == (tmp_path / "train" / "2.jpg").read_bytes()
    with pytest.raises(SourceError, match="no usable example in 'test'"):
        open_source(tmp_path, "test")
    # One of its tables alone is the same part.
    alone = open_source(tmp_path / "fairface_label_val.csv", "validation")
    assert alone.digest() == val.digest()


NAMES = [
    "1_0_2_20161219140530307.jpg.chip.jpg",
    "26_1_0_20170116171048641.jpg.chip.jpg",
]


@pytest.mark.parametrize(
    "places",
    [
        [("UTKFace", NAMES)],
        [("utkface_aligned_cropped/UTKFace", NAMES),
         ("utkface_aligned_cropped/crop_part1", NAMES[:1])],
        [("UTKFace", NAMES), ("crop_part1", NAMES[:1]), ("__MACOSX", ["._x.jpg"]),
         ("part1", ["30_0_1_20170117000000000.jpg"])],
    ],
)  # fmt: skip
def test_utkface_as_kaggle_hands_it_out(tmp_path, places):
    for place, names in places:
        write_folder(tmp_path / place, names)
    found = open_source(tmp_path, "all")
    assert labels_of(found) == {
        NAMES[0]: (1, MALE, ASIAN),
        NAMES[1]: (26, FEMALE, WHITE),
    }
    for i, name in enumerate(found.ids):
        assert name in str(found.paths[i])
        assert Image.open(io.BytesIO(found.read(i))).size == (8, 8)
    reasons = {skipped.id: skipped.reason for skipped in found.skipped}
    if len(places) > 1:
        twice = f"{places[1][0]}/{NAMES[0]}"
        first = f"{places[0][0]}/{NAMES[0]}"
        # The one that comes first by its folder's name stays.
        assert reasons.get(twice, reasons.get(first)).startswith("the same name as")
    if len(places) > 2:
        crop = "part1/30_0_1_20170117000000000.jpg"
        assert reasons[crop].startswith("it is not a crop")


def test_kaggles_table_of_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8)
    rows = ["age,ethnicity,gender,img_name,pixels"]
    for age, image in zip((1, 35), pixels, strict=True):
        cells = " ".join(map(str, image.ravel()))
        rows.append(f"{age},2,0,20161219203650636.jpg.chip.jpg,{cells}")
    (tmp_path / "age_gender.csv").write_text("\n".join(rows))

    for data in (tmp_path, tmp_path / "age_gender.csv"):
        found = open_source(data, "all")
        # The names of UTKFace, so that its split lists could be looked up.
        assert labels_of(found) == {
            "1_0_2_20161219203650636.jpg.chip.jpg": (1, MALE, ASIAN),
            "35_0_2_20161219203650636.jpg.chip.jpg": (35, MALE, ASIAN),
        }
        for i, image in enumerate(pixels):
            decoded = np.asarray(Image.open(io.BytesIO(found.read(i))))
            np.testing.assert_array_equal(decoded, image)


def test_adience(tmp_path):
    header = (
        "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\t"
        "fiducial_yaw_angle\tfiducial_score\n"
    )
    rows = {
        0: "30601258@N03\t10399646885_67c7d20df9_o.jpg\t1\t(25, 32)\tf",
        3: "30601258@N03\t10424815813_e94629b1ec_o.jpg\t2\t35\tm",
        4: "7153718@N04\t11597935265_29bcdfa4a5_o.jpg\t3\tNone\tu",
    }
    for number, row in rows.items():
        text = header + row + "\t0\t0\t9\t9\t0\t0\t1\n"
        (tmp_path / f"fold_{number}_data.txt").write_text(text)
        user, image, face, *_ = row.split("\t")
        name = f"coarse_tilt_aligned_face.{face}.{image}"
        write_folder(tmp_path / "faces" / user, [name])

    train = open_source(tmp_path, "train")
    name = "faces/30601258@N03/coarse_tilt_aligned_face.1.10399646885_67c7d20df9_o.jpg"
    assert labels_of(train) == {name: (28.5, FEMALE, MISSING)}
    assert ages_of(train) == {name: (28.5, 3.5)}
    (row,) = labels_of(open_source(tmp_path, "validation")).values()
    assert row == (35, MALE, MISSING)
    (row,) = labels_of(open_source(tmp_path, "test")).values()
    assert row == (MISSING, MISSING, MISSING)


def test_appa_real(tmp_path):
    for part, age in (("train", 4), ("valid", 20), ("test", 60)):
        (tmp_path / f"gt_avg_{part}.csv").write_text(
            "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
            f"000000.jpg,36,{age + 1.05},2.1,{age}\n"
        )
        write_folder(tmp_path / part, ["000000.jpg", "000000.jpg_face.jpg"])
    for split, part, age in (
        ("train", "train", 4), ("validation", "valid", 20), ("test", "test", 60),
    ):  # fmt: skip
        found = open_source(tmp_path, split)
        name = f"{part}/000000.jpg_face.jpg"
        assert labels_of(found) == {name: (age, MISSING, MISSING)}


def test_imdb_wiki(tmp_path):
    import scipy.io

    # 2009-07-01 is day 733955 in MATLAB: datenum(2009, 7, 1).
    day = 733955.0
    rows = [
        # path, dob, taken, gender, score, second
        ("17/a.jpg", day - 365 * 30, 2009.0, 0.0, 4.3, np.nan),
        ("48/b.jpg", day, 2030.0, 1.0, 2.1, np.nan),
        ("48/c.jpg", day - 40, 2030.0, np.nan, 2.1, np.nan),
        ("12/nobody.jpg", day, 2030.0, 1.0, -np.inf, np.nan),
        ("12/two.jpg", day, 2030.0, 1.0, 4.0, 3.0),
        ("12/before.jpg", day, 1980.0, 1.0, 4.0, np.nan),
    ]
    path, dob, taken, gender, score, second = (
        np.array(column, object if i == 0 else float)
        for i, column in enumerate(zip(*rows, strict=True))
    )
    names = ("full_path", "dob", "photo_taken", "gender", "face_score",
             "second_face_score")  # fmt: skip
    table = dict(zip(names, (path, dob, taken, gender, score, second), strict=True))
    scipy.io.savemat(tmp_path / "wiki.mat", {"wiki": table})
    for name, *_ in rows:
        write_folder((tmp_path / name).parent, [name.split("/")[1]])

    for data in (tmp_path, tmp_path / "wiki.mat"):
        found = open_source(data, "all")
        # Born 30 * 365 days before 2009-07-01: 1979-07-09, so 29 in the middle of
        # 2009. Born on 2009-07-01: 20 then. Born in May 2009: 21.
        assert labels_of(found) == {
            "17/a.jpg": (29, FEMALE, MISSING),
            "48/b.jpg": (20, MALE, MISSING),
            "48/c.jpg": (21, MISSING, MISSING),
        }
        reasons = {skipped.id: skipped.reason for skipped in found.skipped}
        assert "no face" in reasons["12/nobody.jpg"]
        assert "second face" in reasons["12/two.jpg"]
        assert "no age" in reasons["12/before.jpg"]


def write_parquet(path, count, first=0):
    import pyarrow as pa
    import pyarrow.parquet

    features = {
        "image": {"_type": "Image"},
        "age": {"_type": "ClassLabel", "names": ["0-2", "3-9", "more than 70"]},
        "gender": {"_type": "ClassLabel", "names": ["Male", "Female"]},
        "race": {"_type": "ClassLabel", "names": ["East Asian", "Black"]},
    }
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table(
        {
            "image": [{"bytes": jpeg(first + i), "path": None} for i in range(count)],
            "age": [i % 3 for i in range(count)],
            "gender": [i % 2 for i in range(count)],
            "race": [i % 2 for i in range(count)],
        }
    )
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


def test_parquet_files_of_hugging_face(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", 3)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", 1, 7)

    train = open_source(tmp_path, "train")

    name = "train-00000-of-00001"
    assert labels_of(train) == {
        f"{name}/0": (1, MALE, ASIAN),
        f"{name}/1": (6, FEMALE, BLACK),
        f"{name}/2": (95, MALE, ASIAN),
    }
    assert ages_of(train)[f"{name}/2"] == (95, 25)
    assert [train.read(i) for i in range(3)] == [jpeg(i) for i in range(3)]
    (found,) = (open_source(tmp_path / "data", "validation"),)
    assert len(found) == 1 and found.read(0) == jpeg(7)
    single = tmp_path / "data" / "train-00000-of-00001.parquet"
    assert open_source(single, "train").digest() == train.digest()


def test_ranges_and_exact_ages_are_joined(tmp_path):
    first = write_table(tmp_path / "a", "path,age\na.jpg,20-30\nb.jpg,40\n")
    second = write_table(tmp_path / "b", "path,age\nc.jpg,7\n", "more.csv")
    found = open_source(f"{first},{second}", "all")
    assert found.labels["age"].tolist() == [25, 40, 7]
    assert found.labels["age_half_width"].tolist() == [5, 0, 0]
    assert set(open_source(second, "all").labels) == {"age", "gender", "race"}
