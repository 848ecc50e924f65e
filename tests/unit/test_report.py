"""From predictions to a report on disk."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from report_files import FILES, PICTURES, names_in, read_json
from sklearn import metrics

from hydranet_tf.evaluation import (
    evaluate,
    findings,
    report,
    report_text,
)
from hydranet_tf.tasks import AGE, BINARY, GENDER, MISSING, RACE, TASKS, Task

ABOUT = {
    "model": {
        "path": "runs/some", "kind": "workdir", "checkpoint": "best-00000120",
        "epoch": 3, "image_size": 48,
        "loss_weights": {"epoch": 3, "values": {"alpha": 0.125, "beta": 2.0}},
    },
    "data": {
        "source": "some_faces", "split": "validation", "digest": "ab" * 32,
        "examples": 400, "skipped": [{"id": "x.jpg", "reason": "no age"}],
        "bad_images": [],
    },
}  # fmt: skip


def some_predictions(n=400, seed=0, tasks=TASKS):
    """Ids, labels (a tenth missing) and predictions for any tasks."""
    random = np.random.default_rng(seed)
    labels, predictions = {}, {}
    for task in tasks:
        if task.is_regression:
            truth = random.integers(1, 90, n).astype(np.float32)
            predictions[task.name] = truth + random.normal(0, 6, n).astype(np.float32)
        else:
            truth = random.integers(len(task.classes), size=n)
            odds = np.exp(random.normal(size=(n, len(task.classes))))
            odds[np.arange(n), truth] *= 8
            odds /= odds.sum(axis=1, keepdims=True)
            predictions[task.name] = odds.astype(np.float32)
        truth[random.random(n) < 0.1] = MISSING
        labels[task.name] = truth
    ids = np.array([f"face_{i}.jpg" for i in range(n)])
    return ids, labels, predictions


def write_some(output, tasks=TASKS, **changes):
    ids, labels, predictions = some_predictions(tasks=tasks)
    labels.update(changes)
    found = findings.find(tasks, ids, labels, predictions)
    return evaluate.write(found, ABOUT, report.prepare(output))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole report and what `write` returned."""
    folder = tmp_path_factory.mktemp("written") / "new" / "report"
    return folder, write_some(folder)


def test_the_report_is_complete(written):
    folder, content = written
    assert names_in(folder) == FILES
    assert read_json(folder / "report.json") == content
    assert set(content["files"]) == FILES
    assert content["schema_version"] == evaluate.SCHEMA_VERSION
    assert content["model"] == ABOUT["model"]
    assert content["data"] == ABOUT["data"]
    assert set(content["tasks"]) == {"age", "gender", "race"}
    assert set(content["tasks"]["age"]["scores"]) == {"mae", "cs5", "bias"}
    assert content["versions"]["numpy"] == np.__version__
    for score in content["tasks"]["race"]["scores"].values():
        assert score["low"] < score["value"] < score["high"]


def test_scores_can_be_found_again_in_the_predictions(written):
    """By way of the CSV and scikit-learn: nothing got into a wrong row."""
    folder, content = written
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400
    assert [row["id"] for row in rows[:2]] == ["face_0.jpg", "face_1.jpg"]
    aged = [row for row in rows if row["age"]]
    assert 300 < len(aged) < 400
    assert content["tasks"]["age"]["scores"]["mae"]["value"] == pytest.approx(
        metrics.mean_absolute_error(
            [float(row["age"]) for row in aged],
            [float(row["predicted_age"]) for row in aged],
        ),
        abs=1e-4,
    )
    known = [row for row in rows if row["race"]]
    labels = [row["race"] for row in known]
    predicted = [row["predicted_race"] for row in known]
    found = content["tasks"]["race"]
    assert found["labelled"] == len(known)
    assert found["scores"]["balanced_accuracy"]["value"] == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    matrix = metrics.confusion_matrix(labels, predicted, labels=RACE.classes)
    assert found["confusion"]["counts"] == matrix.tolist()
    np.testing.assert_allclose(
        found["confusion"]["row_shares"], matrix / matrix.sum(axis=1, keepdims=True)
    )
    for row in rows:
        chances = {name: float(row[f"p_race_{name}"]) for name in RACE.classes}
        assert max(chances, key=chances.get) == row["predicted_race"]
    # A group and a decade, from the rows.
    group = [r for r in rows if (r["gender"], r["race"]) == ("female", "asian")]
    (row,) = [r for r in content["groups"]["rows"] if r["name"] == "female, asian"]
    assert row["n"] == len(group)
    assert row["scores"]["gender.accuracy"]["value"] == pytest.approx(
        np.mean([r["predicted_gender"] == "female" for r in group])
    )
    without = [r for r in rows if not (r["gender"] and r["race"])]
    assert content["groups"]["left_out"] == len(without)
    (decade,) = [d for d in content["tasks"]["age"]["by_decade"] if d["from"] == 30]
    thirties = [r for r in aged if 30 <= float(r["age"]) < 40]
    errors = [float(r["predicted_age"]) - float(r["age"]) for r in thirties]
    assert decade["n"] == len(thirties)
    assert decade["scores"]["bias"]["value"] == pytest.approx(np.mean(errors), abs=1e-3)


