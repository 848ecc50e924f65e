"""From models of all kinds to a report on disk."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import forks
import numpy as np
import pytest
import synthetic
from report_files import FILES, names_in, read_json, read_rows

from hydranet_tf import checkpoints, config
from hydranet_tf.data import decoding, pipeline, sources
from hydranet_tf.evaluation import evaluate, findings, scores, sensitivity
from hydranet_tf.exporting import export
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import AGE, BINARY, RACE, Task
from hydranet_tf.training import train

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of drawn faces and the workdir of a short run on it."""
    folder = tmp_path_factory.mktemp("evaluated")
    faces = synthetic.write_folder(folder / "faces", count=60, side=32)
    settings = config.TrainingConfig(
        data=str(faces), split_lists=str(faces / "splits"), backbone="tiny",
        image_size=32, epochs=2, batch_size=12, augmentation="none",
        age_head="distribution",
    )  # fmt: skip
    train.train(settings, folder / "run")
    return folder


def evaluated(trained, model, output, **options):
    faces = trained / "faces"
    options = {"split_lists": faces / "splits", **options}
    return evaluate.evaluate_model(model, str(faces), "validation", output, **options)


def test_a_workdir_from_end_to_end(trained, tmp_path):
    faces = trained / "faces"
    bad = "40_1_2_20170101000000099.jpg.chip.jpg"
    (faces / bad).write_bytes(b"\xff\xd8\xff\xe0 cut off")
    listed = faces / "splits" / "validation.txt"
    good = listed.read_text()
    listed.write_text(good + bad + "\n")
    try:
        content = evaluated(trained, trained / "run", tmp_path, batch_size=5)
    finally:
        listed.write_text(good)
        (faces / bad).unlink()
    assert names_in(tmp_path) == FILES | {
        "crop_sensitivity.png",
        "capture_sensitivity.png",
    }
    assert content["data"]["examples"] == 12
    assert [row["id"] for row in content["data"]["bad_images"]] == [bad]
    assert content["data"]["bad_images"][0]["reason"]
    assert content["model"]["kind"] == "workdir"
    run = (trained / "run" / "metrics.jsonl").read_text().splitlines()
    best = min(map(json.loads, run), key=lambda row: row["val_age_mae"])
    assert content["model"]["epoch"] == best["epoch"]
    assert content["model"]["checkpoint"] == f"best-{best['step']:08d}"
    values = content["model"]["loss_weights"]["values"]
    assert values == {name: best[name] for name in ("alpha", "beta", "gamma")}
    # What training measured on the same split is what is found here.
    found = content["tasks"]
    assert found["age"]["scores"]["mae"]["value"] == pytest.approx(
        best["val_age_mae"], abs=1e-3
    )
    for task in ("gender", "race"):
        assert found[task]["scores"]["accuracy"]["value"] == pytest.approx(
            best[f"val_{task}_accuracy"]
        )
    check_crop_sensitivity(content, tmp_path)
    check_interval(content, tmp_path)


def check_interval(content, folder):
    """Share of labels within, and width, of the intervals in the CSV file."""
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [
        [float(row[f"predicted_age_{end}"]) for row in rows] for end in ("low", "high")
    ]
    ages = [float(row["age"]) for row in rows]
    inside = [a <= age <= b for a, age, b in zip(ends[0], ages, ends[1], strict=True)]
    found = content["tasks"]["age"]["scores"]
    assert found["coverage"]["value"] == pytest.approx(np.mean(inside))
    assert found["width"]["value"] == pytest.approx(
        np.mean(ends[1]) - np.mean(ends[0]), abs=1e-3
    )
    assert all(
        a < float(row["predicted_age"]) < b
        for a, row, b in zip(ends[0], rows, ends[1], strict=True)
    )


def check_crop_sensitivity(content, folder):
    """All twelve faces as they are cut are what the whole report rests on."""
    crop = content["margin_sensitivity"]
    assert crop["faces"] == 12
    at = crop["factors"].index(1.0)
    for task, score in (("age", "mae"), ("gender", "accuracy"), ("race", "accuracy")):
        assert crop["tasks"][task]["score"] == score
        expected = content["tasks"][task]["scores"][score]
        found = crop["tasks"][task]["values"][at]
        assert found["n"] == expected["n"] == 12
        assert found["value"] == pytest.approx(expected["value"], abs=1e-4)
    values = [score["value"] for score in crop["tasks"]["age"]["values"]]
    assert len(set(values)) == len(crop["factors"])
    text = (folder / "report.md").read_text()
    assert "## How much the crop matters" in text
    assert "(crop_sensitivity.png)" in text
    for factor, value in zip(crop["factors"], values, strict=True):
        assert re.search(rf"\| {factor:g} +\| +{value:.2f} years \(", text)


