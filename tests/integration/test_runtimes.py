"""One runtime for a workdir, a SavedModel and a .tflite file."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_network import (
    SIZE,
    assert_same_predictions,
    encode,
    keras_predictions,
    random_images,
    random_model,
    write_workdir,
)

from hydranet_tf.data import graph_decoding, pipeline, sources
from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import TASKS

KINDS = ("workdir", "saved_model", "litert")


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    """The same network as each kind of thing that can be loaded."""
    folder = tmp_path_factory.mktemp("kinds")
    write_workdir(model, folder / "run")
    description = saved_model.describe(model.tasks, SIZE)
    network = model.inference_model()
    saved_model.write(network, description, folder / "served" / "1")
    litert.write(network, description, folder / "phone.tflite")
    return {
        "workdir": folder / "run",
        "saved_model": folder / "served" / "1",
        "litert": folder / "phone.tflite",
    }


@pytest.fixture(scope="module")
def loaded_runtimes(paths):
    return {kind: runtimes.load(path) for kind, path in paths.items()}


def test_one_jpeg_gets_the_same_predictions_on_every_way(
    model, paths, loaded_runtimes, tmp_path
):
    oblong = np.concatenate(random_images(3), axis=1)
    turned = oblong.transpose(1, 0, 2)
    for name, image in (("30_0_2_a.jpg", oblong), ("8_1_4_b.jpg", turned)):
        (tmp_path / name).write_bytes(encode(image, "JPEG"))
    faces = pipeline.load_faces(sources.open_source(str(tmp_path), "all"), SIZE)
    ((images, _),) = pipeline.evaluation_batches(faces, 2)
    expected = keras_predictions(model, images)
    # Two different images: a prediction that ignored its input would be seen.
    assert abs(expected["age"][0] - expected["age"][1]) > 0.1

    encoded = [faces.examples.read(i) for i in range(2)]
    serve = tf.saved_model.load(str(paths["saved_model"])).signatures
    assert_same_predictions(
        serve["serving_default"](image_bytes=tf.constant(encoded)), expected
    )
    pixels = np.stack(
        [graph_decoding.decode_and_resize(e, SIZE).numpy() for e in encoded]
    )
    assert_same_predictions(serve["pixels"](images=tf.constant(pixels)), expected)
    for loaded in loaded_runtimes.values():
        assert_same_predictions(loaded.predictions(pixels), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_knows_its_tasks_and_size(loaded_runtimes, kind):
    assert loaded_runtimes[kind].tasks == TASKS
    assert loaded_runtimes[kind].image_size == SIZE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 2, 32, 33])
def test_any_number_of_images(model, loaded_runtimes, kind, n):
    images = random_images(n + 1)[:n]
    found = loaded_runtimes[kind].predictions(images)
    assert {name: values.shape for name, values in found.items()} == {
        "age": (n,),
        "gender": (n, 2),
        "race": (n, 5),
    }
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    if n:
        assert_same_predictions(found, keras_predictions(model, images))


@pytest.mark.parametrize("kind", ["workdir", "saved_model"])
def test_nothing_compiles_again(loaded_runtimes, kind):
    sizes = set()

    def run(images):
        sizes.add(len(images))
        return loaded_runtimes[kind].run(images)

    watched = dataclasses.replace(loaded_runtimes[kind], run=run)
    for n in (1, 5, 31, 40, 65):
        watched.predictions(random_images(n))
    assert sizes == {1, 32}


@pytest.mark.parametrize("kind", KINDS)
def test_threads_get_their_own_predictions(loaded_runtimes, kind):
    batches = [random_images(2, seed) for seed in range(24)]
    expected = [loaded_runtimes[kind].predictions(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(loaded_runtimes[kind].predictions, batches))
    for one, other in zip(found, expected, strict=True):
        assert_same_predictions(one, other)


@pytest.mark.parametrize(
    "images",
    [
        random_images(2).astype(np.float32),
        random_images(2)[:, 1:],
        random_images(1)[0],
        np.zeros((2, SIZE, SIZE, 1), np.uint8),
    ],
    ids=["float", "oblong", "no batch", "grey"],
)
def test_other_images_are_refused(loaded_runtimes, images):
    with pytest.raises(ValueError, match=rf"uint8 images .* {SIZE}, {SIZE}, 3\].*got"):
        loaded_runtimes["litert"].predictions(images)


def test_a_folder_of_versions_gives_the_highest(paths, tmp_path):
    other = random_model(seed=1)
    for version in ("2", "9"):
        shutil.copytree(paths["saved_model"], tmp_path / version)
    description = saved_model.describe(other.tasks, SIZE)
    saved_model.write(other.inference_model(), description, tmp_path / "10")
    images = random_images(2)
    expected = other.inference_model().predict_on_batch(images)
    assert_same_predictions(runtimes.load(tmp_path).predictions(images), expected)


def test_a_tflite_file_needs_neither_tensorflow_nor_keras(paths):
    script = f"""
