"""The .tflite file against the Keras model that it was made of."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from gpu_delegates import check_for_gpu
from small_network import (
    SIZE,
    assert_same_predictions,
    keras_predictions,
    random_images,
    random_model,
)

from hydranet_tf import model as network_module
from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.inference import litert_trunk
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import DISTRIBUTION, TASKS, with_head


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def content(model):
    return litert.convert(model.inference_model())


class Patches(keras.layers.Layer):
    """Needs an operator that LiteRT has only by way of Flex."""

    def call(self, images):
        return tf.image.extract_patches(
            images, [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"
        )


def patches_model() -> keras.Model:
    images = keras.Input((8, 8, 3), name="images")
    return keras.Model(images, {"age": Patches()(images)})


def test_signature_names_inputs_and_outputs(content):
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["age", "gender", "race"]}
    }
    signature = interpreter.get_signature_runner("serving_default")
    image = signature.get_input_details()["images"]
    assert image["dtype"] is np.float32
    # The same in both: a static batch.
    assert image["shape"].tolist() == [1, SIZE, SIZE, 3]
    assert image["shape_signature"].tolist() == [1, SIZE, SIZE, 3]
    outputs = signature.get_output_details()
    assert {name: list(o["shape"]) for name, o in outputs.items()} == {
        "age": [1],
        "gender": [1, 2],
        "race": [1, 5],
    }


def test_predictions_equal_the_keras_models(model, content):
    images = random_images(4)
    signature = Interpreter(model_content=content).get_signature_runner()
    rows = [signature(images=image[np.newaxis].astype(np.float32)) for image in images]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    expected = keras_predictions(model, images)
    assert_same_predictions(found, expected, years=1e-3, probability=1e-5)


def test_only_builtin_operators(content):
    found = litert.operators(content)
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= set(found)
    assert litert.foreign_operators(content) == []


def test_a_network_that_needs_more_is_refused_by_name():
    with pytest.raises(litert.UnsupportedOperators, match="ExtractImagePatches"):
        litert.convert(patches_model())


def test_flex_operators_in_a_file_are_found(tmp_path):
    patches_model().export(tmp_path, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path))
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    assert litert.foreign_operators(converter.convert()) == ["FlexExtractImagePatches"]


@pytest.fixture(scope="module")
def variants(model):
    """Every variant, calibrated on what it is asked about."""
    return {
        name: litert.convert(
            model.inference_model(), name, representative_faces=random_images(20)
        )
        for name in litert.VARIANTS
    }


def signature_of(content):
    return Interpreter(model_content=content).get_signature_runner("serving_default")


@pytest.mark.parametrize(
    ("name", "takes", "gives", "megabytes"),
    [
        ("float32", np.float32, np.float32, 1.0),
        ("float16", np.float32, np.float32, 0.5),
        ("dynamic", np.float32, np.float32, 0.3),
        ("int8", np.uint8, np.float32, 0.35),
        ("integer", np.uint8, np.uint8, 0.35),
    ],
)
def test_what_a_variant_takes_and_gives(variants, name, takes, gives, megabytes):
    signature = signature_of(variants[name])
    image = signature.get_input_details()["images"]
    assert image["dtype"] is takes
    if takes is np.uint8:
        # A pixel means itself: no arithmetic between camera and network.
        assert image["quantization"] == (1.0, 0)
    outputs = signature.get_output_details()
    assert {output["dtype"] for output in outputs.values()} == {gives}
    assert sorted(outputs) == ["age", "gender", "race"]
    assert litert.foreign_operators(variants[name]) == []
    # Of the float32 file.
    fraction = len(variants[name]) / len(variants["float32"])
    assert megabytes - 0.3 < fraction <= megabytes + 0.2


@pytest.mark.parametrize("name", litert.VARIANTS)
def test_the_part_before_the_heads_gives_what_they_read(model, variants, name):
    """In 8 bits with steps of 1/256 of the range of features."""
    cut = litert_trunk.of(variants[name])
    assert litert.foreign_operators(cut) == [] and len(cut) <= len(variants[name])
    signature = signature_of(cut)
    output = signature.get_output_details()
    assert list(output) == ["embedding"]
    scale, zero_point = output["embedding"]["quantization"]
    pixels = signature.get_input_details()["images"]["dtype"]
    images = random_images(8)
    expected = model.feature_extractor().predict_on_batch(images)
    step = (expected.max() - expected.min()) / 256
    bound = {"float32": 1e-4, "float16": 1e-2, "dynamic": 4 * step}.get(name, 10 * step)
    for image, values in zip(images, expected, strict=True):
        found = signature(images=image[np.newaxis].astype(pixels))["embedding"]
        if scale:
            found = (found.astype(np.float32) - zero_point) * scale
        np.testing.assert_allclose(found[0], values, rtol=0, atol=bound)


def test_of_a_network_that_looks_twice_the_face_itself_counts():
    model = random_model()
    model.flip_tta = True
    content = litert.convert(model.inference_model())
    cut = litert_trunk.of(content)
    images = random_images(3)
    signature = signature_of(cut)
    found = [
        signature(images=image[np.newaxis].astype(np.float32))["embedding"][0]
        for image in images
    ]
    expected = model.feature_extractor().predict_on_batch(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    # One look, and no heads.
    assert operator_count(cut) < operator_count(content) / 2


def test_a_network_without_dense_layers_has_no_such_part():
    images = keras.Input((8, 8, 3), name="images")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    content = litert.convert(keras.Model(images, {"age": mean}))
    assert litert_trunk.of(content) is None


def operator_count(content):
    model = schema.Model.GetRootAs(content)
    return model.Subgraphs(0).OperatorsLength()


def tensor_types(content):
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    return {graph.Tensors(i).Type() for i in range(graph.TensorsLength())}


def test_integers_throughout_hold_no_float_at_all(variants):
    floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
    assert not tensor_types(variants["integer"]) & floats
    assert tensor_types(variants["int8"]) & floats
    assert schema.TensorType.FLOAT16 in tensor_types(variants["float16"])
    assert schema.TensorType.INT8 in tensor_types(variants["dynamic"])


def types_of_outputs(content, operator):
    """Types that the operators of a kind write, in the whole network."""
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    found = set()
    for i in range(graph.OperatorsLength()):
        step = graph.Operators(i)
        code = model.OperatorCodes(step.OpcodeIndex()).BuiltinCode()
        if code == getattr(schema.BuiltinOperator, operator):
            found.add(graph.Tensors(step.Outputs(0)).Type())
    return found


def test_only_the_heads_of_int8_are_float(variants):
    """In 256 steps no age would exceed the oldest face of the calibration."""
    types = schema.TensorType
    for operator in ("FULLY_CONNECTED", "SOFTMAX", "MINIMUM"):
        assert types_of_outputs(variants["int8"], operator) == {types.FLOAT32}
        assert types_of_outputs(variants["integer"], operator) <= {types.INT8}
    for operator in ("CONV_2D", "ADD", "MEAN"):
        assert types_of_outputs(variants["int8"], operator) == {types.INT8}


def test_calibration_on_dull_faces_keeps_the_whole_range_of_pixels(model):
    dull = np.full((2, SIZE, SIZE, 3), 90, np.uint8)
    content = litert.convert(model.inference_model(), "int8", representative_faces=dull)
    image = signature_of(content).get_input_details()["images"]
    assert image["quantization"] == (1.0, 0)
    assert (dull == 90).all(), "the caller's images stay as they are"


@pytest.mark.parametrize(
    ("name", "dynamic_batch", "bound"),
    [("float32", False, 1e-5), ("float32", True, 1e-5), ("int8", False, 0.1)],
)
def test_a_mirrored_network_is_one_file_of_the_same_size(
    model, name, dynamic_batch, bound
):
    """Its predictions: half of the logits' sum, by hand, over a face and its mirror."""
    mirrored = HydraNet.from_config({**model.get_config(), "flip_tta": True})
    mirrored.set_weights(model.get_weights())
    images = random_images(20)
    found, plain = (
        litert.convert(
            network.inference_model(),
            name,
            representative_faces=images,
            dynamic_batch=dynamic_batch,
        )
        for network in (mirrored, model)
    )
    assert litert.foreign_operators(found) == []
    # One set of weights for both passes: what is added is their list of operations.
    assert len(found) < len(plain) + 30_000
    interpreter = Interpreter(model_content=found)
    signature = interpreter.get_signature_runner()
    pixels = signature.get_input_details()["images"]["dtype"]
    predictions = signature(images=images[:1].astype(pixels))
    faces = np.stack([images[0], images[0][:, ::-1]])
    logits = model.predict_on_batch(faces.astype(np.float32))["race"].mean(0)
    fractions = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(predictions["race"][0], fractions, atol=bound)