def test_temperatures_are_fitted_kept_and_used(trained, tmp_path, undrawn):
    workdir = shutil.copytree(trained / "run", tmp_path / "run")
    plain = evaluated(trained, workdir, tmp_path / "plain")
    assert plain["model"]["temperatures"] == {}
    content = evaluated(trained, workdir, tmp_path / "report", fit_temperatures=True)
    kept = content["model"]["temperatures"]
    assert set(kept) == {"age", "gender", "race"}
    model = checkpoints.load_model(workdir)
    assert model.temperatures == kept
    # By hand from the probabilities before: log p is a logit up to a constant.
    rows = read_rows(tmp_path / "plain")
    names = [f"p_race_{name}" for name in RACE.classes]
    p = np.array([[float(row[name]) for name in names] for row in rows])
    labels = np.array([RACE.classes.index(row["race"]) for row in rows])
    # The same faces again, each under the change whose turn it is; they have the
    # network's size.
    faces = trained / "faces"
    opened = sources.open_source(faces, "validation", split_lists=faces / "splits")
    changes = sensitivity.CHANGES
    changed = [
        changes[i % len(changes)].apply(decoding.decode(opened.read(i)), i)
        for i in range(len(opened))
    ]
    assert [row["id"] for row in rows] == list(opened.ids)
    q = runtimes.load(trained / "run").predictions(np.stack(changed))["race"]
    logs = np.log(np.concatenate([p, q]))
    found = scores.fit_temperatures(
        [RACE], {"race": logs}, {"race": np.tile(labels, 2)}
    )
    assert found["race"] == pytest.approx(kept["race"], rel=0.02)
    after = read_rows(tmp_path / "report")
    cooled = p ** (1 / kept["race"])
    cooled /= cooled.sum(1, keepdims=True)
    np.testing.assert_allclose(
        [[float(row[name]) for name in names] for row in after], cooled, atol=1e-3
    )
    assert "Temperatures of the heads" in (tmp_path / "report/report.md").read_text()
    # Of one checkpoint alone.
    assert checkpoints.temperatures_of(workdir, "best-00000099") == {}
    (workdir / "temperatures.json").write_text('{"temperatures": {"race": 0}}')
    with pytest.raises(checkpoints.CheckpointError, match="--fit_temperatures again"):
        checkpoints.load_model(workdir)


def test_only_a_workdir_can_be_calibrated(trained, tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"")
    with pytest.raises(evaluate.EvaluationError, match="keeps what it fits in a wor"):
        evaluate._fit_temperatures(model, None, 1)


def test_exports_score_as_the_workdir_does(trained, tmp_path, undrawn):
    faces = trained / "faces"
    export.export_run(
        trained / "run", tmp_path / "exports", data=str(faces),
        split_lists=str(faces / "splits"),
    )  # fmt: skip
    models = {
        "workdir": trained / "run",
        "saved_model": tmp_path / "exports" / "hydranet",
        "litert": tmp_path / "exports" / "hydranet.tflite",
    }
    found = {k: evaluated(trained, m, tmp_path / k) for k, m in models.items()}
    digest = sources.open_source(
        str(faces), "validation", split_lists=faces / "splits"
    ).digest()
    for kind, content in found.items():
        assert content["model"]["kind"] == kind
        assert content["data"]["digest"] == digest
        for task in ("age", "gender", "race"):
            for name, score in content["tasks"][task]["scores"].items():
                expected = found["workdir"]["tasks"][task]["scores"][name]
                assert score["value"] == pytest.approx(expected["value"], abs=1e-3)
    assert found["litert"]["model"]["loss_weights"] is None


def test_faces_that_were_trained_on_are_counted(trained, tmp_path, undrawn, caplog):
    """Without the split lists, another tenth of the faces is the validation part."""
    faces = trained / "faces"
    names = set((faces / "splits" / "train.txt").read_text().split())
    content = evaluated(trained, trained / "run", tmp_path / "lists")
    assert content["data"]["trained_on"] == 0
    page = (tmp_path / "lists" / "report.md").read_text()
    assert "trained on none of these examples" in page
    assert "unseen faces" not in caplog.text

    content = evaluated(trained, trained / "run", tmp_path / "hash", split_lists=None)
    part = sources.open_source(str(faces), "validation").ids
    both = len(names & set(part.tolist()))
    assert content["data"]["trained_on"] == both > 0
    page = (tmp_path / "hash" / "report.md").read_text()
    assert f"trained on {both} of these examples" in page
    assert f"trained on {both} of these {len(part)} examples" in caplog.text
    assert "--split_lists" in caplog.text

    export_only = trained / "elsewhere"
    checkpoints.load_model(trained / "run").save_to_preset(export_only, {})
    content = evaluated(trained, export_only, tmp_path / "preset", split_lists=None)
    assert content["data"]["trained_on"] is None
    assert "was trained on" not in (tmp_path / "preset" / "report.md").read_text()