import sys
import numpy as np
from hydranet_tf.inference import runtimes

loaded = runtimes.load({str(paths["litert"])!r})
loaded.predictions(np.zeros((1, {SIZE}, {SIZE}, 3), np.uint8))
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    root = Path(runtimes.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def refuse(path, *parts):
    """Expects a `LoadError` whose message holds each of `parts`."""
    with pytest.raises(runtimes.LoadError) as raised:
        runtimes.load(path)
    for part in (str(path), *parts):
        assert part in str(raised.value)


def test_other_paths_are_refused_naming_the_three_kinds(tmp_path):
    kinds = ("workdir", "SavedModel", ".tflite")
    refuse(tmp_path / "nowhere", *kinds, "does not exist")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", *kinds, "an empty folder")
    (tmp_path / "model.keras").write_bytes(b"")
    refuse(tmp_path / "model.keras", *kinds, "another kind of file")
    (tmp_path / "1").mkdir()
    refuse(tmp_path, *kinds, "a folder with 1, empty, model.keras")


def test_a_workdir_whose_checkpoints_are_damaged(paths, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(paths["workdir"], workdir)
    for weights in workdir.glob("checkpoints/*/weights.npz"):
        weights.write_bytes(weights.read_bytes()[:-1])
    refuse(workdir, "whole")


@pytest.fixture
def phone(paths, tmp_path):
    """A copy of the .tflite file and its description, to be damaged."""
    for suffix in (".tflite", ".json"):
        shutil.copy(paths["litert"].with_suffix(suffix), tmp_path)
    return tmp_path / "phone.tflite"


def test_a_tflite_file_that_was_cut_short(phone):
    whole = phone.read_bytes()
    phone.write_bytes(whole[:-100])
    refuse(phone, "cut short", f"{len(whole) - 100} bytes", str(len(whole)))
    # Alone: the archive that explains it stands at the end and is gone.
    phone.with_suffix(".json").unlink()
    refuse(phone, "cut short", "phone.json", "description.json")


def test_a_tflite_file_with_a_changed_byte(phone):
    content = bytearray(phone.read_bytes())
    content[len(content) // 2] ^= 1
    phone.write_bytes(content)
    refuse(phone, "sha256", "damaged")
    phone.with_suffix(".json").unlink()
    refuse(phone, "sha256", "description.json")


def test_a_sidecar_of_another_export(model, phone, tmp_path):
    other = tmp_path / "other" / "phone.tflite"
    other.parent.mkdir()
    description = saved_model.describe(model.tasks, SIZE)
    litert.write(random_model(seed=1).inference_model(), description, other)
    shutil.copy(other.with_suffix(".json"), phone.with_suffix(".json"))
    refuse(phone, "sha256", "another export")


def test_a_tflite_file_explains_itself(model, phone):
    phone.with_suffix(".json").unlink()
    alone = phone.rename(phone.with_name("renamed.tflite"))
    loaded = runtimes.load(alone)
    assert (loaded.tasks, loaded.image_size) == (TASKS, SIZE)
    images = random_images(2)
    expected = keras_predictions(model, images)
    assert_same_predictions(loaded.predictions(images), expected)


@pytest.mark.parametrize("content", [b"", b"not a model" * 9])
def test_a_file_that_is_no_model_at_all(phone, content):
    phone.write_bytes(content)
    sidecar = phone.with_suffix(".json")
    description = json.loads(sidecar.read_text())
    description["sha256"] = hashlib.sha256(content).hexdigest()
    sidecar.write_text(json.dumps(description))
    refuse(phone, "LiteRT cannot run")
    sidecar.unlink()
    refuse(phone, "not made by export.py")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "phone.json"),
        ("[]", "phone.json"),
        ('{"image_size": 40}', "sha256"),
        ('{"image_size": 40, "sha256": "SHA256"}', "tasks"),
        ('{"tasks": [{"name": "age"}], "sha256": "SHA256"}', "tasks"),
    ],
)
def test_a_tflite_file_with_an_unusable_sidecar(phone, text, part):
    digest = hashlib.sha256(phone.read_bytes()).hexdigest()
    phone.with_suffix(".json").write_text(text.replace("SHA256", digest))
    with pytest.raises(runtimes.LoadError, match=part):
        runtimes.load(phone)


