"""Benchmarks of speed and memory run; what a test measures with them means nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

ROOT = Path(__file__).resolve().parents[2]
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


def test_augmentation_step_prints_what_each_strength_adds(tmp_path):
    found, printed = run("augmentation_step.py", tmp_path, "--rounds=2")
    plain = found["seconds"]["none"]
    assert list(found["added"]) == ["standard", "strong"]
    for strength, added in found["added"].items():
        pairs = zip(found["seconds"][strength], plain, strict=True)
        # The median of two is their mean.
        more = sum(with_it / without for with_it, without in pairs) / 2 - 1
        assert added["seconds"] == pytest.approx(more)
        assert f"{strength}: {more:+.1%} by the clock" in printed


def test_training_memory_prints_the_peak_and_that_of_one_task(tmp_path):
    found, printed = run("training_memory.py", tmp_path, "--against=one_task")
    assert found["peak_bytes"] > found["peak_bytes_after_imports"] > 50e6
    assert f"peak {found['peak_bytes'] / 2**30:.2f} GiB" in printed
    one = found["one_task"]
    ours, single = (
        row["peak_bytes"] - row["peak_bytes_after_imports"] for row in (found, one)
    )
    ratio = ours / single / 3
    assert one["ratio_above_imports"] == pytest.approx(ratio)
    assert f"ours takes {ratio:.2f} of three" in printed


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
    assert (
        f"prediction in {1 / ratio:.2f} of the time of import deepface" in done.stdout
    )
    assert min(start["seconds"]["predict.py, .tflite"]) > 0.1


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
predictions = {name: [numpy.zeros(1), numpy.ones(2)] for name in runtimes.PEERS}
predictions["LiteRT"] = [numpy.full(1, -5e-4), numpy.ones(2)]
predictions["LiteRT int8"] = [numpy.ones(1), numpy.ones(2)]
print(json.dumps(runtimes.check(predictions)))
predictions["OpenVINO"] = [numpy.zeros(1), numpy.full(2, numpy.nan)]
runtimes.check(predictions)
"""


def test_runtimes_that_predict_differently_are_not_compared():
    done = subprocess.run(
        [sys.executable, "-c", RUNTIMES],
        cwd=ROOT / "benchmarks", capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "LiteRT": 5e-4, "LiteRT int8": 1.0, "ONNX Runtime": 0.0, "OpenVINO": 0.0
    }  # fmt: skip
    assert done.returncode == 1
    assert "OpenVINO and PyTorch differ by nan" in done.stderr


# PyTorch is left out: its step is one that takes a time which the test knows.
TRAINING_STEP = """
import sys, time, types
from absl import app

sys.modules["torch_peer"] = types.ModuleType("torch_peer")
import training_step

training_step.steps.pytorch = lambda backbone, batch: lambda: time.sleep(0.5)
app.run(training_step.main)
"""


def test_training_step_is_compared_with_the_peer_and_with_three(tmp_path):
    for name in ("torch", "timm"):
        (tmp_path / f"{name}-7.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 7\n"
        (tmp_path / f"{name}-7.dist-info" / "METADATA").write_text(metadata)
    done = subprocess.run(
        [sys.executable, "-c", TRAINING_STEP, *TINY, "--rounds=2", "--xla",
         "--json=raw.json"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'benchmarks'}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "raw.json").read_text())
    seconds = found["seconds"]
    assert min(seconds["PyTorch"]) >= 0.5
    for name, speed in found["speeds_to_pytorch"].items():
        # The median of two is their mean.
        pairs = zip(seconds["PyTorch"], seconds[name], strict=True)
        expected = sum(peer / ours for peer, ours in pairs) / 2
        assert speed["seconds"] == pytest.approx(expected)
        assert f"clock: {name} {expected:.2f} times PyTorch's speed" in done.stdout
    assert list(found["speeds_to_pytorch"]) == ["ours", "ours with XLA"]
    pairs = zip(seconds["ours"], seconds["three networks"], strict=True)
    expected = sum(one / three for one, three in pairs) / 2
    assert f"by the clock: one network {expected:.2f} of three" in done.stdout


def test_one_network_is_compared_with_three_in_time_and_memory(tmp_path):
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "three_networks.py",
         "--backbone=tiny", "--image_size=32", "--rounds=2", f"--json={raw}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(raw.read_text())
    # The same tasks are predicted both ways.
    one, three = found["predictions"].values()
    assert one == three == ["age", "gender", "race"]
    peaks = found["bytes_above_imports"]
    assert 0 < peaks["one network"] < peaks["three networks"]
    ratio = peaks["one network"] / peaks["three networks"]
    pairs = zip(*found["seconds"].values(), strict=True)
    time_ratio = sum(a / b for a, b in pairs) / 2
    assert f"takes {time_ratio:.2f} of the time of three" in done.stdout
    assert f"{ratio:.2f} of the memory" in done.stdout


# In one process, because each new one would start TensorFlow.
SCALING = """
import sys
from absl import app
import memory
import scaling

memory.in_new_process = lambda function, *arguments: function(*arguments)
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
    for count, times in found["batch"]["seconds"].items():
        # One at a time, two are timed as well.
        rate = found["batch"]["images_per_second"][count]
        assert rate == pytest.approx(2 / (sum(times) / 2))
        assert f"batch of   {count}: {rate:.1f} images/s" in done.stdout
    for name in ("data_time", "data_memory", "image_size", "batch"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