def test_too_many_bad_images_stop_it(trained, tmp_path):
    faces = synthetic.write_folder(tmp_path / "faces", count=10, side=32)
    for name in (faces / "splits" / "validation.txt").read_text().split():
        (faces / name).write_text("no image")
    with pytest.raises(pipeline.BadImagesError, match="max_bad_images"):
        evaluate.evaluate_model(
            trained / "run", str(faces), "validation", tmp_path / "report",
            split_lists=faces / "splits", max_bad_images=1,
        )  # fmt: skip
    assert names_in(tmp_path / "report") == set()


def test_a_model_with_other_classes_is_refused(trained, tmp_path, monkeypatch):
    swapped = Task("gender", BINARY, "beta", classes=("female", "male"))
    loaded = runtimes.load(trained / "run")
    other = runtimes.Runtime((AGE, swapped, RACE), 32, 4, loaded.run)
    monkeypatch.setattr(runtimes, "load", lambda path: other)
    with pytest.raises(findings.EvaluationError, match="male.*female.*female.*male"):
        evaluated(trained, trained / "run", tmp_path)


def test_the_data_of_a_run_are_taken_unless_others_are_named(tmp_path, monkeypatch):
    settings = config.TrainingConfig(
        data="a,b", split_lists="lists,", data_dir="prepared", columns="path=file",
        crop_faces=True,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(settings.to_json())
    (tmp_path / "run.json").write_text("{}")
    calls = []

    def called(model, data, split, output, **options):
        calls.append((data, options))

    monkeypatch.setattr(evaluate, "evaluate_model", called)
    asked = {"data_dir": None, "classes": "", "columns": None, "crop_faces": False,
             "batch_size": 3}  # fmt: skip
    own = {"data_dir": "prepared", "classes": None, "columns": "path=file",
           "crop_faces": True, "batch_size": 3}  # fmt: skip
    evaluate.evaluate_sources(tmp_path, None, "test", tmp_path / "o", **asked)
    assert calls == [
        ("a", {**own, "split_lists": "lists"}), ("b", {**own, "split_lists": None}),
    ]  # fmt: skip
    calls.clear()
    asked |= {"split_lists": ",others", "classes": "race:x=asian", "data_dir": "there"}
    evaluate.evaluate_sources(tmp_path, None, "test", tmp_path / "o", **asked)
    own |= {"classes": "race:x=asian", "data_dir": "there"}
    assert calls == [
        ("a", {**own, "split_lists": None}), ("b", {**own, "split_lists": "others"}),
    ]  # fmt: skip
    calls.clear()
    # With --data nothing is taken from the run.
    evaluate.evaluate_sources(tmp_path, "c.csv", "test", tmp_path / "o", columns=None)
    ((data, options),) = calls
    assert data == "c.csv" and options["columns"] is None
    assert "crop_faces" not in options and options["split_lists"] is None


@pytest.mark.parametrize("path", ["preset", "hydranet.tflite", "nowhere"])
def test_an_export_has_no_data_of_its_own(path, tmp_path):
    (tmp_path / "preset").mkdir()
    # A preset has a file of this name, too.
    (tmp_path / "preset" / "config.json").write_text("{}")
    (tmp_path / "hydranet.tflite").write_bytes(b"")
    with pytest.raises(findings.EvaluationError, match="not a workdir.*give --data"):
        evaluate.evaluate_sources(tmp_path / path, None, "test", tmp_path / "o")


def run_main(*flags):
    return forks.run(["evaluate.py", *flags], cwd=REPOSITORY)


def test_the_command(trained, tmp_path):
    faces, output = trained / "faces", tmp_path / "report"
    done = run_main(
        f"--model={trained / 'run'}", f"--output={output}", "--split=test",
        "--show_faces", f"--projector={tmp_path / 'points'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The run's own data, divided as it was.
    part = sources.open_source(str(faces), "test", split_lists=faces / "splits")
    assert read_json(output / "report.json")["data"]["digest"] == part.digest()
    assert "data:image/jpeg" in (output / "report.html").read_text()
    # As many points as faces, each with its picture.
    points = (tmp_path / "points" / "features.tsv").read_text().splitlines()
    assert len(points) == 12
    assert (tmp_path / "points" / "sprite.png").exists()
    assert "| age: mean absolute error" in done.stdout
    assert "worst group by race accuracy: every group is small" in done.stdout
    assert done.stdout.splitlines()[-1] == str(output / "report.md")
    assert read_json(output / "report.json")["data"]["split"] == "test"


def test_the_command_on_a_wrong_path(tmp_path):
    done = run_main(
        f"--model={tmp_path / 'none'}", "--data=x", f"--output={tmp_path}"
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evaluate.py: expected a workdir")
    assert "which does not exist" in last
    assert "Traceback" not in done.stderr
