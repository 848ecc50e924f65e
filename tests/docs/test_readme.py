"""README.md as a reader follows it: its commands, one after the other, in one folder.

Bash runs each to the letter. What stands for the reader's own things: drawn pictures in
`UTKFace/`, the photograph of scikit-image; and behind some commands stand settings by
which they take seconds. What cannot be run is in `NOT_RUN` with its reason, and is
looked at as far as it can be. A command that README gains is run from then on.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import json
import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path

import dlib_network
import documents
import pytest
import synthetic
from sample_pictures import astronaut, crowd

ROOT = documents.REPOSITORY
README = "README.md"
# Many times what two idle cores take for the longest command.
SECONDS = 500
FACES, EPOCHS = 600, 5

# By the beginning of a command, what stands behind it.
SETTINGS = {
    "python train.py --flagfile=": "--backbone=tiny --width=8 --image_size=48 --noxla "
    f"--batch_size=24 --epochs={EPOCHS} --augmentation=none --warmup_epochs=0 "
    # Medians of half-learned distributions leap where weights are rounded.
    "--age_head=value "
    # The tiny network has none that are published.
    "--backbone_weights=",
    # The published one is in a package that the tests do without.
    "python tools/convert_weights.py": "--source=network.dat",
    "hydranet train --data=faces.csv": "--epochs=1",
    "tensorboard --logdir runs": "--inspect",
    "hydranet serve": "--port=0 --workers=1",
}
# What a target of make starts, by another test or by CI.
TARGETS = {
    # It asks a registry; .ci/run begins with it.
    "make venv": "-m pip install --quiet --no-compile --requirement requirements.txt",
    # tests/integration/test_end_to_end.py runs this script.
    "make demo": "examples/demo.py --output=demo_output",
    # These tests themselves; .ci/run runs them.
    "make test": "-m pytest --numprocesses=logical --dist=worksteal",
    # It serves until it is stopped; the tests marked web run the first two, and serve
    # as the third does.
    "make web": "npm ci --no-audit --no-fund && npm run build && npm run serve",
}
NOT_RUN = {
    "source .venv/bin/activate": "whoever runs the tests chose an environment",
    "pip install .": "asks a registry; test_packaging.py builds the wheel",
    "pip install '.[serve]'": "asks a registry; the lock has what it names",
    "pip install '.[video]'": "the same",
    "pip install '.[faces]'": "asks a registry for 100 MB; the next command reads "
    "a file of random weights instead",
}
PROGRAM = re.compile(
    r"(python|make|pip|npm|npx|docker|tensorboard|sha256sum|curl|source|bash)\b[^-]"
    r"|\.ci/|\./|[A-Z_]+=\S+ \w"
)


def commands() -> list[str]:
    """Indented ones, then those inside of sentences; `curl` after what it asks."""
    indented = [
        command
        for command in documents.commands(README)
        # The lines of a table.
        if not re.match(r"[\w/.]+,", command)
    ]
    spans = re.findall(r"`([^`]+)`", documents.without_code_blocks(README))
    found = indented + [span for span in spans if PROGRAM.match(span)]
    found = dict.fromkeys(" ".join(command.split()) for command in found)
    return sorted(found, key=lambda command: "curl" in command)


COMMANDS = commands()


def of(table: dict[str, str], command: str, default: str = "") -> str:
    return next((v for k, v in table.items() if command.startswith(k)), default)


def test_what_is_listed_is_still_there():
    assert set(NOT_RUN) | set(TARGETS) <= set(COMMANDS)
    for beginning in SETTINGS:
        assert any(command.startswith(beginning) for command in COMMANDS), beginning


@pytest.mark.parametrize("target", TARGETS)
def test_make_starts_what_is_tested(target):
    done = subprocess.run(
        # What it would do if nothing were there.
        ["make", "--dry-run", "--always-make", target.split()[1]],
        cwd=ROOT, env={**os.environ, "MAKEFLAGS": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{re.escape(TARGETS[target])}", done.stdout, re.M), done.stdout


def test_what_is_not_run_names_what_is_there():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = re.findall(r"\.\[(\w+)\]", " ".join(NOT_RUN))
    assert sorted(extras) == ["faces", "serve", "video"]
    assert set(extras) <= set(setup["options.extras_require"])


class Reader:
    """A folder like the repository's root, and what each command printed there."""

    def __init__(self, root: Path):
        self.root, self.printed, self.port = root, {}, None
        # The scripts find the package beside the files that these links lead to.
        for top in {name.partition("/")[0] for name in documents.tracked()}:
            if top not in ("datasets", "results", "tests"):
                (root / top).symlink_to(ROOT / top)
        synthetic.write_folder(root / "UTKFace", FACES)
        (root / "datasets" / "utkface").mkdir(parents=True)
        (root / "UTKFace/splits").rename(root / "datasets/utkface/splits")
        (root / "holiday").mkdir()
        for name in ("photo.jpg", "party.jpg", "holiday/a.jpg"):
            astronaut().save(root / name, quality=95)
        crowd(2, 1, 240).save(root / "holiday/b.png")
        synthetic.picture(40, 1, 2).save(root / "face.jpg")
        layers = dlib_network.random_layers(0)
        (root / "network.dat").write_bytes(dlib_network.file(layers))
        # The command of the wheel, for the repository need not be installed.
        (root / "bin").mkdir()
        command = root / "bin" / "hydranet"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m hydranet_tf "$@"\n')
        command.chmod(0o755)

    def environment(self) -> dict[str, str]:
        beside = Path(sys.executable).parent
        path = f"{self.root / 'bin'}:{beside}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path}

    def run(self, command: str) -> None:
        # Nothing of this file may change the environment that it runs in.
        assert not command.startswith("pip "), f"to be listed in NOT_RUN: {command}"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c",
             f"{command} {of(SETTINGS, command)}".replace(":8501/", f":{self.port}/")],
            cwd=self.root, env=self.environment(), capture_output=True, text=True,
            timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.printed[command] = done.stdout

    def python(self, block: str) -> str:
        """Runs a block of code from the root."""
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=self.root,
            env=self.environment(), capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def serving(self, command: str):
        """Starts the server, and remembers its port while the context is open."""
        with open(self.root / "server.log", "w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command} {of(SETTINGS, command)}"],
                cwd=self.root, env=self.environment(), stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip
        try:
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            line = process.stdout.readline() if ready else ""
            assert line, (self.root / "server.log").read_text()
            self.port = re.search(r":(\d+)/", line)[1]
            self.printed[command] = line
            yield
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The folder after all commands, and what the blocks of code printed."""
    reader = Reader(tmp_path_factory.mktemp("readme"))
    blocks = documents.code_blocks(README, "python")
    (serve,) = (c for c in COMMANDS if c.startswith("hydranet serve"))
    ask = []
    for command in COMMANDS:
        if command in NOT_RUN or command in TARGETS or command == serve:
            continue
        if "curl" in command:
            ask.append(command)
            continue
        if "--data=faces.csv" in command and not (reader.root / "faces").exists():
            # Rows of photographs had that name before.
            (reader.root / "faces.csv").rename(reader.root / "rows.csv")
            write_own_faces(reader.root)
        reader.run(command)
    with reader.serving(serve):
        for command in ask:
            reader.run(command)
    return reader, [reader.python(block) for block in blocks]


def write_own_faces(root: Path) -> None:
    """The table that the README shows, and its pictures."""
    lines = [c for c in documents.commands(README) if re.match(r"[\w/.]+,", c)]
    (root / "faces.csv").write_text("\n".join(lines))
    (root / "faces").mkdir()
    for line in lines[1:]:
        astronaut().resize((120, 100)).save(root / line.partition(",")[0])


def first(reader: Reader, beginning: str) -> tuple[str, str]:
    """The first command that begins so, and what it printed."""
    return next((c, p) for c, p in reader.printed.items() if c.startswith(beginning))


def folder_of(reader: Reader, beginning: str, flag: str) -> Path:
    words = shlex.split(first(reader, beginning)[0])
    (value,) = (w.partition("=")[2] for w in words if w.startswith(f"--{flag}="))
    return reader.root / value


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_every_command_was_run_or_is_listed(read):
    assert set(read[0].printed) == set(COMMANDS) - set(NOT_RUN) - set(TARGETS)
    assert len(read[0].printed) >= 10


@pytest.mark.long
def test_photographs_are_predicted(read):
    reader, (by_predictor, _) = read
    for command in ("hydranet predict photo.jpg", "python predict.py photo.jpg"):
        line = first(reader, command)[1].splitlines()[0]
        assert re.match(r"photo\.jpg: \d+ years \(\d+ to \d+\), female \d+ %", line)
    found = rows(reader.root / "rows.csv")
    assert [Path(row["file"]).name for row in found] == ["a.jpg", "b.png", "b.png"]
    # The same photograph by another name, from Python, and over HTTP.
    age = float(re.search(r"\) ([\d.]+) ", by_predictor)[1])
    assert age == pytest.approx(float(found[0]["age"]), abs=0.01)
    assert "female" in by_predictor
    (curl,) = (printed for c, printed in reader.printed.items() if "curl" in c)
    (row,) = json.loads(curl)["rows"]
    assert row["file"] == "photo.jpg"
    assert row["age"] == pytest.approx(float(found[0]["age"]), abs=0.01)


@pytest.mark.long
def test_the_trained_networks_are_there(read):
    reader, _ = read
    workdir = folder_of(reader, "python train.py --flagfile=", "workdir")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [*range(1, EPOCHS + 1)]
    own = folder_of(reader, "hydranet train --data=faces.csv", "workdir")
    _, printed = first(reader, "hydranet train --data=faces.csv")
    assert "2 faces to train, 1 to validate" in printed
    assert (own / "metrics.jsonl").is_file()
    _, drawn = first(reader, "tensorboard --logdir runs")
    # Every five epochs.
    assert drawn.count("largest_errors") and "age" in drawn


@pytest.mark.long
def test_the_report_is_of_all_validation_faces(read):
    reader, _ = read
    report = folder_of(reader, "python evaluate.py", "output")
    found = json.loads((report / "report.json").read_text())
    assert (
        found["data"]["examples"] == FACES // 5 == len(rows(report / "predictions.csv"))
    )
    assert (report / "report.md").is_file() and (report / "report.html").is_file()


@pytest.mark.long
def test_the_exports_predict_alike(read):
    """One face by the SavedModel of the README and by the LiteRT file beside it."""
    reader, (_, by_saved_model) = read
    from hydranet_tf.inference.predictor import Predictor

    exports = folder_of(reader, "python export.py", "output")
    predictor = Predictor(exports / "hydranet.tflite", detector=None)
    (face,) = predictor(reader.root / "face.jpg")
    age = float(re.search(r"\[([\d.]+)", by_saved_model)[1])
    assert age == pytest.approx(face.age, abs=0.05)
