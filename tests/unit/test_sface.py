"""SFace: what is read of an ONNX file, and the features against ONNX Runtime's."""

from __future__ import annotations

import keras
import numpy as np
import onnx
import onnx_network
import onnxruntime
import pytest
import synthetic
from onnx import TensorProto, helper, numpy_helper

from hydranet_tf import backbones, model
from hydranet_tf.backbones import pretrained, sface

pytestmark = pytest.mark.slow

NAME = "sface"


@pytest.fixture(scope="module")
def trunk():
    return onnx_network.sface()


@pytest.fixture(scope="module")
def source(trunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "random.onnx"
    path.write_bytes(trunk.SerializeToString())
    return path


def small(*tensors, **fields) -> bytes:
    graph = helper.make_graph([], "small", [], [], list(tensors))
    return helper.make_model(graph, **fields).SerializeToString()


def test_weights_as_the_onnx_package_wrote_them():
    kept = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    found = sface.parse_initializers(
        small(
            numpy_helper.from_array(kept, "raw"),
            helper.make_tensor("listed", TensorProto.FLOAT, [2], [0.5, -2.0]),
            helper.make_tensor("single", TensorProto.FLOAT, [], [7.0]),
            # 300 takes two groups of seven bits.
            numpy_helper.from_array(np.zeros((0, 300), np.float32), "empty"),
            numpy_helper.from_array(np.arange(3), "whole numbers"),
            producer_name="a test",
        )
    )
    assert {name: array.shape for name, array in found.items()} == {
        "raw": (1, 2, 3), "listed": (2,), "single": (), "empty": (0, 300),
    }  # fmt: skip
    np.testing.assert_array_equal(found["raw"], kept)
    np.testing.assert_array_equal(found["listed"], [0.5, -2.0])
    assert found["single"] == 7.0


def elsewhere() -> bytes:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "far")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="/etc/hostname")
    return small(tensor)


def too_short() -> bytes:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "short")
    tensor.raw_data = tensor.raw_data[:-1]
    return small(tensor)


GOOD = small(numpy_helper.from_array(np.ones(30, np.float32), "good"))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "no weights of an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "ONNX model"),
        (small(), "no weights of an ONNX model"),
        (GOOD[:-20], "cut short"),
        (b"\xff" * 30, "cut short"),
        (elsewhere(), "far lies in another file"),
        (too_short(), r"short has 11 bytes; expected 12 for the shape \[3\]"),
    ],
)
def test_another_file_is_refused(content, hint, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    with pytest.raises(pretrained.WeightsError, match=hint) as caught:
        pretrained.convert(NAME, path)
    assert str(path) in str(caught.value)


def test_any_cut_is_a_clear_error_or_the_same_weights():
    """No other exception, whichever byte is the last."""
    for end in range(len(GOOD)):
        try:
            found = sface.parse_initializers(GOOD[:end])
        except sface.OnnxFileError:
            continue
        np.testing.assert_array_equal(found["good"], np.ones(30))


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda w: w.pop("conv_9_dw_conv2d_weight"), "no weights 'conv_9_dw_conv2d_"),
        (lambda w: w.pop("bn1_gamma"), "no weights 'bn1_gamma'"),
        (
            lambda w: w.update(conv_2_relu_gamma=np.zeros((32, 1, 1), np.float32)),
            r"conv2_pointwise_prelu/alpha is \(1, 1, 32\), expected \(1, 1, 64\)",
        ),
        (
            lambda w: w.update(conv_3_batchnorm_beta=np.full(128, np.nan, "f4")),
            "conv3_pointwise/bias is not finite",
        ),
    ],
)
def test_another_network_is_refused(change, hint, trunk, tmp_path):
    weights = {t.name: numpy_helper.to_array(t) for t in trunk.graph.initializer}
    change(weights)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    (tmp_path / "a.onnx").write_bytes(small(*tensors))
    with pytest.raises(pretrained.WeightsError, match=hint):
        pretrained.convert(NAME, tmp_path / "a.onnx")


def runtime_features(content: bytes, images: np.ndarray, output: str) -> np.ndarray:
    """What ONNX Runtime gives for RGB 0..255 `[n, height, width, 3]`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # The published file lists its weights as inputs, too: a warning for each.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    (name, *_) = (one.name for one in session.get_inputs())
    found = [session.run([output], {name: image[None]})[0] for image in pixels]
    return np.concatenate(found)


def our_features(source, side: int, images: np.ndarray, folder) -> np.ndarray:
    """By way of a converted file and a HydraNet, fed with plain pixels."""
    pretrained.save(pretrained.convert(NAME, source), folder / "converted.npz")
    hydranet = model.HydraNet(NAME, side, augmentation="none").network
    weights = pretrained.read(folder / "converted.npz", NAME)
    pretrained.assign(weights, hydranet.variables)
    network = keras.Model(hydranet.input, hydranet.get_layer("features").output)
    return np.asarray(network(images.astype(np.float32), training=True))


# An odd side is padded unlike an even one where a stride leaves a pixel over.
@pytest.mark.parametrize("side", [33, 48])
def test_features_are_those_of_onnx_runtime(side, trunk, source, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3))
    expected = runtime_features(trunk.SerializeToString(), images, "pooled")[..., 0, 0]
    found = our_features(source, side, images, tmp_path)
    assert expected.std() > 0.1
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_random_weights_keep_the_variance():
    """27 layers without normalisation: features neither vanish nor explode."""
    network = backbones.alone(NAME, 64)
    images = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype(np.float32)
    deviations = np.asarray(network(images)).std()
    assert 1e-3 < deviations < 1e2


@pytest.mark.bench
def test_the_published_file(tmp_path):
    """Its own last normalisation, before its classifier, pooled by NumPy."""
    path = pretrained.published_file(NAME)
    content = onnx.load(path)
    content.graph.output.append(onnx.ValueInfoProto(name="bn1"))
    picture = np.array(synthetic.picture(40, 0, 2, side=112))[None]
    maps = runtime_features(content.SerializeToString(), picture, "bn1")
    assert maps.shape == (1, 1024, 7, 7)
    found = our_features(path, 112, picture, tmp_path)
    np.testing.assert_allclose(found, maps.mean((2, 3)), rtol=0, atol=1e-4)