def test_the_worst_group_comes_first(tmp_path, undrawn):
    ids, labels, predictions = some_predictions(tasks=TASKS)
    chosen = (labels["gender"] == 1) & (labels["race"] == 3) & (labels["age"] >= 0)
    predictions["age"][chosen] = labels["age"][chosen] + 40
    assert chosen.sum() >= 30
    found = findings.find(TASKS, ids, labels, predictions)
    content = evaluate.write(found, ABOUT, tmp_path)
    groups = content["groups"]
    assert groups["worst"]["age.mae"]["group"] == "female, indian"
    assert groups["sorted_by"] == "age.mae"
    assert groups["rows"][0]["name"] == "female, indian"
    large = [r["scores"]["age.mae"]["value"] for r in groups["rows"] if not r["small"]]
    assert large == sorted(large, reverse=True)
    text = (tmp_path / "report.md").read_text()
    # Before the tasks' own sections, and the first row of each table there.
    section = text[text.index("## Worst groups first") : text.index("## Age")]
    tables = re.findall(r"\| [^\n]+\|\n\|[ :|-]+\|\n(\|[^\n]+)", section)
    assert len(tables) == 2
    assert "female, indian" in tables[0] and "40.00 years" in tables[0]
    assert tables[1].startswith("| female, indian")
    summary = evaluate.summary(content, tmp_path)
    assert "worst group by age mae: female, indian" in summary
    assert summary.endswith(str(tmp_path / "report.md"))


def test_report_for_people(written):
    folder, content = written
    text = (folder / "report.md").read_text()
    assert "Labels are what annotators saw in a picture, not facts" in text
    assert "`runs/some` (workdir, checkpoint best-00000120, epoch 3)" in text
    assert "`some_faces`, split validation, 400 examples, digest `abababab" in text
    assert "alpha 0.125, beta 2" in text
    assert "- `x.jpg`: no age" in text
    linked = set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", text))
    assert linked == PICTURES
    mae = content["tasks"]["age"]["scores"]["mae"]
    assert f"| {mae['value']:.2f} years | {mae['low']:.2f} to" in re.sub(
        " +", " ", text
    )
    # Every table has as many cells in each of its rows.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_the_title_names_no_folders_of_the_machine():
    for source in ("/home/me/faces.csv", "faces.csv"):
        title = report_text.title({"data": {"source": source}})
        assert title == "How well the model agrees with the labels of faces.csv"


def test_a_narrow_column_is_still_a_table():
    made = report_text.table(("group", "n", "small"), [("a", 3, 1)])
    (table,) = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(made))
    assert table.type == "table"
    cells = [node.content for node in table.walk() if node.type == "inline"]
    assert cells == ["group", "n", "small", "a", "3", "1"]


def test_table_keeps_bars_and_breaks_apart():
    lines = report_text.table(("a", "b"), [("x|y", "1\n2")]).splitlines()
    assert lines == [r"| a    |   b |", r"| :--- | --: |", r"| x\|y | 1 2 |"]


def test_a_task_without_labels_says_so(tmp_path):
    content = write_some(tmp_path, race=np.full(400, MISSING))
    found = content["tasks"]["race"]
    assert (found["status"], found["labelled"]) == ("no labels", 0)
    assert found["scores"]["accuracy"] == {
        "n": 0, "value": None, "low": None, "high": None, "status": "no labels"
    }  # fmt: skip
    assert found["confusion"]["row_shares"][0] == [None] * 5
    assert found["calibration"]["ece"] is None
    assert read_json(tmp_path / "report.json") == content
    assert names_in(tmp_path) == FILES - {"confusion_race.png"}
    text = (tmp_path / "report.md").read_text()
    assert "## Race\n\nNo scores: no labels." in text
    assert re.search(r"race: accuracy +\| +no labels \| +\| +0 \|", text)
    assert "nan" not in text.lower()
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert {row["race"] for row in csv.DictReader(file)} == {""}


