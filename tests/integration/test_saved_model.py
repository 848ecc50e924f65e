"""The SavedModel against the Keras model that it was made of."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from PIL import Image
from small_network import (
    SIZE,
    assert_same_predictions,
    encode,
    keras_predictions,
    random_images,
    random_model,
)
from tensorflow_serving.apis import prediction_log_pb2

from hydranet_tf.data import graph_decoding
from hydranet_tf.exporting import saved_model


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "saved"
    description = saved_model.describe(model.tasks, SIZE)
    saved_model.write(model.inference_model(), description, folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return tf.saved_model.load(str(folder))


def by_pixels(loaded, images):
    return loaded.signatures["pixels"](images=tf.constant(images))


def by_bytes(loaded, encoded):
    image_bytes = tf.constant(encoded, tf.string, shape=[len(encoded)])
    return loaded.signatures["serving_default"](image_bytes=image_bytes)


def test_the_model_of_these_tests_tells_images_apart(model):
    predictions = keras_predictions(model, random_images(16))
    assert np.ptp(predictions["age"]) > 1
    assert 0 < predictions["age"].min() and predictions["age"].max() < 120
    assert np.ptp(predictions["gender"][:, 0]) > 0.01
    assert (np.ptp(predictions["race"], axis=0) > 0.01).all()


@pytest.mark.parametrize(
    ("signature", "name", "dtype", "shape"),
    [
        ("serving_default", "image_bytes", tf.string, [None]),
        ("pixels", "images", tf.uint8, [None, SIZE, SIZE, 3]),
    ],
)
def test_signatures_name_their_inputs_and_outputs(
    loaded, signature, name, dtype, shape
):
    function = loaded.signatures[signature]
    _, inputs = function.structured_input_signature
    assert {key: (s.dtype, s.shape.as_list()) for key, s in inputs.items()} == {
        name: (dtype, shape)
    }
    outputs = function.structured_outputs
    assert {key: (s.dtype, s.shape.as_list()) for key, s in outputs.items()} == {
        "age": (tf.float32, [None]),
        "gender": (tf.float32, [None, 2]),
        "race": (tf.float32, [None, 5]),
    }


def test_pixels_get_the_keras_models_predictions(model, loaded):
    images = random_images(5)
    expected = keras_predictions(model, images)
    assert_same_predictions(by_pixels(loaded, images), expected)


def test_bytes_of_an_image_that_needs_no_resize_equal_its_pixels(loaded):
    images = random_images(3)
    found = by_bytes(loaded, [encode(image) for image in images])
    expected = by_pixels(loaded, images)
    assert_same_predictions(found, {k: v.numpy() for k, v in expected.items()}, 0, 0)


def test_bytes_are_turned_cropped_and_resized_in_the_graph(model, loaded):
    oblong = np.concatenate([*random_images(3)[:, 5:]], axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = [
        encode(oblong, "JPEG", exif=exif, quality=90),
        encode(oblong.transpose(1, 0, 2)),
        encode(oblong[..., 0], "JPEG"),
    ]
    images = np.stack(
        [graph_decoding.decode_and_resize(e, SIZE).numpy() for e in encoded]
    )
    expected = keras_predictions(model, images)
    assert_same_predictions(by_bytes(loaded, encoded), expected)


@pytest.mark.parametrize("bad", [b"", b"no image", encode(random_images(1)[0])[:60]])
def test_a_damaged_image_costs_its_own_prediction_alone(loaded, bad):
    images = random_images(3)
    good = [encode(image) for image in images]
    found = by_bytes(loaded, [good[0], bad, good[1], bad, good[2]])
    for values in found.values():
        assert (values.numpy()[[1, 3]] == -1).all()
    assert_same_predictions(
        {name: values.numpy()[[0, 2, 4]] for name, values in found.items()},
        {name: values.numpy() for name, values in by_pixels(loaded, images).items()},
    )


def test_predictions_with_a_damaged_image_are_strict_json(loaded):
    found = by_bytes(loaded, [b"no image", encode(random_images(1)[0])])
    rows = json.dumps({k: v.numpy().tolist() for k, v in found.items()})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    back = json.loads(rows, parse_constant=refuse)
    assert back["age"][0] == -1 and back["age"][1] >= 0


def test_nothing_but_damaged_images(loaded):
    found = by_bytes(loaded, [b"", b"x"])
    assert found["race"].shape == (2, 5)
    assert all((values.numpy() == -1).all() for values in found.values())


def test_no_images(loaded):
    for found in (by_bytes(loaded, []), by_pixels(loaded, random_images(1)[:0])):
        shapes = {name: tuple(values.shape) for name, values in found.items()}
        assert shapes == {"age": (0,), "gender": (0, 2), "race": (0, 5)}


def test_the_asset_says_what_the_columns_mean(folder):
    description = json.loads((folder / "assets" / "tasks.json").read_text())
    tasks = {task["name"]: task for task in description["tasks"]}
    assert tasks["age"]["unit"] == "years"
    assert tasks["gender"]["classes"] == ["male", "female"]
    assert tasks["race"]["classes"] == ["white", "black", "asian", "indian", "others"]
    assert description["image_size"] == SIZE
    assert description["pixels"] == {"channels": "RGB", "lowest": 0, "highest": 255}
    assert "square" in description["crop"]
    served = description["served"]
    assert {name: said["input"] for name, said in served.items()} == {
        "serving_default": "image_bytes",
        "pixels": "images",
    }
    assert "-1" in served["serving_default"]["unreadable"]


def test_only_the_inference_model_is_inside(model, folder):
    variables = tf.train.list_variables(str(folder / "variables" / "variables"))
    numbers = [s for name, s in variables if name.startswith("weights/")]
    assert len(numbers) == len(model.network.weights)
    # The loss weights are variables of the training model alone.
    assert len(model.weights) > len(model.network.weights)


def test_it_loads_where_only_tensorflow_is(loaded, folder, tmp_path):
    images = random_images(2)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "face.png").write_bytes(encode(images[1]))
    script = f"""