@pytest.fixture(scope="module")
def for_phones():
    """Both faces, both kinds of head, in the variants that phones take."""
    model = random_model(tasks=with_head(TASKS, DISTRIBUTION))
    config = {**model.get_config(), "flip_tta": True, "temperatures": {"age": 1.6}}
    mirrored = HydraNet.from_config(config)
    mirrored.set_weights(model.get_weights())
    network = mirrored.inference_model()
    return network, {
        name: litert.convert(network, name, representative_faces=random_images(20))
        for name in ("float32", "int8")
    }


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_gpu_delegates_take_every_operation(for_phones, name, capfd):
    check_for_gpu(for_phones[1][name], capfd)


def test_heads_of_int8_are_float_to_the_end(for_phones):
    """In 8 bits a cumulative sum of probabilities would be off by years."""
    model = schema.Model.GetRootAs(for_phones[1]["int8"])
    graph = model.Subgraphs(0)
    found, of_heads = [], set()
    for step in map(graph.Operators, range(graph.OperatorsLength())):
        code = model.OperatorCodes(step.OpcodeIndex()).BuiltinCode()
        inputs = set(step.InputsAsNumpy().tolist())
        if code == schema.BuiltinOperator.FULLY_CONNECTED or inputs & of_heads:
            of_heads |= set(step.OutputsAsNumpy().tolist())
            found.append(litert._BUILTIN_NAMES[code])
    assert found.count("FULLY_CONNECTED") == 12 and "SOFTMAX" in found
    assert "QUANTIZE" not in found
    types = {graph.Tensors(tensor).Type() for tensor in of_heads}
    assert types == {schema.TensorType.FLOAT32}


