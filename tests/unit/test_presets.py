"""Presets: small, whole, checked by hash, and predicting as the network does."""

from __future__ import annotations

import hashlib
import json
import shutil

import keras
import numpy as np
import pytest
import synthetic
from small_network import SIZE, random_images, random_model, write_workdir

from hydranet_tf import checkpoints, presets
from hydranet_tf.config import TrainingConfig
from hydranet_tf.evaluation import evaluate
from hydranet_tf.exporting import export
from hydranet_tf.exporting.export import Request
from hydranet_tf.inference import runtimes
from hydranet_tf.model import HydraNet
from hydranet_tf.presets import PresetError
from hydranet_tf.tasks import DISTRIBUTION, TASKS, from_json, with_head


@pytest.fixture(scope="module")
def model():
    made = random_model(tasks=with_head(TASKS, DISTRIBUTION))
    made.temperatures = {"race": 1.5}
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 40, side=SIZE)


@pytest.fixture(scope="module")
def exported(model, data, tmp_path_factory):
    """A run, a report on it, and its preset with a card that quotes it."""
    folder = tmp_path_factory.mktemp("run")
    lists = str(data / "splits")
    write_workdir(
        model, folder / "workdir", data=str(data), split_lists=lists,
        age_head="distribution", learning_rate=0.01,
    )  # fmt: skip
    # As evaluate.py --fit_temperatures leaves it.
    checkpoints.keep_temperatures(folder / "workdir", "best-00000007", {"race": 1.5})
    evaluate.evaluate_model(
        folder / "workdir", str(data), "validation", folder / "report",
        split_lists=lists,
    )  # fmt: skip
    export.export_run(
        folder / "workdir", folder / "out", Request(["preset"]),
        report=folder / "report",
    )  # fmt: skip
    return folder


@pytest.fixture
def preset(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported / "out" / "preset", tmp_path / "preset")


def test_what_is_in_it(preset):
    assert {path.name for path in preset.iterdir()} == {
        "config.json", "weights.npz", "tasks.json", "metadata.json", "MODEL_CARD.md"
    }  # fmt: skip
    tasks = from_json((preset / "tasks.json").read_text())
    assert [task.name for task in tasks] == ["age", "gender", "race"]
    metadata = json.loads((preset / "metadata.json").read_text())
    assert metadata["commit"] == "c0ffee"
    assert "--learning_rate=0.01" in metadata["settings"]
    assert "--data" not in metadata["settings"]


def test_kernels_in_16_bits(model, preset):
    with np.load(preset / "weights.npz", allow_pickle=False) as file:
        arrays = dict(file)
    variables = {v.path: np.asarray(v) for v in model.network.variables}
    assert arrays.keys() == variables.keys()
    loaded = {
        v.path: np.asarray(v) for v in HydraNet.from_preset(preset).network.variables
    }
    for name, kernel in variables.items():
        if kernel.ndim == 1:
            np.testing.assert_array_equal(loaded[name], kernel)
            assert arrays[name].dtype == np.float32
            continue
        assert arrays[name].dtype == np.float16
        np.testing.assert_array_equal(loaded[name], kernel.astype(np.float16))


