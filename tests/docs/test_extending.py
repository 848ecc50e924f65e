"""docs/extending.md: a fourth task and a new backbone by a module of one's own."""

from __future__ import annotations

import csv
import json

import documents
import forks
import pytest

pytestmark = pytest.mark.long

PAGE = "docs/extending.md"


@pytest.fixture(scope="module")
def blocks():
    module, example = documents.code_blocks(PAGE, "python")
    return {"module": module, "example": example}


@pytest.fixture(scope="module")
def copy(tmp_path_factory, blocks):
    """A folder with the page's module, after what the page runs."""
    root = tmp_path_factory.mktemp("extended")
    (root / "my_faces.py").write_text(blocks["module"])
    for command in documents.commands(PAGE):
        python, script, *arguments = command.split()
        assert python == "python"
        done = forks.run([documents.REPOSITORY / script, *arguments], cwd=root)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return root


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


def test_it_is_predicted_far_better_than_by_chance(copy):
    """Half of the faces wear them."""
    report = json.loads((copy / "reports/glasses/report.json").read_text())
    score = report["tasks"]["glasses"]["scores"]["accuracy"]
    assert score["low"] > 0.8, score
    assert report["tasks"]["glasses"]["classes"] == ["bare", "glasses"]
    counts = report["tasks"]["glasses"]["confusion"]["counts"]
    assert sum(map(sum, counts)) == score["n"] == report["data"]["examples"]
    assert "## Glasses" in (copy / "reports/glasses/report.md").read_text()
    assert (copy / "reports/glasses/confusion_glasses.png").is_file()


def test_the_exported_file_predicts_as_the_report_says(copy):
    """By another way: every picture through predict.py, compared with the labels."""
    labels = {
        row["path"]: row["glasses"] for row in rows(copy / "drawn_glasses/faces.csv")
    }
    found = {row["file"].rpartition("/")[2]: row for row in rows(copy / "glasses.csv")}
    assert found.keys() == labels.keys() and len(labels) == 800
    for row in found.values():
        fractions = {
            name: float(row[f"p_glasses_{name}"]) for name in ("bare", "glasses")
        }
        assert sum(fractions.values()) == pytest.approx(1, abs=1e-5)
        assert row["glasses"] == max(fractions, key=fractions.get)
    predictions = rows(copy / "reports/glasses/predictions.csv")
    assert 50 < len(predictions) < 110
    right = 0
    for row in predictions:
        exported = found[row["id"]]
        assert row["glasses"] == labels[row["id"]]
        assert float(exported["p_glasses_glasses"]) == pytest.approx(
            float(row["p_glasses_glasses"]), abs=1e-4
        )
        assert float(exported["age"]) == pytest.approx(
            float(row["predicted_age"]), abs=0.02
        )
        right += exported["glasses"] == labels[row["id"]]
    report = json.loads((copy / "reports/glasses/report.json").read_text())
    accuracy = report["tasks"]["glasses"]["scores"]["accuracy"]["value"]
    assert right / len(predictions) == pytest.approx(accuracy)


def test_without_the_module_the_message_names_it(copy):
    script = documents.REPOSITORY / "export.py"
    done = forks.run(
        [script, "--workdir=runs/glasses", "--output=exports/other"], cwd=copy
    )
    assert done.returncode and "give --import=my_faces" in done.stderr


def test_the_file_says_what_it_predicts(copy):
    description = json.loads((copy / "exports/glasses/hydranet.json").read_text())
    assert [task["name"] for task in description["tasks"]] == [
        "age", "gender", "race", "glasses"
    ]  # fmt: skip
    assert description["outputs"]["glasses"]["shape"] == [1, 2]
    card = (copy / "exports/glasses/MODEL_CARD.md").read_text()
    assert "glasses: probabilities of bare, glasses" in card