@pytest.mark.parametrize("side", [3, 7, 40, 48])
def test_columns_are_put_in_reverse(side):
    images = np.random.default_rng(0).normal(size=(2, side, side, 3))
    images = images.astype(np.float32)
    np.testing.assert_array_equal(
        network_module._mirror_images(images), images[:, :, ::-1]
    )


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_a_dynamic_batch_is_resized(model, name):
    images = random_images(7)
    content = litert.convert(
        model.inference_model(), name, representative_faces=images, dynamic_batch=True
    )
    assert litert.foreign_operators(content) == []
    interpreter = Interpreter(model_content=content)
    (image,) = interpreter.get_input_details()
    assert image["shape_signature"].tolist() == [-1, SIZE, SIZE, 3]
    expected = keras_predictions(model, images)
    names = interpreter.get_signature_runner().get_output_details()
    for n in (1, 7, 1):
        interpreter.resize_tensor_input(image["index"], [n, SIZE, SIZE, 3])
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images[:n].astype(image["dtype"]))
        interpreter.invoke()
        found = {k: interpreter.get_tensor(v["index"]) for k, v in names.items()}
        bounds = (1e-3, 1e-5) if name == "float32" else (3, 0.1)
        assert_same_predictions(found, {k: v[:n] for k, v in expected.items()}, *bounds)


