"""What is exported: a run, a preset, a network that comes with the package."""

import dataclasses
import json
from pathlib import Path

import forks
import numpy as np
import pytest
import synthetic
from small_network import SIZE, random_images, random_model, write_workdir

from hydranet_tf.errors import HydraNetError
from hydranet_tf.evaluation import evaluate
from hydranet_tf.exporting import export
from hydranet_tf.exporting.export import ExportError
from hydranet_tf.inference import loading, runtimes
from hydranet_tf.inference.predictor import Predictor
from hydranet_tf.tasks import RACE, TASKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 20, side=SIZE)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "small"
    random_model().save_to_preset(folder, {"commit": "c0ffee", "checkpoint": "best-7"})
    return folder


def test_a_preset_is_exported_like_a_run(preset, data, tmp_path):
    export.export_run(preset, tmp_path / "out", data=str(data), split="all")
    images = random_images(4)
    expected = loading.load(preset).inference_model().predict_on_batch(images)
    for name in ("hydranet/1", "hydranet.tflite"):
        found = runtimes.load(tmp_path / "out" / name).predictions(images)
        for task in ("age", "gender", "race"):
            np.testing.assert_allclose(found[task], expected[task], atol=1e-3)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["hydranet.tflite"]["preset"] == "small"
    assert record["hydranet.tflite"]["commit"] == "c0ffee"


def test_what_a_preset_does_not_have_is_said(preset, data, tmp_path):
    with pytest.raises(ExportError, match="no data of its own.*give --data"):
        export.export_run(preset, tmp_path / "out")
    with pytest.raises(ExportError, match="--checkpoint=last is of a workdir"):
        export.export_run(preset, tmp_path / "out", data=str(data), checkpoint="last")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "metadata.json").write_text("{}")
    with pytest.raises(loading.LoadError, match="Copy it again"):
        export.export_run(damaged, tmp_path / "out", data=str(data))


def test_one_source_is_named():
    for flags in ([], ["--model=a", "--workdir=b"]):
        done = forks.run([ROOT / "export.py", "--output=out", *flags])
        assert done.returncode and "expected --model=" in done.stdout + done.stderr


def test_a_model_with_other_classes_is_refused_everywhere(data, tmp_path):
    """Each with an error that its command shows as one line."""
    fewer = dataclasses.replace(RACE, classes=RACE.classes[:4])
    model = random_model(tasks=(*TASKS[:2], fewer))
    write_workdir(model, tmp_path / "run", data=str(data))
    with pytest.raises(ExportError, match="predicts race in its own way"):
        export.export_run(tmp_path / "run", tmp_path / "out")
    with pytest.raises(evaluate.EvaluationError, match="predicts race as categorical"):
        evaluate.evaluate_model(
            tmp_path / "run", str(data), "all", tmp_path / "report"
        )  # fmt: skip
    with pytest.raises(runtimes.LoadError, match="has its own race"):
        Predictor(tmp_path / "run")
    for error in (ExportError, evaluate.EvaluationError, runtimes.LoadError):
        assert issubclass(error, HydraNetError)
