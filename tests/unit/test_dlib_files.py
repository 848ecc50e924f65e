"""dlib's network files: what is read of them, and the predictions that they give."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import dlib_network
import numpy as np
import pytest
import synthetic

from hydranet_tf import backbones, model
from hydranet_tf.backbones import dlib_resnet, pretrained

NAME = "dlib_resnet29"


@pytest.fixture(scope="module")
def layers():
    return dlib_network.random_layers(0)


def saved(layers, folder):
    path = folder / "network.dat"
    path.write_bytes(dlib_network.file(layers))
    return path


def test_parameters_as_they_were_written(layers, tmp_path):
    found = dlib_resnet.read_parameters(saved(layers[:3], tmp_path))
    assert [name for name, _ in found] == [b"con_4", b"affine_"] * 3
    for (kernel, bias, scale, shift), (_, first), (_, second) in zip(
        layers, found[::2], found[1::2], strict=False
    ):
        np.testing.assert_array_equal(first, [*kernel.ravel(), *bias])
        np.testing.assert_array_equal(second, [*scale, *shift])


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda b: b"\x89PNG" + bytes(40), "no layer of a dlib network"),
        (lambda b: b"", "no layer of a dlib network"),
        (lambda b: b[:9000], "cut short: 4736 numbers should follow byte"),
        (lambda b: b[: b.index(b"con_4") + 5], "expected a tensor at byte"),
        (lambda b: b.replace(b"con_4\x01\x02", b"con_4\x01\x07"), "version 2.*got 7"),
        (lambda b: b.replace(b"con_4\x01\x02", b"con_4\x81\x02"), "expected a tensor"),
    ],
)
def test_another_file_is_refused(change, hint, layers, tmp_path):
    path = tmp_path / "network.dat"
    path.write_bytes(change(dlib_network.file(layers[:2])))
    with pytest.raises(dlib_resnet.DlibFileError, match=hint) as caught:
        dlib_resnet.read_parameters(path)
    assert str(path) in str(caught.value)
    with pytest.raises(pretrained.WeightsError, match=hint):
        pretrained.convert(NAME, path)


def test_another_network_of_dlibs_is_refused(layers, tmp_path):
    path = saved(layers[:-1], tmp_path)
    with pytest.raises(
        pretrained.WeightsError, match=rf"{re.escape(str(path))} is not of {NAME}"
    ):
        pretrained.convert(NAME, path)


@pytest.mark.parametrize("side", [103, 112])
def test_features_are_those_of_another_implementation(side, layers, tmp_path):
    """At 103 pixels all but one branch are smaller than their shortcuts."""
    weights = pretrained.convert(NAME, saved(layers, tmp_path))
    pretrained.save(weights, tmp_path / "converted.npz")
    hydranet = model.HydraNet(NAME, side, augmentation="none").network
    weights = pretrained.read(tmp_path / "converted.npz", NAME)
    pretrained.assign(weights, hydranet.variables)
    network = model.keras.Model(hydranet.input, hydranet.get_layer("pool").output)
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3))
    found = np.asarray(network(images.astype("float32"), training=True))
    for image, predicted in zip(images, found, strict=True):
        expected = dlib_network.features(layers, image.transpose(2, 0, 1))
        assert expected.std() > 0.1
        np.testing.assert_allclose(predicted, expected, atol=1e-4)


@pytest.mark.bench
def test_descriptors_are_those_of_dlib():
    """The published file, and the last layer that turns features into descriptors."""
    # Of the extra that only benchmarks have.
    dlib = importlib.import_module("dlib")
    path = pretrained.published_file(NAME)
    picture = np.array(synthetic.picture(40, 0, 2, side=150))
    expected = dlib.face_recognition_model_v1(str(path)).compute_face_descriptor(
        picture
    )
    content = Path(path).read_bytes()
    # After the name six bytes say how many outputs and that there is no bias.
    last = content.index(b"fc_2") + len(b"fc_2")
    start = content.index(b"\x01\x02\x02\x00\x01", last)
    numbers = np.frombuffer(content, "<f4", 256 * 128, start + 11)
    network = backbones.alone(NAME, 150)
    pretrained.assign(pretrained.convert(NAME, path), network.variables)
    row = backbones.get(NAME)
    pixels = (picture[None] - np.array(row.mean)) / np.array(row.std)
    found = np.asarray(network(pixels.astype("float32"))) @ numbers.reshape(256, 128)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