def test_without_labels_of_race_the_groups_are_of_gender(tmp_path, undrawn):
    ids, labels, predictions = some_predictions()
    labels["race"] = np.full(400, MISSING)
    content = evaluate.write(
        findings.find(TASKS, ids, labels, predictions), ABOUT, tmp_path
    )
    groups = content["groups"]
    assert groups["by"] == ["gender"]
    assert groups["left_out"] == (labels["gender"] == MISSING).sum()
    error = np.abs(labels["age"] - predictions["age"])
    for row in groups["rows"]:
        chosen = labels["gender"] == GENDER.classes.index(row["name"])
        chosen &= labels["age"] != MISSING
        found = row["scores"]["age.mae"]
        assert found["n"] == chosen.sum()
        assert found["value"] == pytest.approx(error[chosen].mean())
    text = (tmp_path / "report.md").read_text()
    assert "## Worst groups first (gender)" in text


def test_without_labels_of_any_class_there_are_no_groups(tmp_path):
    none = np.full(400, MISSING)
    content = write_some(tmp_path, gender=none, race=none)
    groups = content["groups"]
    assert (groups["left_out"], groups["sorted_by"]) == (400, None)
    assert groups["worst"]["age.mae"]["status"] == "no labels"
    assert {row["status"] for row in groups["rows"]} == {"no labels"}
    assert not (tmp_path / "error_by_group.png").exists()


def test_labels_that_a_source_does_not_have_are_missing(tmp_path, undrawn):
    ids, labels, predictions = some_predictions()
    del labels["gender"]
    found = findings.find(TASKS, ids, labels, predictions)
    content = evaluate.write(found, ABOUT, tmp_path)
    assert content["tasks"]["gender"]["status"] == "no labels"
    assert content["tasks"]["race"]["status"] == "ok"


def test_all_labels_missing(tmp_path):
    nothing = np.full(400, MISSING)
    content = write_some(tmp_path, age=nothing, gender=nothing, race=nothing)
    assert content["pictures"] == {}
    assert names_in(tmp_path) == FILES - PICTURES
    assert read_json(tmp_path / "report.json")["tasks"]["age"]["by_decade"] == []


def test_a_fourth_task_needs_no_change(tmp_path):
    glasses = Task("glasses", BINARY, "delta", classes=("without", "with"))
    content = write_some(tmp_path, tasks=(*TASKS, glasses))
    assert content["tasks"]["glasses"]["scores"]["accuracy"]["status"] == "ok"
    assert "glasses.accuracy" in content["groups"]["worst"]
    assert names_in(tmp_path) == FILES | {"confusion_glasses.png"}
    text = (tmp_path / "report.md").read_text()
    assert "## Glasses" in text and "glasses: balanced accuracy" in text
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0]
    assert header.endswith("p_glasses_without,p_glasses_with")


def test_one_task_alone(tmp_path):
    """A network without the heads that make groups still gets groups by label."""
    ids, labels, predictions = some_predictions()
    found = findings.find((AGE,), ids, labels, {"age": predictions["age"]})
    content = evaluate.write(found, ABOUT, tmp_path)
    assert list(content["tasks"]) == ["age"]
    assert content["groups"]["worst"]["age.mae"]["status"] == "ok"
    assert "reliability" not in content["pictures"]


def write_files(output, **files):
    """A report of these files (`a_md` is a.md) and report.json."""
    with report.replacing(output) as folder:
        names = [name.replace("_", ".") for name in files]
        for name, text in zip(names, files.values(), strict=True):
            (folder / name).write_text(text)
        report.write_json({"files": [*names, "report.json"]}, folder)


def test_a_new_report_replaces_the_old_one(tmp_path):
    write_files(tmp_path, report_md="old", race_png="old")
    (tmp_path / "notes.txt").write_text("mine")
    write_files(tmp_path, report_md="new")
    # The picture of the old race labels is gone, the stranger is not.
    assert names_in(tmp_path) == {"report.json", "report.md", "notes.txt"}
    assert (tmp_path / "report.md").read_text() == "new"


