"""Benchmarks of scores and of what networks cost, and what they count by hand."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import released
import skimage.data
import synthetic
from PIL import Image
from small_network import random_model

from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import decoding

pytestmark = pytest.mark.bench

ROOT = Path(__file__).resolve().parents[2]


def test_constant_predictions_by_hand(tmp_path):
    folder = tmp_path
    for split, rows in (
        ("train", ["20_0_1", "30_1_1", "90_1_2"]),
        ("validation", ["40_1_1", "10_1_2", "30_0_3", "30_1_1"]),
        ("test", ["50_0_0"]),
    ):
        names = [f"{row}_{split}{i}.jpg" for i, row in enumerate(rows)]
        for name in names:
            (folder / name).write_bytes(synthetic.encoded())
        (folder / f"{split}.txt").write_text("\n".join(names))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "constant_predictions.py",
         f"--data={folder}", f"--split_lists={folder}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        # |40 - 30| + |10 - 30| over four faces.
        "age: always 30 years, MAE 7.50",
        "gender: always female, right 75.0%",
        "race: always black, right 50.0%",
    ]


def test_backbone_costs_as_pytorch_counts_them(tmp_path):
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "backbone_costs.py",
         "--backbones=efficientnet_lite0,inception_v3", "--image_size=64",
         "--seconds=0.1", f"--json={raw}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "inception_v3 is left out: it takes 75 pixels or more" in done.stdout
    (row,) = json.loads(raw.read_text())["rows"]
    # Half of what torch.utils.flop_counter counts in efficientnet_lite_pytorch at 64
    # pixels, our heads in place of its classifier.
    heads = 3 * 1280 * 128 + 128 * 7
    assert row["gmacs"] * 1e9 == pytest.approx(32_619_392 - 1280 * 1000 + heads)
    assert row["parameters"] == 3_413_024 + 3 * 1281 * 128 + 129 * 7
    assert all(value > 0 for value in row["milliseconds"].values())
    assert "| efficientnet_lite0 | 3.91 | 0.032 | 15." in done.stdout


def test_neighbours_and_heads_on_the_same_faces(tmp_path):
    model = random_model()
    model.save_to_preset(tmp_path / "preset", {})
    data = synthetic.write_folder(tmp_path / "faces", 60, side=40)
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "neighbours.py",
         f"--model={tmp_path / 'preset'}", f"--data={data}", "--largest=30",
         f"--split_lists={data / 'splits'}", f"--json={raw}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(raw.read_text())
    assert [(row["task"], row["way"]) for row in rows] == [
        (task, way)
        for task in ("age", "gender", "race")
        for way in ("heads of the network", "neighbours", "support vectors")
    ]
    # The heads, asked by another path.
    faces, labels = [], []
    for name in (data / "splits" / "validation.txt").read_text().split():
        faces.append(decoding.square(decoding.decode((data / name).read_bytes())))
        labels.append(int(name.split("_")[1]))
    predictions = model.inference_model().predict(np.stack(faces), verbose=0)["gender"]
    fraction = np.mean(predictions.argmax(1) == labels)
    assert rows[3]["value"] == pytest.approx(fraction)
    # The brightness of the faces tells their age: even random features keep it.
    assert rows[1]["value"] < rows[0]["value"]
    assert rows[1]["chosen"]["kneighborsregressor__n_neighbors"] in (1, 5, 15, 45)
    assert f"| gender | heads of the network | {100 * fraction:.1f} % |" in done.stdout


def test_weighting_takes_a_single_task_from_its_own_network(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import weighting

    def runs(*scores):
        return [
            dict(zip(("age", "gender", "race"), row, strict=True)) for row in scores
        ]

    found = {weights: runs((9, 0.5, 0.5)) * 2 for weights in weighting.TUNED}
    found[weighting.LEARNED] = runs((5.0, 0.90, 0.80), (5.5, 0.92, 0.81))
    found[weighting.EQUAL] = runs((6.0, 0.8, 0.7), (6.0, 0.8, 0.7))
    found[weighting.SINGLE["age"]] = runs((4.0, 0.1, 0.1), (4.5, 0.1, 0.1))
    found[weighting.SINGLE["gender"]] = runs((40, 0.93, 0.1), (40, 0.95, 0.1))
    found[weighting.SINGLE["race"]] = runs((40, 0.1, 0.84), (40, 0.1, 0.84))
    lines = list(weighting.table(found))
    assert lines[2] == (
        "| learned weights | 5.25 ± 0.25 years | 91.00 ± 1.00 % | 80.50 ± 0.50 % |"
    )
    assert lines[-1] == (
        "| three networks of one task | 4.25 ± 0.25 years | 94.00 ± 1.00 % | "
        "84.00 ± 0.00 % |"
    )


TRAINED = """
import json, sys
from absl import flags
import seeds, weighting

