"""The benchmarks run; what they measure on a test's machine means nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic
from small_network import random_model

from hydranet_tf.data import pixels
from hydranet_tf.model import answer_model

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--backbone=tiny", "--image_size=32", "--batch_size=8")


def run(script, tmp_path, *arguments):
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *TINY, f"--json={raw}",
         *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(raw.read_text()), done.stdout


def test_input_pipeline_prints_both_times_and_their_ratio(tmp_path):
    found, printed = run("input_pipeline.py", tmp_path, "--rounds=2", "--steps=3")
    still = found["seconds_per_step"]["one cached batch"]
    fed = found["seconds_per_step"]["real pipeline"]
    assert len(still) == len(fed) == 2
    # The median of two is their mean.
    assert found["ratio"] == pytest.approx(sum(fed) / sum(still))
    assert f"ratio of medians {found['ratio']:.3f}" in printed


def test_training_memory_prints_the_peak_and_that_of_one_task(tmp_path):
    found, printed = run("training_memory.py", tmp_path, "--against=one_task")
    assert found["peak_bytes"] > found["peak_bytes_after_imports"] > 50e6
    assert f"peak {found['peak_bytes'] / 2**30:.2f} GiB" in printed
    one = found["one_task"]
    ours, single = (
        row["peak_bytes"] - row["peak_bytes_after_imports"] for row in (found, one)
    )
    assert one["ratio"] == pytest.approx(ours / single / 3)
    assert f"ours {one['ratio']:.2f} of it" in printed


# The SavedModel's four starts of TensorFlow would take longer than all the rest.
PHOTOGRAPHS = """
import sys
from absl import app
import photographs

real = photographs.predict_seconds
photographs.predict_seconds = lambda model, pictures, folder: (
    real(model, pictures, folder) if model.suffix == ".tflite" else 0.5
)
app.run(photographs.main)
"""


def test_photographs_are_compared_with_the_loop_and_the_import(tmp_path):
    (tmp_path / "deepface").mkdir()
    peer = "import time; time.sleep(0.2); DeepFace = None"
    (tmp_path / "deepface" / "__init__.py").write_text(peer)
    done = subprocess.run(
        [sys.executable, "-c", PHOTOGRAPHS, *TINY[:2], "--pictures=4", "--looped=1",
         "--rounds=2", f"--peer_python={sys.executable}", "--json=raw.json"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'benchmarks'}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    many, start = found["a picture of many"], found["start"]
    # Half a second for four pictures.
    assert many["seconds"]["predict.py, SavedModel"] == [0.125] * 2
    loop = sum(many["seconds"]["loop"]) / 2
    ratio = many["ratios"]["predict.py, SavedModel"]
    assert ratio == pytest.approx(loop / 0.125)
    assert f"SavedModel: {ratio:.1f} times as fast as the loop" in done.stdout
    peer = start["seconds"]["import deepface"]
    assert len(peer) == 2 and min(peer) > 0.2
    ratio = start["ratios"]["predict.py, SavedModel"]
    assert ratio == pytest.approx(sum(peer) / 2 / 0.5)
    assert f"answer in {1 / ratio:.2f} of the time of import deepface" in done.stdout
    assert min(start["seconds"]["predict.py, .tflite"]) > 0.1


def test_constant_answers_by_hand(tmp_path):
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
        [sys.executable, ROOT / "benchmarks" / "constant_answers.py",
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
        faces.append(pixels.square(pixels.decode((data / name).read_bytes())))
        labels.append(int(name.split("_")[1]))
    answers = answer_model(model).predict(np.stack(faces), verbose=0)["gender"]
    share = np.mean(answers.argmax(1) == labels)
    assert rows[3]["value"] == pytest.approx(share)
    # The brightness of the faces tells their age: even random features keep it.
    assert rows[1]["value"] < rows[0]["value"]
    assert rows[1]["chosen"]["kneighborsregressor__n_neighbors"] in (1, 5, 15, 45)
    assert f"| gender | heads of the network | {100 * share:.1f} % |" in done.stdout


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
import weighting

more = flags.FLAGS(sys.argv)[1:]
print(json.dumps(weighting.trained("0,1,0", 3, more)))
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


ANSWERING_CHILD = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    print("done", flush=True)
"""