import sys
from importlib.machinery import ModuleSpec

class Blocked:
    # TensorFlow looks where Keras would be, and that alone does not use it.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hydranet_tf", "keras", "tf_keras"):
            return ModuleSpec(name, self)

    def create_module(self, spec):
        raise ImportError(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Blocked())
import numpy as np
import tensorflow as tf

model = tf.saved_model.load({str(folder)!r})
pixels = model.signatures["pixels"](images=tf.constant(np.load("images.npy")))
encoded = tf.constant([open("face.png", "rb").read()])
served = model.signatures["serving_default"](image_bytes=encoded)
np.savez("predictions.npz", bytes_age=served["age"], **pixels)
assert not {{"hydranet_tf", "keras"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with np.load(tmp_path / "predictions.npz") as predictions:
        found = dict(predictions)
    expected = by_pixels(loaded, images)
    np.testing.assert_allclose(found.pop("bytes_age"), found["age"][1:], atol=1e-3)
    assert_same_predictions(found, {k: v.numpy() for k, v in expected.items()})


def warmup_requests(folder):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


def test_warm_up_requests_run_through_their_signatures(loaded, folder):
    found = []
    for request in warmup_requests(folder):
        signature = loaded.signatures[request.model_spec.signature_name]
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        predictions = signature(**{k: tf.constant(v) for k, v in inputs.items()})
        # -1 would say that the picture warms nothing up but the error path.
        assert (predictions["age"].numpy() >= 0).all()
        found.append((request.model_spec.signature_name, len(predictions["age"])))
    assert found == [
        ("serving_default", 1),
        ("serving_default", 4),
        ("pixels", 1),
        ("pixels", 4),
    ]


def test_both_warm_up_pictures_are_the_drawing(loaded, folder):
    by_signature = {
        request.model_spec.signature_name: request.inputs
        for request in warmup_requests(folder)
    }
    (encoded,) = set(
        tf.make_ndarray(by_signature["serving_default"]["image_bytes"]).tolist()
    )
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "JPEG" and image.size == (SIZE * 3 // 2,) * 2
    pixels = tf.make_ndarray(by_signature["pixels"]["images"])
    # Red from left to right, green from top to bottom, blue against red.
    assert pixels[0, 0, 0].tolist() == [0, 0, 255]
    assert pixels[0, 0, -1].tolist() == [255, 0, 0]
    assert pixels[0, -1, 0].tolist() == [0, 255, 255]


def test_without_the_extra_there_is_no_warm_up_and_a_line_says_so(
    model, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    said = []
    monkeypatch.setattr(logging, "info", lambda text, *a: said.append(text % a))
    description = saved_model.describe(model.tasks, SIZE)
    saved_model.write(model.inference_model(), description, tmp_path / "1")
    assert not (tmp_path / "1" / "assets.extra").exists()
    (line,) = (line for line in said if "warm-up" in line)
    assert ".[tf_serving]" in line and str(tmp_path / "1") in line
    predictions = by_pixels(tf.saved_model.load(str(tmp_path / "1")), random_images(1))
    assert predictions["age"].shape == (1,)


def test_newest_version_counts_as_numbers_do(tmp_path):
    assert saved_model.newest_version(tmp_path / "nowhere") == 0
    for name in ("2", "10", "9", "12.partial", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "99").write_text("a file is not a version")
    assert saved_model.newest_version(tmp_path) == 10