more = flags.FLAGS(sys.argv)[1:]
print(json.dumps(seeds.trained("0,1,0", weighting.settings("0,1,0", more), 3)))
"""


def test_weighting_reads_the_last_epoch_of_a_run(tmp_path):
    data = synthetic.write_folder(tmp_path / "faces", 40, side=32)
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, f"--data={data}", "--epochs=2",
         f"--split_lists={data / 'splits'}", f"--workdir={tmp_path / 'runs'}", "--",
         "--backbone=tiny", "--width=0", "--image_size=32", "--batch_size=8"],
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = tmp_path / "runs" / "0_1_0-seed3" / "metrics.jsonl"
    first, last = map(json.loads, log.read_text().splitlines())
    assert last["epoch"] == 2 and last["alpha"] == last["gamma"] == 0 < last["beta"]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "age": last["val_age_mae"],
        "gender": last["val_gender_accuracy"],
        "race": last["val_race_accuracy"],
    }


# Keeps the flags of each run instead of training.
KEPT = """
import json
from pathlib import Path
from absl import app
import recipes, seeds

kept = []

def keep(command, check):
    *settings, workdir = command[2:]
    workdir = Path(workdir.removeprefix("--workdir="))
    kept.append([workdir.name, settings])
    workdir.mkdir(parents=True)
    last = {"val_age_mae": 5.0 + len(kept), "val_gender_accuracy": 0.9,
            "val_race_accuracy": 0.8}
    (workdir / "metrics.jsonl").write_text(json.dumps(last))

def main(argv):
    recipes.main(argv)
    Path("kept.json").write_text(json.dumps(kept))

