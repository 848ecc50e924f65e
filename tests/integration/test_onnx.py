"""The .onnx file: what it says, who runs it, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from small_network import SIZE, random_images, random_model

from hydranet_tf.exporting import onnx_file, saved_model
from hydranet_tf.inference import export_metadata, runtimes
from hydranet_tf.io import protobuf
from hydranet_tf.model import HydraNet


@pytest.fixture(scope="module", params=[False, True], ids=["once", "flip_tta"])
def model(request):
    """As it is, and as the mean over a face and its mirror image."""
    model = random_model(4)
    if not request.param:
        return model
    mirrored = HydraNet.from_config({**model.get_config(), "flip_tta": True})
    mirrored.set_weights(model.get_weights())
    return mirrored


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "hydranet.onnx"
    onnx_file.write(
        model.inference_model(), saved_model.describe(model.tasks, SIZE), path
    )
    return path


@pytest.fixture(scope="module")
def by_keras(model):
    return runtimes.from_model(model)


def test_the_file_is_valid_and_names_what_goes_in_and_out(path):
    """By ONNX's own checker and reader."""
    read = onnx.load(path)
    onnx.checker.check_model(read, full_check=True)
    (image,) = read.graph.input
    dims = image.type.tensor_type.shape.dim
    assert image.name == "images" and [d.dim_value for d in dims[1:]] == [SIZE, SIZE, 3]
    # Any number of images.
    assert dims[0].dim_param and not dims[0].dim_value
    assert sorted(output.name for output in read.graph.output) == [
        "age", "gender", "race",
    ]  # fmt: skip
    # A plain runtime has these operators alone.
    assert {imported.domain for imported in read.opset_import} <= {"", "ai.onnx.ml"}
    (entry,) = read.metadata_props
    assert entry.key == "hydranet_tf"
    assert json.loads(entry.value) == export_metadata.read_onnx(path)[0]


@pytest.mark.parametrize("n", [0, 1, 2, 70])
@pytest.mark.parametrize("engine", runtimes.ONNX_ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
def test_engines_predict_as_keras_does(by_keras, path, n, threads, engine):
    images = random_images(n) if n else np.zeros((0, SIZE, SIZE, 3), np.uint8)
    expected = by_keras.predictions(images)
    found = runtimes.load(path, engine, threads).predictions(images)
    for name, values in expected.items():
        bound = 0.01 if name == "age" else 1e-4
        np.testing.assert_allclose(found[name], values, atol=bound, err_msg=name)


def test_the_engine_is_the_first_that_is_installed(path, monkeypatch):
    loaded = []
    real = runtimes.load_onnx_engine
    monkeypatch.setattr(
        runtimes,
        "load_onnx_engine",
        lambda name, *rest: loaded.append(name) or real(name, *rest),
    )
    runtimes.load(path)
    assert loaded == ["onnxruntime"]
    monkeypatch.setattr(runtimes, "installed_onnx_engines", list)
    with pytest.raises(runtimes.LoadError, match=r"is not installed: .*\[onnx\]"):
        runtimes.load(path)
    with pytest.raises(runtimes.LoadError, match="openvino is needed and is not"):
        runtimes.load(path, "openvino")


@pytest.mark.parametrize(
    ("engine", "says"),
    [("litert", "litert does not run"), ("torch", "a runtime out of auto, litert")],
)
def test_an_engine_that_does_not_fit_is_refused(path, engine, says):
    with pytest.raises(runtimes.LoadError, match=says):
        runtimes.load(path, engine)


def test_a_tflite_file_is_not_for_the_engines_of_onnx():
    with pytest.raises(runtimes.LoadError, match="litert does"):
        runtimes.load(None, "onnxruntime")


@pytest.mark.parametrize("place", [100, -2000])
def test_a_changed_byte_is_seen(path, tmp_path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    with pytest.raises(runtimes.LoadError, match="again"):
        runtimes.load(damaged)


@pytest.mark.parametrize("end", [0, 1, 2, 1000, -1, -3000])
def test_a_file_cut_short_is_seen(path, tmp_path, end):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:end])
    with pytest.raises(runtimes.LoadError, match="again|says nothing"):
        runtimes.load(damaged)


def test_fields_are_those_of_protobuf():
    """Against the library that defines them."""
    message = onnx.StringStringEntryProto(key="a" * 300, value="b")
    assert protobuf.field(1, b"a" * 300) + protobuf.field(2, b"b") == (
        message.SerializeToString()
    )
    found = dict(protobuf.fields(memoryview(message.SerializeToString())))
    assert (bytes(found[1]), bytes(found[2])) == (b"a" * 300, b"b")