def test_rounds_take_turns_and_count_the_time_of_children(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import rounds

    turns = []

    def asleep():
        turns.append("asleep")
        time.sleep(0.1)

    def busy_child():
        turns.append("busy child")
        child.stdin.write("go\n")
        child.stdin.flush()
        child.stdout.readline()

    with subprocess.Popen(
        [sys.executable, "-c", ANSWERING_CHILD],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        found = rounds.taken({"asleep": asleep, "busy child": busy_child}, 2)
        child.stdin.close()
    # The first round warms up.
    assert turns == ["asleep", "busy child"] * 3
    for times in found.values():
        assert {name: len(spent) for name, spent in times.items()} == {
            "asleep": 2,
            "busy child": 2,
        }
    assert min(found["seconds"]["asleep"]) >= 0.1
    assert max(found["cpu_seconds"]["asleep"]) < 0.1
    # The kernel counts in hundredths.
    assert min(found["cpu_seconds"]["busy child"]) > 0.17


def test_ratios_of_rounds_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import rounds

    # 2, 4 and 3 in turn; the ratio of the medians would be 4.
    assert rounds.ratio([2.0, 8.0, 9.0], [1.0, 2.0, 3.0]) == 3.0
    found = {
        "seconds": {"a": [3.0], "b": [2.0]},
        "cpu_seconds": {"a": [1.0], "b": [4.0]},
    }
    assert rounds.ratios(found, "a", "b") == {"seconds": 1.5, "cpu_seconds": 0.25}
    assert rounds.medians({"a": [5.0, 1.0, 2.0]}) == {"a": 2.0}


# What decoding.py asks of PyTorch, without its gigabytes.
TORCH = """
import numpy as np

class DataLoader:
    def __init__(self, dataset, batch_size, **options):
        self.dataset, self.batch_size = dataset, batch_size
        assert options["num_workers"] == 2

    def __iter__(self):
        for start in range(0, len(self.dataset), self.batch_size):
            faces = [self.dataset[start + i] for i in range(self.batch_size)]
            assert np.stack(faces).shape == (8, 48, 48, 3)
            yield faces
"""


def test_decoding_compares_all_ways_on_the_same_pictures(tmp_path):
    package = tmp_path / "torch"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text("from_numpy = lambda array: array\n")
    (package / "utils" / "__init__.py").write_text("")
    (package / "utils" / "data.py").write_text(TORCH)
    (tmp_path / "torch-7.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 7\n"
    (tmp_path / "torch-7.dist-info" / "METADATA").write_text(metadata)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "decoding.py", "--pictures=20",
         "--batch_size=8", "--image_size=48", "--rounds=2", "--json=raw.json"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    # Whole batches alone.
    assert found["settings"]["pictures"] == 16
    assert found["machine"]["versions"]["torch"] == "7"
    for unit in ("seconds", "cpu_seconds"):
        ours, peer, limit, cache = found[unit].values()
        for name, above, below in (
            ("ours to PyTorch", peer, ours),
            ("ours to the limit", limit, ours),
            ("cache to the limit", limit, cache),
        ):
            # The median of two is their mean.
            expected = (above[0] / below[0] + above[1] / below[1]) / 2
            assert found["ratios"][name][unit] == pytest.approx(expected)
    rate = found["images_per_second"]["our pipeline"]
    assert rate == pytest.approx(16 / (sum(found["seconds"]["our pipeline"]) / 2))
    assert f"our pipeline: {rate:7.0f} images/s" in done.stdout


RUNTIMES = """
import json, numpy, runtimes
answers = {name: [numpy.zeros(1), numpy.ones(2)] for name in runtimes.PEERS}
answers["LiteRT"] = [numpy.full(1, -5e-4), numpy.ones(2)]
answers["LiteRT int8"] = [numpy.ones(1), numpy.ones(2)]
print(json.dumps(runtimes.check(answers)))
answers["OpenVINO"] = [numpy.zeros(1), numpy.full(2, numpy.nan)]
runtimes.check(answers)
"""


def test_runtimes_that_answer_differently_are_not_compared():
    done = subprocess.run(
        [sys.executable, "-c", RUNTIMES],
        cwd=ROOT / "benchmarks", capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "LiteRT": 5e-4, "LiteRT int8": 1.0, "ONNX Runtime": 0.0, "OpenVINO": 0.0
    }  # fmt: skip
    assert done.returncode == 1
    assert "OpenVINO and PyTorch differ by nan" in done.stderr


# In one process, because each new one would start TensorFlow.
SCALING = """
import sys
from absl import app
import scaling

scaling.in_new_process = lambda function, *arguments: function(*arguments)
app.run(scaling.main)
"""


def test_scaling_writes_numbers_and_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCALING, *TINY, "--pictures=16", "--sides=32",
         "--batches=1,2", "--rounds=2", f"--output={tmp_path}"],
        cwd=ROOT / "benchmarks", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["pictures"] for row in found["data"]] == [16, 64, 256]
    assert all(row["seconds"] > 0 for row in found["data"])
    (row,) = found["image_size"]
    assert row["peak_bytes"] > 50e6
    times = found["batch"]["seconds"]["2"]
    rate = found["batch"]["images_per_second"]["2"]
    assert rate == pytest.approx(2 / (sum(times) / 2))
    assert f"batch of   2: {rate:.1f} images/s" in done.stdout
    for name in ("data_time", "data_memory", "image_size", "batch"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