def test_a_description_of_other_tasks(phone):
    sidecar = phone.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace('"gender"', '"glasses"'))
    refuse(phone, "glasses", "another export")


@pytest.mark.parametrize("alone", [False, True])
def test_a_dynamic_batch_runs_at_full_size(model, tmp_path, alone):
    path = tmp_path / "phone.tflite"
    description = saved_model.describe(model.tasks, SIZE)
    litert.write(model.inference_model(), description, path, dynamic_batch=True)
    if alone:
        path.with_suffix(".json").unlink()
    loaded = runtimes.load(path)
    assert loaded.batch_size == 32
    images = random_images(33)
    expected = keras_predictions(model, images)
    assert_same_predictions(loaded.predictions(images), expected)
    assert_same_predictions(
        loaded.predictions(images[:1]), {k: v[:1] for k, v in expected.items()}
    )


def test_integer_predictions_become_years_and_probabilities(model, tmp_path):
    path = tmp_path / "phone.tflite"
    description = saved_model.describe(model.tasks, SIZE)
    images = random_images(20)
    litert.write(
        model.inference_model(),
        description,
        path,
        "integer",
        representative_faces=images,
    )
    found = runtimes.load(path).predictions(images)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    expected = keras_predictions(model, images)
    assert_same_predictions(found, expected, years=3, probability=0.1)
    # Steps of the written scale, not raw levels.
    outputs = json.loads(path.with_suffix(".json").read_text())["outputs"]
    steps = found["age"] / outputs["age"]["scale"] + outputs["age"]["zero_point"]
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_a_saved_model_that_is_damaged(paths, tmp_path):
    folder = tmp_path / "1"
    shutil.copytree(paths["saved_model"], folder)
    (variables,) = folder.glob("variables/*.data-*")
    variables.write_bytes(variables.read_bytes()[:100])
    refuse(folder, "cannot read the SavedModel")
    (folder / "assets" / "tasks.json").unlink()
    with pytest.raises(runtimes.LoadError, match=r"tasks\.json.*export"):
        runtimes.load(folder)


def test_a_saved_model_of_somebody_else(paths, tmp_path):
    module = tf.Module()
    module.double = tf.function(
        lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)]
    )
    folder = tmp_path / "1"
    tf.saved_model.save(module, str(folder), signatures={"double": module.double})
    (folder / "assets").mkdir(exist_ok=True)
    shutil.copy(paths["saved_model"] / "assets" / "tasks.json", folder / "assets")
    refuse(folder, "'pixels'", "['double']")
