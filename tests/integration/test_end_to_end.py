"""The scripts as users run them."""

import glob
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from hydranet_tf.evaluation import evaluate

ROOT = Path(__file__).resolve().parents[2]
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# What libraries say at their start, on machines with and without a GPU.
START_UP = re.compile(r"absl::|\.cc:\d|oneDNN|XNNPACK|cuda|fully_quantize|^[IWE]\d{4} ")


def as_users_have_it():
    """The environment without what makes tests quiet."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP_")}


def start_up_text(printed):
    return [line for line in printed.splitlines() if START_UP.search(line)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """`make demo` with two epochs: all scripts, one after the other."""
    folder = tmp_path_factory.mktemp("demo") / "out put"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", f"--output={folder}",
         "--epochs=2"],
        capture_output=True, text=True, cwd=folder.parent, env=as_users_have_it(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not start_up_text(done.stderr)
    return folder, done.stdout


@pytest.mark.long
def test_demo_ends_by_telling_where_things_lie(demo):
    folder, printed = demo
    end = printed[printed.index("Done. Look at") :]
    paths = re.findall(r"^  (\S.*?)  ", end, re.MULTILINE)
    assert len(paths) == 6
    for path in paths:
        assert glob.glob(path), path


@pytest.mark.long
def test_demo_report_counts_every_test_face(demo):
    folder, _ = demo
    report = json.loads((folder / "report" / "report.json").read_text())
    rows = (folder / "report" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 256
    assert "256" in json.dumps(report)


@pytest.mark.long
def test_demo_learned_something(demo):
    folder, _ = demo
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"]
    # Chance is a fifth.
    assert rows[1]["race_accuracy"] > 0.4


@pytest.mark.long
def test_a_second_evaluation_of_the_exported_file(demo, tmp_path):
    folder, _ = demo
    evaluate.evaluate_model(
        folder / "exports" / "hydranet.tflite", "drawn_faces", "test",
        tmp_path / "report", data_dir=folder / "data",
    )  # fmt: skip

    def predictions(path):
        header, *rows = (path / "predictions.csv").read_text().splitlines()
        at = header.split(",").index("predicted_age")
        return [float(row.split(",")[at]) for row in rows]

    workdir, tflite = predictions(folder / "report"), predictions(tmp_path / "report")
    assert workdir == pytest.approx(tflite, abs=0.01)


@pytest.mark.parametrize(
    ("script", "arguments", "hint"),
    [
        ("train.py", ["--workdir=w", "--epochs=0"], "--epochs must be above 0"),
        ("train.py", [], "--workdir"),
        ("evaluate.py", ["--model=w", "--data=x", "--output=o"], "workdir"),
        ("export.py", ["--workdir=w", "--output=o"], "not a workdir"),
    ],
)
def test_mistakes_get_a_sentence_and_no_traceback(script, arguments, hint, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=as_users_have_it(),
    )  # fmt: skip
    assert done.returncode != 0
    assert not start_up_text(done.stderr)
    # absl prints usage to standard output.
    assert hint in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("asked", [False, True])
def test_start_up_text_is_shown_to_who_asks(asked, tmp_path):
    """Of LiteRT, when a face is predicted; of TensorFlow, when it is imported."""
    picture = ROOT / "docs" / "images" / "prediction.jpg"
    verbosity = ["--verbosity=1"] if asked else []
    predicted, refused = (
        subprocess.run(
            [sys.executable, *command, *verbosity],
            capture_output=True, text=True, cwd=tmp_path, env=as_users_have_it(),
        )
        for command in (
            [ROOT / "predict.py", picture],
            [ROOT / "train.py", "--workdir=w", "--data=nowhere.csv"],
        )
    )  # fmt: skip
    assert predicted.returncode == 0 and str(picture) in predicted.stdout
    assert refused.returncode == 1 and "nowhere.csv" in refused.stderr
    if asked:
        assert "XNNPACK delegate" in predicted.stderr
        assert "oneDNN custom operations are on" in refused.stderr
    else:
        assert not predicted.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_an_error_of_an_import_is_seen_with_all_that_was_said(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import os\nos.write(2, b'I0000 00:00:1.5   1 cuda.cc:3] no such card\\n')\n"
        "raise ImportError('libcuda.so.1: cannot open shared object file')\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "predict.py", "--import=broken", "face.jpg"],
        capture_output=True, text=True, cwd=tmp_path, env=as_users_have_it(),
    )  # fmt: skip
    assert done.returncode == 1
    assert "no such card" in done.stderr
    assert "ImportError: libcuda.so.1: cannot open" in done.stderr


def test_flagfiles_hold_settings_that_exist():
    from hydranet_tf import config

    files = sorted((ROOT / "configs").glob("*.flags"))
    assert len(files) >= 3
    known = set(config.TrainingConfig.__dataclass_fields__)
    for file in files:
        settings = flags.FlagValues().read_flags_from_files([f"--flagfile={file}"])
        assert settings, file
        names = {s.removeprefix("--").partition("=")[0] for s in settings}
        assert names <= known, file
        assert file.read_text().startswith("# "), "say what it is for"


@pytest.mark.parametrize("script, chosen", [("train", None), ("evaluate", "0")])
def test_onednn_is_used_unless_the_user_says_otherwise(script, chosen):
    given = {k: v for k, v in os.environ.items() if k != ONEDNN}
    done = subprocess.run(
        [sys.executable, "-c",
         f"import os, hydranet_tf.commands.{script}; print(os.environ[{ONEDNN!r}])"],
        capture_output=True, text=True, cwd=ROOT,
        env=given if chosen is None else {**given, ONEDNN: chosen},
    )  # fmt: skip
    assert done.stdout == f"{chosen or 1}\n", done.stderr