seeds.subprocess.run = keep
app.run(main)
"""


def test_recipes_differ_in_one_thing_each(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KEPT, "--data=faces", "--workdir=runs", "--seeds=2",
         "--weights=w.npz", "--teacher=a.csv,b.csv", "--json=found.json", "--",
         "--epochs=7"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "kept.json").read_text())
    found = json.loads((tmp_path / "found.json").read_text())
    assert len({name for name, _ in kept}) == len(kept) == 2 * len(found)
    by_name = {}
    for name, settings in kept:
        # The last of a flag counts, as for train.py.
        values = dict(setting.lstrip("-").split("=", 1) for setting in settings)
        assert values.pop("seed") == name[-1] and values["epochs"] == "7"
        by_name[name[: -len("-seed0")]] = values
    recipe = by_name.pop("the_recipe")
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert recipe.keys() <= known
    for name, values in by_name.items():
        changed = {key for key in values if values[key] != recipe.get(key)}
        assert len(changed) == (4 if name.startswith("Adam") else 1), name
        assert changed <= known
    # 6 and 7 years with either seed.
    line = "| the recipe | 6.50 ± 0.50 years | 90.00 ± 0.00 % | 80.00 ± 0.00 % |"
    assert line in done.stdout
    last = [5.0 + len(kept) - 1, 5.0 + len(kept)]
    assert [run["age"] for run in found["taught by an ensemble"]] == last


def test_an_ensemble_by_hand(tmp_path):
    """Two networks that are wrong where the other one is right."""
    header = (
        "id,age,gender,race,predicted_age,p_gender_male,p_gender_female,"
        "p_race_white,p_race_black,p_race_asian,p_race_indian,p_race_others"
    )
    for name, first, second in (
        ("a", "20,0.9,0.1,1,0,0,0,0", "33,0.6,0.4,0,0,0.6,0.4,0"),
        ("b", "26,0.4,0.6,0,0,0,0,1", "30,0.1,0.9,0,0,0.4,0.6,0"),
    ):
        rows = f"x,22,male,white,{first}\ny,30,female,,{second}\n"
        (tmp_path / f"{name}.csv").write_text(f"{header}\n{rows}")
    command = [sys.executable, ROOT / "benchmarks" / "ensemble.py", "a.csv"]
    done = subprocess.run(
        [*command, "b.csv", "--json=found.json"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a.csv: 2.50 years, 50.0 %, 100.0 %",
        "b.csv: 2.00 years, 50.0 %, 0.0 %",
        # 23 and 31.5 years; 0.65 male and 0.65 female; a tie goes to the first.
        "a.csv + b.csv: 1.25 years, 100.0 %, 100.0 %",
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["a.csv"]["race_accuracy"]["n"] == 1

    (tmp_path / "b.csv").write_text(f"{header}\n")
    done = subprocess.run([*command, "b.csv"], capture_output=True, cwd=tmp_path)
    assert done.returncode != 0 and b"b.csv has no row for 2 of 2 faces" in done.stderr

    (tmp_path / "b.csv").write_text("id,predicted_age\nx,20\ny,30\n")
    done = subprocess.run([*command, "b.csv"], capture_output=True, cwd=tmp_path)
    assert done.returncode != 0 and b"b.csv does not predict all of" in done.stderr


def test_faces_of_two_detectors_are_matched():
    """Worked by hand: half of a box has an overlap of a half, beside it none."""
    script = (
        "import detection\n"
        "box = (0, 0, 10, 20)\n"
        "print(detection.overlap(box, (0, 0, 10, 10)))\n"
        "print(detection.overlap(box, (10, 0, 20, 20)))\n"
        "before = [[box, (50, 50, 60, 60)], [], [box]]\n"
        "now = [[(1, 0, 10, 20)], [box], [(9, 0, 20, 20), (0, 0, 11, 20)]]\n"
        "paths = [detection.Path(name) for name in 'abc']\n"
        "for one, other in ((before, now), (now, before)):\n"
        "    alone = detection.unmatched(one, other, paths)\n"
        "    print(*(face['picture'] for face in alone))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT / "benchmarks", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["0.5", "0.0", "a", "b c"], done.stderr


def test_files_of_litert_are_timed():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "litert_files.py", "--rounds=2",
         released.LITERT],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.fullmatch(
        rf"{released.LITERT}: ([\d,]+) bytes, ([\d.]+) ms at least, ([\d.]+) ms in the "
        "middle\n",
        done.stdout,
    )
    assert int(found[1].replace(",", "")) == released.LITERT.stat().st_size
    assert 0 < float(found[2]) <= float(found[3])


def test_fine_tuning_is_compared_on_faces_that_nobody_saw(tmp_path):
    """8 of 30 white faces of 40 or more: 6 to train, 2 to validate, 22 to compare."""
    folder = tmp_path / "faces"
    folder.mkdir()
    ages = [*range(20, 40), *range(40, 70)]
    names = [f"{age}_{age % 2}_{int(age < 35)}_{age}.jpg" for age in ages]
    for name in names:
        (folder / name).write_bytes(synthetic.encoded())
    (folder / "train.txt").write_text("")
    (folder / "test.txt").write_text("")
    (folder / "validation.txt").write_text("\n".join(names))
    random_model().save_to_preset(tmp_path / "preset")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "fine_tuning.py", f"--data={folder}",
         f"--split_lists={folder}", "--count=8", f"--output={tmp_path / 'out'}",
         f"--start_from={tmp_path / 'preset'}", "--", "--epochs=1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "faces.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == (
        ["train"] * 6 + ["validation"] * 2 + ["test"] * 22
    )
    for row in rows:
        assert row["path"].endswith(f"/faces/{Path(row['path']).name}")
        age, gender, *_ = Path(row["path"]).name.split("_")
        assert float(row["age"]) == int(age) >= 40 and row["race"] == "white"
        assert row["gender"] == ("male", "female")[int(gender)]
    assert "6 faces to train, 2 to validate" in done.stdout
    assert "22 faces that it has not seen" in done.stdout
    assert "s of processor time" in done.stdout and "gain  : age_mae" in done.stdout


def test_whole_pictures_are_predicted_side_by_side(tmp_path):
    """Ours alone, where no peer is named; of the baseline itself the ratio is 1."""
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "a.png")
    command = [sys.executable, ROOT / "benchmarks" / "whole_pictures.py"]
    done = subprocess.run(
        [*command, f"--pictures={tmp_path}", "--count=1", "--rounds=1",
         "--as_they_are", f"--json={tmp_path / 'found.json'}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ours"]["faces"] == found["pictures"] == 1
    assert found["ours"]["times_our_processor_time"] == 1
    assert 0 < found["ours"]["processor_ms"] < 10_000


def test_memory_is_taken_each_thousand_pictures(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "picture_memory.py"]
    done = subprocess.run(
        [*command, "--pictures=150", f"--json={tmp_path / 'found.json'}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    # What Python, NumPy and OpenCV take at least, and no more than a laptop has.
    assert 3e7 < found["resident_bytes"]["100"] < 2e9


def test_what_auto_takes_beside_every_runtime(tmp_path):
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "engines.py", "--rounds=2",
         "--faces=1", f"--json={raw}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    times = json.loads(raw.read_text())["times"]
    assert times.keys() == {
        f"{file}, {threads}"
        for file in ("released .tflite", "float32 .tflite", ".onnx")
        for threads in (1, 2)
    }
    assert times[".onnx, 2"]["seconds"].keys() == {"onnxruntime", "openvino", "auto"}
    assert len(re.findall(r"auto is \d+\.\d\d of the best", done.stdout)) == 6


def test_the_service_under_load(tmp_path):
    """All are served; needs hey."""
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "service_load.py", "--seconds=2",
         "--connections=1,4", "--requests=40", "--port=8598", f"--json={raw}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(raw.read_text())
    for name in ("1 connections", "4 connections", "small pictures"):
        assert found[name]["codes"] == {"200": found[name]["requests"]}
        assert 0 < found[name]["p50_seconds"] <= found[name]["p99_seconds"]
    assert found["small pictures"]["requests"] == 40
