"""docs/extending.md: a fourth task and a new backbone, in a copy of the repository."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import documents
import pytest

pytestmark = pytest.mark.long

PAGE = "docs/extending.md"
# Many times what two idle cores take for the longest command.
SECONDS = 400


@pytest.fixture(scope="module")
def blocks():
    task, example, backbone, row = documents.code_blocks(PAGE, "python")
    return {"task": task, "example": example, "backbone": backbone, "row": row}


@pytest.fixture(scope="module")
def copy(tmp_path_factory, blocks):
    """The repository with what the page says, after what it runs."""
    root = tmp_path_factory.mktemp("extended")
    for name in documents.tracked():
        if name.startswith(("hydranet_tf/", "datasets/drawn_faces/", "examples/")) or (
            "/" not in name and name.endswith(".py")
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(documents.REPOSITORY / name, root / name)
    (root / "hydranet_tf/backbones/plain.py").write_text(blocks["backbone"])
    insert(
        root / "hydranet_tf/tasks.py",
        {"TASKS: tuple[Task, ...] = (AGE, GENDER, RACE)\n": blocks["task"]},
    )
    first = "BACKBONES: Mapping[str, Backbone] = {\n"
    imports = "    efficientnet_lite,\n    resnet,\n)\n"
    insert(
        root / "hydranet_tf/backbones/__init__.py",
        {
            first: first + blocks["row"],
            imports: imports.replace("    resnet", "    plain,\n    resnet"),
        },
    )
    for command in documents.commands(PAGE):
        python, *arguments = command.split()
        assert python == "python"
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=root, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return root


def insert(path, replacements):
    text = path.read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_shows_the_example_and_it_is_short(blocks):
    example = documents.text("examples/glasses.py")
    assert blocks["example"] == example
    assert len(example.splitlines()) < 30


def test_training_logs_the_fourth_score_and_weight(copy):
    lines = (copy / "runs/glasses/metrics.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    assert last["delta"] != first["delta"]
    assert last["glasses_loss"] < first["glasses_loss"]
    assert {"alpha", "beta", "gamma", "delta"} <= last.keys()


def test_it_is_answered_far_better_than_by_chance(copy):
    """Half of the faces wear them."""
    report = json.loads((copy / "reports/glasses/report.json").read_text())
    score = report["tasks"]["glasses"]["scores"]["accuracy"]
    assert score["low"] > 0.8, score
    assert report["tasks"]["glasses"]["classes"] == ["bare", "glasses"]
    counts = report["tasks"]["glasses"]["confusion"]["counts"]
    assert sum(map(sum, counts)) == score["n"] == report["data"]["examples"]
    assert "## Glasses" in (copy / "reports/glasses/report.md").read_text()
    assert (copy / "reports/glasses/confusion_glasses.png").is_file()


def test_the_exported_file_answers_as_the_report_says(copy):
    """By another way: every picture through predict.py, compared with the labels."""
    labels = {
        row["path"]: row["glasses"] for row in rows(copy / "drawn_glasses/faces.csv")
    }
    found = {row["file"].rpartition("/")[2]: row for row in rows(copy / "glasses.csv")}
    assert found.keys() == labels.keys() and len(labels) == 800
    for row in found.values():
        shares = {name: float(row[f"p_{name}"]) for name in ("bare", "glasses")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["glasses"] == max(shares, key=shares.get)
    predictions = rows(copy / "reports/glasses/predictions.csv")
    assert 50 < len(predictions) < 110
    right = 0
    for row in predictions:
        exported = found[row["id"]]
        assert row["glasses"] == labels[row["id"]]
        assert float(exported["p_glasses"]) == pytest.approx(
            float(row["p_glasses_glasses"]), abs=1e-4
        )
        assert float(exported["age"]) == pytest.approx(
            float(row["predicted_age"]), abs=0.02
        )
        right += exported["glasses"] == labels[row["id"]]
    report = json.loads((copy / "reports/glasses/report.json").read_text())
    accuracy = report["tasks"]["glasses"]["scores"]["accuracy"]["value"]
    assert right / len(predictions) == pytest.approx(accuracy)


def test_data_without_the_task_goes_on_working(copy, tmp_path):
    (tmp_path / "31_1_2_20170110000000001.jpg").write_bytes(b"not looked at")
    code = (
        "from hydranet_tf.data import sources\n"
        f"examples = sources.open_source({str(tmp_path)!r}, 'all')\n"
        "print({name: v.tolist() for name, v in sorted(examples.labels.items())})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == (
        "{'age': [31.0], 'gender': [1], 'glasses': [-1], 'race': [2]}\n"
    )


def test_the_file_says_what_it_answers(copy):
    description = json.loads((copy / "exports/glasses/hydranet.json").read_text())
    assert [task["name"] for task in description["tasks"]] == [
        "age", "gender", "race", "glasses"
    ]  # fmt: skip
    assert description["outputs"]["glasses"]["shape"] == [1, 2]
    card = (copy / "exports/glasses/MODEL_CARD.md").read_text()
    assert "glasses: probabilities of bare, glasses" in card