def test_stale_names_stay_inside_the_folder(tmp_path):
    output = tmp_path / "report"
    output.mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (output / "report.json").write_text(json.dumps({"files": ["../mine.txt", "a.png"]}))
    (output / "a.png").write_text("old")
    write_files(output, report_md="new")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert names_in(output) == {"report.json", "report.md"}


@pytest.mark.parametrize("damaged", ["{half", "[]", '{"files": 3}', '{"files": [3]}'])
def test_a_damaged_old_report_is_no_obstacle(tmp_path, damaged):
    (tmp_path / "report.json").write_text(damaged)
    write_files(tmp_path, report_md="new")
    assert read_json(tmp_path / "report.json")["files"] == ["report.md", "report.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("bug")])
def test_a_crash_leaves_the_old_report(tmp_path, error):
    write_files(tmp_path, report_md="old", race_png="old")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = report.ReportError if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected) as raised, report.replacing(tmp_path) as folder:
        (folder / "report.md").write_text("half")
        raise error
    if expected is report.ReportError:
        assert "No space left" in str(raised.value)
        assert str(tmp_path) in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_a_half_moved_report_has_no_json(tmp_path, monkeypatch):
    """Where report.json stands, all files are of one evaluation."""
    write_files(tmp_path, a_md="old", b_md="old")
    replace = os.replace

    def stop_midway(source, target):
        if Path(target).name == "b.md":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_midway)
    with pytest.raises(report.ReportError, match="Input/output error"):
        write_files(tmp_path, a_md="new", b_md="new")
    assert names_in(tmp_path) == {"a.md", "b.md"}


def test_nan_scores_never_reach_the_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_json({"value": float("nan")}, tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_an_output_that_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(report.ReportError, match="taken.*cannot be written.*--output"):
        report.prepare(tmp_path / "taken" / "report")


@pytest.mark.parametrize(
    ("task", "spoil", "message"),
    [
        (AGE, lambda a: a.__setitem__(7, np.nan), "1 of 400 .* NaN .* face_7.jpg"),
        (RACE, lambda a: a.__imul__(20), "Are they logits"),
        (GENDER, lambda a: a.__isub__(0.6), "Are they logits"),
    ],
)
def test_answers_that_are_none(task, spoil, message):
    ids, labels, predictions = some_predictions()
    spoil(predictions[task.name])
    with pytest.raises(findings.EvaluationError, match=message):
        findings.find(TASKS, ids, labels, predictions)


def test_shapes_that_do_not_fit():
    ids, labels, predictions = some_predictions()
    predictions["race"] = predictions["race"][:, :4]
    with pytest.raises(findings.EvaluationError, match=r"\[400, 5\]; got \[400, 4\]"):
        findings.find(TASKS, ids, labels, predictions)
    ids, labels, predictions = some_predictions()
    labels["age"] = labels["age"][:-1]
    with pytest.raises(findings.EvaluationError, match="400 labels of age.*got 399"):
        findings.find(TASKS, ids, labels, predictions)


METRICS = [
    {"epoch": 1, "alpha": 0.1, "beta": 1.0, "gamma": 0.5},
    {"epoch": 2, "alpha": 0.2, "beta": 1.1, "gamma": 0.6},
    {"epoch": 3, "alpha": 0.3, "beta": 1.2, "gamma": 0.7},
]


@pytest.mark.parametrize(
    ("epoch", "alpha", "found_epoch"), [(2, 0.2, 2), (9, 0.3, 3), (1, 0.1, 1)]
)
def test_loss_weights_of_the_checkpoint_s_epoch(tmp_path, epoch, alpha, found_epoch):
    lines = [json.dumps(row) for row in METRICS] + ['{"epoch": 4, "alpha": 0.4, "be']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    found = report.loss_weights(tmp_path, TASKS, epoch)
    assert found["epoch"] == found_epoch
    assert found["values"]["alpha"] == alpha
    assert set(found["values"]) == {"alpha", "beta", "gamma"}


def test_loss_weights_that_nobody_wrote(tmp_path):
    assert report.loss_weights(tmp_path, TASKS, 1) is None
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n')
    assert report.loss_weights(tmp_path, TASKS, 1) is None
