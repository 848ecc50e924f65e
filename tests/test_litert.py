"""The .tflite file against the Keras model that it was made of."""

from __future__ import annotations

import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from small_network import SIZE, assert_same_answers, random_images, random_model

from hydranet_tf import litert
from hydranet_tf.model import answer_model


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def content(model):
    return litert.convert(answer_model(model))


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


def test_answers_equal_the_keras_models(model, content):
    images = random_images(4)
    signature = Interpreter(model_content=content).get_signature_runner()
    rows = [signature(images=image[np.newaxis].astype(np.float32)) for image in images]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    expected = answer_model(model).predict_on_batch(images)
    assert_same_answers(found, expected, years=1e-3, probability=1e-5)


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


def test_the_description_beside_it_fits_the_file(model, tmp_path):
    path = tmp_path / "small.tflite"
    litert.write(answer_model(model), {"image_size": SIZE}, path)
    description = json.loads((tmp_path / "small.json").read_text())
    assert description == {
        "image_size": SIZE,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
