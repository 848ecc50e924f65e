"""What --check prints, before anything trains."""

from __future__ import annotations

from pathlib import Path

import forks
import pytest
from source_files import write_folder

from hydranet_tf.data import check
from hydranet_tf.io.tables import SourceError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(tmp_path):
    write_folder(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "faces.csv").write_text(
        "path,age,gender,split\na.jpg,20-29,M,train\nb.jpg,7,,train\nc.jpg,60+,F,val\n"
    )
    return tmp_path / "faces.csv"


def rows_of(text):
    return [line.split() for line in text.splitlines()]


def test_counts_by_split_task_and_class(table):
    rows = rows_of(check.describe(table))
    assert rows[0] == [str(table)]
    assert rows[1] == ["train", "validation"]
    for row in (
        ["examples", "2", "1"], ["age", "2", "1"], ["smallest", "7", "90"],
        ["median", "15.75", "90"], ["largest", "24.5", "90"], ["ranges", "1", "1"],
        ["gender", "1", "1"], ["male", "1", "0"], ["female", "0", "1"],
        ["race", "0", "0"], ["nothing", "was", "skipped"],
    ):  # fmt: skip
        assert row in rows, row


def test_what_was_skipped_and_why_of_each_of_several_sources(table, tmp_path):
    names = ["1_0_0_20170110000000001.jpg", "999_0_0_20170110000000001.jpg"]
    folder = write_folder(tmp_path / "named", names)
    text = check.describe(f"{folder},{table}")
    assert "named\n" in text and "faces\n" in text
    assert "1 skipped:" in text and "from 0 to 120" in text and names[1] in text


def test_one_of_several_sources_that_gives_nothing_says_why(table, tmp_path):
    folder = write_folder(tmp_path / "holiday", ["beach.jpg"])
    text = check.describe(f"{folder},{table}")
    (line,) = [x for x in text.splitlines() if "no usable example" in x]
    assert text.startswith("holiday\n  there is no usable example in")
    assert "beach.jpg" in text and "examples" in text.split("\nfaces\n")[1]


def test_the_command_needs_no_workdir_and_says_what_is_wrong(table):
    def run(*flags):
        return forks.run(["train.py", "--check", *flags], cwd=ROOT)

    done = run(f"--data={table}", "--columns=age=nothing")
    assert done.returncode == 1
    assert "--columns: " in done.stderr and "'nothing'" in done.stderr
    with pytest.raises(SourceError, match="found no data"):
        check.describe("nowhere")
