"""Exports as a user makes them: checked, recorded, never half made."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import documents
import forks
import keras
import numpy as np
import pytest
import synthetic
from sample_pictures import astronaut
from small_network import (
    SIZE,
    assert_same_predictions,
    encode,
    keras_predictions,
    random_images,
    random_model,
    write_workdir,
)

from hydranet_tf.data import crops, sources
from hydranet_tf.exporting import export, litert, parity, saved_model
from hydranet_tf.exporting.export import Request
from hydranet_tf.inference import runtimes
from hydranet_tf.inference.predictor import Predictor
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import DISTRIBUTION, TASKS, with_head

REPOSITORY = Path(export.__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of drawn gradients with the names of UTKFace."""
    folder = tmp_path_factory.mktemp("faces")
    for i, image in enumerate(random_images(70)):
        name = f"{20 + i}_{i % 2}_{i % 5}_{i}.jpg"
        (folder / name).write_bytes(encode(image[: 30 + i % 10], "JPEG"))
    return folder


@pytest.fixture(scope="module")
def examples(data):
    return sources.open_source(str(data), "all")


@pytest.fixture(scope="module")
def run(model, data, tmp_path_factory):
    """The folder of a run, and one export of it."""
    folder = tmp_path_factory.mktemp("run")
    write_workdir(model, folder / "workdir", data=str(data))
    export.export_run(folder / "workdir", folder / "output", split="all")
    return folder