def write_in_8_bits(folder, kernel, name):
    """A preset as format 2 had them: an int8 kernel with a scale for each output."""
    axes = presets.axes_within_an_output(kernel.shape)
    scales = np.abs(kernel).max(axes, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    presets.write(folder, {}, {}, "[]", {})
    path = folder / "weights.npz"
    steps = np.round(kernel / scales).astype(np.int8)
    np.savez(path, **{name: steps, f"{name}.scales": scales})
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["format"] = 2
    metadata["sha256"]["weights.npz"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return steps * scales


@pytest.mark.parametrize(
    "shape",
    # A depthwise kernel has one output a channel, which stands before the last.
    [(3, 3, 4, 1), (1, 1, 5, 6), (7, 1)],
)
def test_presets_in_8_bits_are_read_as_ever(shape, tmp_path):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel[..., 0, :] = 0
    expected = write_in_8_bits(tmp_path / "preset", kernel, "kernel")
    variable = keras.Variable(np.ones(shape), name="kernel")
    assert presets.read_config(tmp_path / "preset") == {}
    presets.assign(tmp_path / "preset", {"kernel": variable})
    np.testing.assert_array_equal(variable, expected)
    np.testing.assert_allclose(variable, kernel, atol=abs(kernel).max() / 250)


def test_it_predicts_as_the_network_does_within_16_bits(model, preset):
    images = random_images(8)
    expected = model.inference_model().predict_on_batch(images)
    # Of the same kind of network with other weights.
    other = random_model(5, model.tasks).inference_model().predict_on_batch(images)
    loaded = HydraNet.from_preset(preset)
    assert loaded.temperatures == {"race": 1.5}
    for found in (
        loaded.inference_model().predict_on_batch(images),
        runtimes.load(preset).predictions(images),
    ):
        assert found.keys() == expected.keys()
        for name, bound in (("age", 0.01), ("age_high", 0.01), ("race", 0.001)):
            np.testing.assert_allclose(found[name], expected[name], atol=bound)
            assert np.abs(found[name] - other[name]).max() > 2 * bound


def test_it_is_evaluated_like_a_workdir(exported, data, preset, tmp_path):
    content = evaluate.evaluate_model(
        preset, str(data), "validation", tmp_path / "report",
        split_lists=data / "splits",
    )  # fmt: skip
    assert content["model"]["kind"] == "preset"
    before = json.loads((exported / "report" / "report.json").read_text())
    found, expected = (
        c["tasks"]["age"]["scores"]["mae"]["value"] for c in (content, before)
    )
    assert found == pytest.approx(expected, abs=0.05)


def test_the_card_quotes_the_report(exported, preset):
    card = (preset / "MODEL_CARD.md").read_text()
    report = json.loads((exported / "report" / "report.json").read_text())
    mae = report["tasks"]["age"]["scores"]["mae"]
    assert f"{mae['low']:.2f} to {mae['high']:.2f}" in card
    assert "worst group" in card and "non-commercial research" in card
    assert "--age_head=distribution" in card and "Uses this card bars" in card


@pytest.mark.parametrize("name", ["config.json", "weights.npz", "tasks.json"])
def test_a_file_that_was_changed_is_refused(preset, name):
    content = bytearray((preset / name).read_bytes())
    content[len(content) // 2] ^= 1
    (preset / name).write_bytes(content)
    with pytest.raises(PresetError, match=f"{name} is not the file .*sha256 differ"):
        HydraNet.from_preset(preset)
    with pytest.raises(runtimes.LoadError, match="copy the preset again"):
        runtimes.load(preset)


def test_a_file_that_is_missing_is_named(preset):
    (preset / "weights.npz").unlink()
    with pytest.raises(PresetError, match="weights.npz"):
        HydraNet.from_preset(preset)


def test_metadata_in_another_form(preset):
    (preset / "metadata.json").write_text('{"format": 99}')
    with pytest.raises(PresetError, match="has the format 99.*reads 2 and 3"):
        HydraNet.from_preset(preset)
    (preset / "metadata.json").write_text("[]")
    with pytest.raises(PresetError, match="Copy it again"):
        HydraNet.from_preset(preset)


def test_a_preset_is_not_replaced_unasked(exported, tmp_path):
    output = shutil.copytree(exported / "out", tmp_path / "out")
    before = (output / "preset" / "metadata.json").read_text()
    with pytest.raises(export.ExportError, match="preset exists already"):
        export.export_run(exported / "workdir", output, Request(["preset"]))
    assert (output / "preset" / "metadata.json").read_text() == before
    export.export_run(exported / "workdir", output, Request(["preset"], overwrite=True))
    assert (output / "preset" / "metadata.json").read_text() != before
    assert not list(output.glob(".*"))


def test_a_report_that_is_not_there(exported, tmp_path):
    with pytest.raises(export.ExportError, match="expected a report"):
        export.export_run(
            exported / "workdir", tmp_path / "out", Request(["preset"]), report=tmp_path
        )


def test_settings_that_were_changed_are_told_without_places():
    config = TrainingConfig(data="x.csv", epochs=3, cache="none")
    assert config.changed() == "--epochs=3"
    # A place as well, but what was learned from is not a detail.
    taught = TrainingConfig(data="x.csv", teacher="a.csv,b.csv")
    assert taught.changed() == "--teacher=a.csv,b.csv"
    far = TrainingConfig(teacher="/home/me/a.csv, t/b.csv", start_from="~/runs/one")
    assert far.changed() == "--start_from=one --teacher=a.csv,t/b.csv"


def test_it_is_written_as_keras_hub_writes_its_own(model, tmp_path):
    folder = tmp_path / "new" / "preset"
    model.save_to_preset(folder)
    loaded = HydraNet.from_preset(folder)
    assert loaded.network.count_params() == model.network.count_params()
    before = (folder / "weights.npz").read_bytes()
    with pytest.raises(presets.PresetError, match="holds config.json"):
        random_model(9, model.tasks).save_to_preset(folder)
    assert (folder / "weights.npz").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(presets.PresetError, match="is a file"):
        model.save_to_preset(tmp_path / "file")