def test_the_same_network_gives_the_same_file(model, tmp_path):
    description = saved_model.describe(model.tasks, SIZE)
    contents = []
    for name in ("a", "b"):
        path = tmp_path / name / "small.tflite"
        path.parent.mkdir()
        litert.write(
            model.inference_model(),
            description,
            path,
            "int8",
            representative_faces=random_images(4),
        )
        contents.append([p.read_bytes() for p in sorted(path.parent.iterdir())])
    assert contents[0] == contents[1]


def test_the_description_beside_it_and_within_it(model, tmp_path):
    path = tmp_path / "small.tflite"
    description = saved_model.describe(model.tasks, SIZE)
    litert.write(
        model.inference_model(),
        description,
        path,
        "integer",
        representative_faces=random_images(4),
    )
    content = path.read_bytes()
    beside = json.loads((tmp_path / "small.json").read_text())
    assert beside.pop("sha256") == hashlib.sha256(content).hexdigest()
    assert beside.pop("bytes") == len(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        within = json.loads(archive.read("description.json"))
        assert archive.read("labels_gender.txt").decode() == "male\nfemale\n"
        assert archive.read("labels_race.txt").decode().split("\n") == [
            "white", "black", "asian", "indian", "others", "",
        ]  # fmt: skip
        assert len(archive.namelist()) == 3
    assert within == beside
    # JSON knows no tuples.
    for key, value in json.loads(json.dumps(description)).items():
        assert within[key] == value

    network = content[: within["network"]["bytes"]]
    assert within["network"]["sha256"] == hashlib.sha256(network).hexdigest()
    details = signature_of(content).get_output_details()
    assert within["variant"] == "integer"
    assert within["signature"] == "serving_default"
    assert within["inputs"] == {
        "images": {
            "shape": [1, SIZE, SIZE, 3], "dtype": "uint8", "scale": 1.0,
            "zero_point": 0,
        }
    }  # fmt: skip
    for name, tensor in within["outputs"].items():
        assert tensor["shape"] == details[name]["shape"].tolist()
        assert (tensor["scale"], tensor["zero_point"]) == details[name]["quantization"]
    assert within["outputs"]["race"]["labels"] == "labels_race.txt"
    assert "labels" not in within["outputs"]["age"]


def test_the_files_within_come_out_with_the_standard_library(model, tmp_path):
    path = tmp_path / "small.tflite"
    litert.write(model.inference_model(), saved_model.describe(model.tasks, SIZE), path)
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", path, tmp_path / "out"], check=True
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "description.json", "labels_gender.txt", "labels_race.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "years"), [("float32", 1e-3), ("float16", 0.1), ("int8", 3.0)]
)
def test_a_distribution_has_its_interval(variant, years):
    """Quantiles stay in float32 in 8 bits too; 20 images span some 40 years."""
    network = random_model(tasks=with_head(TASKS, DISTRIBUTION)).inference_model()
    images = random_images(20)
    expected = network.predict_on_batch(images)
    content = litert.convert(network, variant, representative_faces=images)
    assert litert.foreign_operators(content) == []
    signature = signature_of(content)
    outputs = signature.get_output_details()
    assert {name: o["dtype"] for name, o in outputs.items()} == dict.fromkeys(
        ("age", "age_low", "age_high", "gender", "race"), np.float32
    )
    dtype = signature.get_input_details()["images"]["dtype"]
    for image, *row in zip(
        images, *(expected[n] for n in ("age_low", "age", "age_high")), strict=True
    ):
        found = signature(images=image[np.newaxis].astype(dtype))
        ends = [found[n][0] for n in ("age_low", "age", "age_high")]
        assert ends[0] < ends[1] < ends[2]
        np.testing.assert_allclose(ends, row, atol=years)