@pytest.fixture(scope="module")
def least():
    """For tests of what becomes of the files: it is converted in half of the time."""
    return random_model(backbone=synthetic.stem())


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_code_that_the_pages_show(run, model, tmp_path, monkeypatch, capsys):
    """Blocks that ask an export, as they stand, beside the Keras network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "faces").symlink_to(run / "output")
    face = random_images(1, seed=5)[0]
    (tmp_path / "face.png").write_bytes(encode(face))
    expected = runtimes.from_model(model).predictions(face[np.newaxis])
    by_litert, by_package, *_ = documents.code_blocks("docs/exports.md", "python")
    names = {}
    exec(by_litert, names)
    assert_same_predictions(names["predictions"], expected)
    names = {}
    exec(by_package, names)
    assert_same_predictions(names["predictions"], expected)
    assert capsys.readouterr().out.splitlines()[-1].startswith("race [")
    names = {}
    exec(documents.code_blocks("docs/crop.md", "python")[0], names)
    (found,) = names["predictor"](np.asarray(astronaut()))
    (usual,) = Predictor(tmp_path / "exports/faces/hydranet.tflite")(
        np.asarray(astronaut())
    )
    # The points that the page writes down are those of this face.
    assert found.box == usual.box
    assert found.age == pytest.approx(usual.age, abs=2)


def test_what_an_export_writes(run):
    names = {name for name in contents(run / "output") if "variables" not in name}
    assert names == {
        "MODEL_CARD.md",
        "export.json",
        "hydranet.json",
        "hydranet.tflite",
        "hydranet/1/assets/tasks.json",
        "hydranet/1/assets.extra/tf_serving_warmup_requests",
        "hydranet/1/fingerprint.pb",
        "hydranet/1/saved_model.pb",
    }


def test_onnx_beside_others(run, model, tmp_path):
    """Checked like them, and in nobody's way: hydranet.json is the .tflite's."""
    output = tmp_path / "output"
    shutil.copytree(run / "output", output)
    request = export.Request(formats=("onnx",))
    done = export.export_run(run / "workdir", output, request, split="all")
    (exported,) = done.models
    assert exported.path == output / "hydranet.onnx"
    record = json.loads((output / "export.json").read_text())["hydranet.onnx"]
    assert record["largest_difference_from_keras"]["pixels"]["age"] <= 0.01
    before = contents(run / "output")
    after = contents(output)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"hydranet.onnx", "export.json", "MODEL_CARD.md"}
    images = random_images(3)
    expected = runtimes.from_model(model).predictions(images)
    assert_same_predictions(runtimes.load(exported.path).predictions(images), expected)
    with pytest.raises(export.ExportError, match="hydranet.onnx exists already"):
        export.export_run(run / "workdir", output, request, split="all")


def test_onnx_without_its_packages_is_refused_before_any_work(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(export.ExportError, match=r"tf2onnx.*\[onnx\]"):
        export.export_run(
            run / "workdir", run / "elsewhere", export.Request(formats=("onnx",))
        )
    assert not (run / "elsewhere").exists()


@pytest.mark.parametrize("name", ["hydranet", "hydranet.tflite"])
def test_what_is_exported_predicts_as_the_run_does(model, run, name):
    images = random_images(3)
    expected = keras_predictions(model, images)
    found = runtimes.load(run / "output" / name).predictions(images)
    assert_same_predictions(found, expected)


def test_the_card_tells_labels_crop_and_uses(run, data):
    card = (run / "output" / "MODEL_CARD.md").read_text()
    assert "white, black, asian, indian, others, in this order" in card
    assert "what annotators saw" in card and "Uses this card bars" in card
    assert (
        f"- Data: {data.name}\n" in card
        and str(data) not in card
        and "On 70 faces" in card
    )
    for x, y in crops.CONTRACT["points"].values():
        assert f"| {x:g} | {y:g} |" in card
    asset = run / "output" / "hydranet" / "1" / "assets" / "tasks.json"
    assert json.loads(asset.read_text())["face"]["rule"] in card


def test_the_record_says_where_it_came_from_and_how_well_it_agrees(run, data):
    record = json.loads((run / "output" / "export.json").read_text())
    assert sorted(record) == ["hydranet.tflite", "hydranet/1"]
    for entry in record.values():
        assert entry["workdir"] == "workdir"
        assert entry["checkpoint"] == "best-00000007"
        assert entry["commit"] == "c0ffee"
        assert entry["data"] == data.name
        assert entry["examples"] == 70
        assert entry["image_size"] == SIZE
        assert entry["versions"]["keras"] == keras.__version__
        assert entry["variant"] == "float32"
        assert entry["largest_allowed"] == {
            "difference_in_years": 0.01,
            "difference_in_probability": 1e-4,
        }
        # Both predict as Keras does, whatever they are worth.
        assert entry["scores"] == pytest.approx(entry["keras_scores"], abs=1e-4)
        assert entry["lost"] == pytest.approx(
            {"age": 0, "gender": 0, "race": 0}, abs=1e-4
        )
    ways = record["hydranet/1"]["largest_difference_from_keras"]
    assert sorted(ways) == ["image_bytes", "pixels"]
    ways |= record["hydranet.tflite"]["largest_difference_from_keras"]
    for differences in ways.values():
        assert sorted(differences) == ["age", "gender", "race"]
        assert 0 <= differences["age"] <= 0.01
        assert 0 <= differences["gender"] <= 1e-4
        assert 0 <= differences["race"] <= 1e-4


@pytest.fixture
def exported(run, tmp_path):
    """A copy of the export, to export into again."""
    return Path(shutil.copytree(run / "output", tmp_path / "exported"))


def test_a_tflite_file_is_not_replaced_unasked(least, examples, exported):
    before = contents(exported)
    with pytest.raises(export.ExportError, match="exists already.*--overwrite"):
        export.export(least, examples, exported)
    assert contents(exported) == before


def test_a_repeated_export_adds_a_version_and_replaces_the_tflite_file(
    examples, exported
):
    before = contents(exported / "hydranet" / "1")
    other = random_model(seed=1, backbone=synthetic.stem())
    export.export(other, examples, exported, Request(overwrite=True))
    images = random_images(2)
    expected = other.inference_model().predict_on_batch(images)
    for name in ("hydranet/2", "hydranet.tflite"):
        assert_same_predictions(
            runtimes.load(exported / name).predictions(images), expected
        )
    assert contents(exported / "hydranet" / "1") == before
    record = json.loads((exported / "export.json").read_text())
    assert {name: "workdir" in entry for name, entry in record.items()} == {
        "hydranet/1": True,
        "hydranet/2": False,
        "hydranet.tflite": False,
    }


def written_from_other_weights(write):
    """Makes a writer lose a little of one weight, as a faulty converter might."""

    def broken(network, description, path, *args, **kwargs):
        bias = next(v for v in network.variables if v.path == "gender_logits/bias")
        right = bias.numpy()
        bias.assign(right + 0.005)
        try:
            write(network, description, path, *args, **kwargs)
        finally:
            bias.assign(right)

    return broken


@pytest.mark.parametrize(
    ("broken", "repeated"), [("saved_model", False), ("litert", True)]
)
def test_an_export_that_differs_is_not_published(
    least, examples, exported, tmp_path, monkeypatch, broken, repeated
):
    output = exported if repeated else tmp_path / "new"
    before = contents(tmp_path)
    module = {"saved_model": saved_model, "litert": litert}[broken]
    monkeypatch.setattr(module, "write", written_from_other_weights(module.write))
    with pytest.raises(export.ExportError, match="differently") as raised:
        export.export(least, examples, output, Request(overwrite=repeated))
    assert "by pixels: gender differs by up to" in str(raised.value)
    assert f"{broken} float32" in str(raised.value)
    assert contents(tmp_path) == before
    assert output.exists() == repeated
    assert not list(tmp_path.rglob(".*"))


def test_swapped_classes_are_not_published(least, examples, tmp_path, monkeypatch):
    write = saved_model.write

    def swapped(network, *args, **kwargs):
        predictions = network.output
        predictions = {**predictions, "race": predictions["race"][:, ::-1]}
        write(keras.Model(network.inputs, predictions), *args, **kwargs)

    monkeypatch.setattr(saved_model, "write", swapped)
    with pytest.raises(export.ExportError, match="differently"):
        export.export(least, examples, tmp_path / "output", Request(["saved_model"]))
    assert not (tmp_path / "output").exists()


def test_a_network_that_predicts_nan_is_not_published(examples, tmp_path):
    model = random_model(backbone=synthetic.stem())
    model.network.get_layer("age_logits").bias.assign([np.nan])
    with pytest.raises(export.ExportError, match="nan"):
        export.export(model, examples, tmp_path / "output", Request(["litert"]))
    assert not (tmp_path / "output").exists()


def test_a_failure_while_writing_leaves_nothing(least, examples, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(litert, "convert", full_disk)
    with pytest.raises(OSError, match="No space"):
        export.export(least, examples, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_only_the_variants_asked_for_stand_in_the_way(examples, exported, least):
    done = export.export(
        least, examples, exported, Request(["litert"], ("float16",), dynamic_batch=True)
    )
    assert [exported.path.name for exported in done.models] == [
        "hydranet_float16.tflite"
    ]
    assert runtimes.load(done.models[0].path).batch_size == 32
    with pytest.raises(export.ExportError, match="hydranet_float16.tflite exists"):
        export.export(least, examples, exported, Request(["litert"], ("float16",)))


def test_a_network_of_mixed_precision_becomes_float32(examples, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = random_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert "bfloat16" in {layer.compute_dtype for layer in model.network.layers}
    variants = ("float32", "float16", "dynamic")
    models = export.export(
        model, examples, tmp_path, Request(litert_variants=variants)
    ).models
    images = random_images(3)
    # The same weights in float32; 16 bits leave three digits.
    full = HydraNet.from_config(model.get_config())
    full.network.set_weights(model.network.get_weights())
    expected = full.inference_model().predict_on_batch(images)
    assert [exported.variant for exported in models] == ["float32", *variants]
    for exported, (years, probability) in zip(
        models, [(1e-3, 1e-5), (1e-3, 1e-5), (0.1, 5e-3), (2, 0.05)], strict=True
    ):
        found = runtimes.load(exported.path).predictions(images)
        assert_same_predictions(found, expected, years, probability)
    assert_same_predictions(keras_predictions(model, images), expected, 1.0, 0.02)


def test_a_bad_image_among_the_examples_does_not_stop_it(least, data, tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "30_0_0_1.jpg").write_bytes(b"")
    (faces / "31_0_0_2.jpg").write_bytes((data / "20_0_0_0.jpg").read_bytes())
    examples = sources.open_source(str(faces), "all")
    (exported,) = export.export(
        least, examples, tmp_path / "out", Request(["litert"])
    ).models
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record[exported.path.name]["examples"] == 1


def test_no_image_to_check_with(least, tmp_path):
    (tmp_path / "30_0_0_1.jpg").write_bytes(b"no image")
    examples = sources.open_source(str(tmp_path), "all")
    with pytest.raises(parity.ParityError, match="no image to check"):
        export.export(least, examples, tmp_path / "output")


def test_requests_that_are_refused_before_any_work(run, tmp_path, monkeypatch):
    def refuse(message, output=tmp_path / "output", **request):
        with pytest.raises(export.ExportError, match=message):
            export.export_run(run / "workdir", output, Request(**request))

    refuse("litert, onnx, preset; got coreml", formats=["litert", "coreml"])
    refuse("litert, onnx, preset; got none", formats=[])
    refuse("float16, dynamic, int8, integer; got int4", litert_variants=["int4"])
    refuse("float16, dynamic, int8, integer; got none", litert_variants=[])
    (tmp_path / "file").write_text("")
    refuse("file is a file", output=tmp_path / "file")
    (tmp_path / "export.json").write_text("{")
    refuse("cannot read .*export.json", output=tmp_path)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refuse("TensorFlow backend; this is jax.*KERAS_BACKEND=tensorflow")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.json", "file"]


def test_a_distribution_is_not_forced_into_integers(examples, tmp_path):
    model = random_model(tasks=with_head(TASKS, DISTRIBUTION))
    request = Request(["litert"], ("float32", "integer"))
    with pytest.raises(export.ExportError, match="take int8, whose heads are float"):
        export.export(model, examples, tmp_path, request, training=examples)
    assert not list(tmp_path.iterdir())


def export_py(*arguments):
    return forks.run(["export.py", *arguments], cwd=REPOSITORY)


def test_the_command(run, tmp_path):
    output = tmp_path / "output"
    arguments = [f"--workdir={run}/workdir", f"--output={output}", "--split=all"]
    done = export_py(*arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("70 faces")
    assert lines[2].split() == ["MB", *["age", "gender", "race"] * 2, "1", "2"]
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "keras",
        "saved_model float32",
        "saved_model float32, image bytes",
        "litert float32",
    ]
    scores = {tuple(line.split()[-5:-2]) for line in lines[3:7]}
    assert len(scores) == 1, "float32 exports score as Keras does"
    assert all(float(ms) > 0 for ms in lines[6].split()[-2:])
    assert lines[7:] == [
        f"wrote {output}/hydranet/1",
        f"wrote {output}/hydranet.tflite",
    ]

    again = export_py(*arguments, "--format=litert,coreml")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1] == (
        "export.py: expected formats out of saved_model, litert, onnx, preset; got "
        "coreml"
    )
