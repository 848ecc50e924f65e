"""The builder on drawn dummy files, in every form that people have them."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import utkface_dataset_builder

from hydranet_tf.data import sources
from hydranet_tf.io.tables import SourceError

DUMMY = Path(__file__).parent / "dummy_data"
EXCLUDED = "26_0_0_20170113000000002.jpg.chip.jpg"
CORRECTED = "1_0_0_20170110000000001.jpg.chip.jpg"
WITHOUT_RACE = "39_1_20170116000000003.jpg.chip.jpg"


class UtkfaceTest(tfds.testing.DatasetBuilderTestCase):
    """What TFDS asks of every builder."""

    DATASET_CLASS = utkface_dataset_builder.Builder
    SPLITS = {"train": 4, "validation": 2, "test": 2}

    def setUp(self):
        super().setUp()
        self.enter_context(pytest.MonkeyPatch.context()).setattr(
            self.DATASET_CLASS, "SPLIT_LISTS", DUMMY / "splits"
        )

    def test_session(self, *args, **kwargs):
        return super().test_session(*args, **kwargs)

    # A helper of tf.test.TestCase that is called like a test.
    test_session.__test__ = False


@pytest.fixture
def dummy_lists(monkeypatch):
    monkeypatch.setattr(
        utkface_dataset_builder.Builder, "SPLIT_LISTS", DUMMY / "splits"
    )


def prepare(manual_dir: Path, data_dir: Path) -> tfds.core.DatasetBuilder:
    builder = utkface_dataset_builder.Builder(data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return builder


def as_folder(manual_dir: Path) -> None:
    shutil.copytree(DUMMY / "UTKFace", manual_dir / "UTKFace")


def as_one_archive(manual_dir: Path) -> None:
    with tarfile.open(manual_dir / "UTKFace.tar.gz", "w:gz") as archive:
        archive.add(DUMMY / "UTKFace", "UTKFace")


def as_two_archives(manual_dir: Path) -> None:
    files = sorted((DUMMY / "UTKFace").iterdir())
    for number, part in enumerate((files[:5], files[5:]), start=1):
        path = manual_dir / f"utkface-{number}-of-2.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for path in part:
                archive.add(path, f"UTKFace/{path.name}")


@pytest.mark.usefixtures("dummy_lists")
@pytest.mark.parametrize("lay_out", [as_folder, as_one_archive, as_two_archives])
@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_every_form_gives_what_the_folder_source_gives(tmp_path, lay_out, split):
    manual_dir = tmp_path / "manual"
    manual_dir.mkdir()
    lay_out(manual_dir)
    prepare(manual_dir, tmp_path)

    built = sources.open_source("utkface", split, data_dir=tmp_path)

    files = sources.open_source(DUMMY / "UTKFace", split, split_lists=DUMMY / "splits")
    if split == "all":
        # Corrections belong to the split train; the folder's `all` is as published.
        assert set(built.ids) == set(files.ids) - {EXCLUDED}
    else:
        assert built.digest() == files.digest()
        assert set(built.skipped) == set(files.skipped)
    for i, name in enumerate(built.ids):
        assert built.read(i) == (DUMMY / "UTKFace" / name).read_bytes()


@pytest.mark.usefixtures("dummy_lists")
def test_records_open_without_the_code_of_the_builder(tmp_path):
    data_path = prepare(DUMMY, tmp_path).data_path

    reader = tfds.builder_from_directory(data_path)

    rows = {
        row["id"].decode(): row for row in tfds.as_numpy(reader.as_dataset("train"))
    }
    assert not isinstance(reader, utkface_dataset_builder.Builder)
    assert rows[CORRECTED]["age"] == 2
    assert (rows[CORRECTED]["gender"], rows[CORRECTED]["race"]) == (0, -1)
    assert rows[WITHOUT_RACE]["age"] == 39
    assert (rows[WITHOUT_RACE]["gender"], rows[WITHOUT_RACE]["race"]) == (1, -1)
    assert rows[WITHOUT_RACE]["image"].shape == (16, 16, 3)
    assert reader.info.features["race"].int2str(2) == "asian"


@pytest.mark.usefixtures("dummy_lists")
def test_what_is_left_out_is_listed_with_its_reason(tmp_path):
    as_folder(tmp_path)
    (tmp_path / "UTKFace" / "7_0_0_20170101.jpg").write_bytes(b"unlisted")

    table = (prepare(tmp_path, tmp_path / "data").data_path / "skipped.csv").read_text()

    rows = {line.split(",")[1]: line for line in table.splitlines()[1:]}
    assert len(rows) == 4
    assert rows[EXCLUDED] == f"train,{EXCLUDED},default label"
    assert "from 0 to 120" in rows["999_0_1_20170116000000006.jpg.chip.jpg"]
    assert "4 others" in rows["30_0_7_20170110000000010.jpg.chip.jpg"]
    assert rows["7_0_0_20170101.jpg"].endswith("in none of the split lists")


@pytest.mark.usefixtures("dummy_lists")
def test_a_split_kept_elsewhere_is_left_out_loudly(tmp_path, caplog):
    as_folder(tmp_path)
    for name in (DUMMY / "splits" / "test.txt").read_text().splitlines():
        (tmp_path / "UTKFace" / name).unlink()

    builder = prepare(tmp_path, tmp_path / "data")

    assert sorted(builder.info.splits) == ["train", "validation"]
    assert "THE SPLIT 'test' IS ABSENT: none of its 3 files" in caplog.text
    with pytest.raises(SourceError, match="no split 'test'.*has train, validation"):
        sources.open_source("utkface", "test", data_dir=tmp_path / "data")


@pytest.mark.usefixtures("dummy_lists")
def test_a_part_of_a_split_missing_is_an_error(tmp_path):
    as_folder(tmp_path)
    (tmp_path / "UTKFace" / CORRECTED).unlink()
    with pytest.raises(
        SourceError, match=f"1 of the 6 files in train.txt.*{CORRECTED}"
    ):
        prepare(tmp_path, tmp_path / "data")


@pytest.mark.usefixtures("dummy_lists")
@pytest.mark.parametrize(
    ("lay_out", "name", "kept", "message"),
    [
        (as_one_archive, "UTKFace.tar.gz", 1000, "UTKFace.tar.gz is damaged"),
        (as_one_archive, "UTKFace.tar.gz", 0, "UTKFace.tar.gz is damaged"),
        # Of a tar every member is a header of 512 bytes and its data. Inside the
        # first data it is damaged; between two members it only ends early.
        (as_two_archives, "utkface-2-of-2.tar", 612, "2-of-2.tar is damaged"),
        (as_two_archives, "utkface-2-of-2.tar", 1024, "of the . files in .* are not"),
    ],
)
def test_a_damaged_archive_is_an_error(tmp_path, lay_out, name, kept, message):
    lay_out(tmp_path)
    whole = (tmp_path / name).read_bytes()
    assert kept < len(whole)
    (tmp_path / name).write_bytes(whole[:kept])
    with pytest.raises(SourceError, match=message):
        prepare(tmp_path, tmp_path / "data")


@pytest.mark.usefixtures("dummy_lists")
def test_wrong_members_of_an_archive_lead_nowhere(tmp_path):
    as_two_archives(tmp_path)
    outside = tmp_path / "outside"
    strange = {
        f"{outside}/UTKFace/{CORRECTED}.jpg": tarfile.REGTYPE,
        "../../UTKFace/8_0_0_20170101.jpg": tarfile.REGTYPE,
        f"UTKFace/._{CORRECTED}": tarfile.REGTYPE,
        f"crop_part1/{CORRECTED}": tarfile.REGTYPE,
        "UTKFace/9_0_0_20170101.jpg": tarfile.SYMTYPE,
    }
    with tarfile.open(tmp_path / "utkface-2-of-2.tar", "a") as archive:
        for name, kind in strange.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    before = {path for path in tmp_path.rglob("*")}

    builder = prepare(tmp_path, tmp_path / "data")

    assert builder.info.splits["train"].num_examples == 4
    written = {p for p in tmp_path.rglob("*") if p not in before}
    assert {p.relative_to(tmp_path).parts[0] for p in written} == {"data"}
    images = [r["image"] for r in tfds.as_numpy(builder.as_dataset("train"))]
    assert all(np.ptp(image) > 0 for image in images)


@pytest.mark.usefixtures("dummy_lists")
def test_a_file_in_both_archives_is_an_error(tmp_path):
    as_two_archives(tmp_path)
    with tarfile.open(tmp_path / "utkface-2-of-2.tar", "a") as archive:
        first = sorted((DUMMY / "UTKFace").iterdir())[0]
        archive.add(first, f"UTKFace/{first.name}")
    with pytest.raises(SourceError, match=f"twice: '{first.name}'"):
        prepare(tmp_path, tmp_path / "data")


@pytest.mark.usefixtures("dummy_lists")
def test_a_wrong_folder_is_shown_beside_the_expected_trees(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "me.jpg").touch()
    (tmp_path / "utkface-1-of-2.tar").touch()
    with pytest.raises(SourceError) as caught:
        prepare(tmp_path, tmp_path / "data")
    message = str(caught.value)
    for expected in ("UTKFace/ ", "UTKFace.tar.gz", "utkface-2-of-2.tar"):
        assert expected in message.partition("Found:")[0]
    for found in ("faces/", "me.jpg", "(1 entries)", "utkface-1-of-2.tar"):
        assert found in message.partition("Found:")[2]


@pytest.mark.usefixtures("dummy_lists")
@pytest.mark.parametrize("there", [True, False])
def test_an_empty_folder_is_an_error_with_the_expected_trees(tmp_path, there):
    manual_dir = tmp_path / "manual"
    if there:
        manual_dir.mkdir()
    with pytest.raises(SourceError, match=r"(?s)empty.*UTKFace/.*UTKFace.tar.gz"):
        prepare(manual_dir, tmp_path / "data")


if __name__ == "__main__":
    tfds.testing.test_main()
