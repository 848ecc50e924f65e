"""Backbones: images in, one feature vector a face out.

A row of `BACKBONES` is a function with what must be known about it. A new
backbone enters as a file in this folder and a row; see docs/backbones.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import keras

from hydranet_tf.backbones import (
    applications,
    dlib_resnet,
    efficientnet_lite,
    resnet,
    sface,
)

Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without classifier, and the pixels it wants.

    Attributes:
        build: `(images, **width) -> features`, symbolic Keras tensors: from
            `[batch, height, width, 3]`, normalised, to `[batch, features]`.
        mean: of red, green and blue in levels 0..255, taken from the pixels
            before they enter.
        std: the pixels are then divided by it. Both are what the
            pretrained weights were trained with.
        width: channels of the first stage; None where it cannot be chosen.
        smallest: side in pixels of the smallest image it takes.
    """

    build: Callable
    mean: Channels
    std: Channels
    width: int | None = None
    smallest: int = 32


# Statistics of ImageNet as PyTorch's networks know them, and EfficientNet in
# Keras; as good as any other for a network from scratch.
_IMAGENET = {
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}


def _resnet(blocks: tuple[int, ...], width: int = 64) -> Backbone:
    build = functools.partial(resnet.resnet, blocks=blocks, width=width)
    return Backbone(build, **_IMAGENET, width=width)


def _application(name: str, mean: Channels, std: Channels, **known) -> Backbone:
    build = functools.partial(applications.application, name=name)
    return Backbone(build, mean, std, **known)


BACKBONES: dict[str, Backbone] = {
    "resnet34": _resnet((3, 4, 6, 3)),
    "resnet18": _resnet((2, 2, 2, 2)),
    # What keras.applications.resnet.preprocess_input takes away; that it turns
    # RGB to BGR is done to the pretrained weights instead.
    "resnet50": _application("resnet50", (123.68, 116.779, 103.939), (1.0,) * 3),
    # keras.applications.inception_v3.preprocess_input.
    "inception_v3": _application(
        "inception_v3", (127.5,) * 3, (127.5,) * 3, smallest=75
    ),
    "efficientnet_b0": _application("efficientnet_b0", **_IMAGENET),
    # MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py in TensorFlow's
    # original: github.com/tensorflow/tpu, models/official/efficientnet/lite.
    "efficientnet_lite0": Backbone(
        efficientnet_lite.efficientnet_lite0, (127.0,) * 3, (128.0,) * 3
    ),
    # input_rgb_image_sized of dlib/dnn/input.h.
    "dlib_resnet29": Backbone(
        dlib_resnet.dlib_resnet29,
        (122.782, 117.001, 104.298),
        (256.0,) * 3,
        smallest=103,
    ),
    # The first two operators of the published file.
    "sface": Backbone(sface.sface, (127.5,) * 3, (128.0,) * 3),
    # One block a stage and a quarter of the channels: for tests and the demo.
    "tiny": _resnet((1, 1, 1, 1), width=16),
}


# The module of each backbone that is not of this package.
_MODULES: dict[str, str] = {}


def register(name: str, backbone: Backbone, module: str | None = None) -> None:
    """Makes a backbone known by a name, for this process.

    A network that has it is read back where it is registered again: commands do so by
    `--import=MODULE`.

    Args:
        name: a new one.
        backbone: what it is.
        module: that registers it; by default that of `backbone.build`.

    Raises:
        ValueError: if the name belongs to another backbone.
    """
    if name in BACKBONES and name not in _MODULES:
        raise ValueError(f"{name!r} is a backbone of hydranet_tf; take another name")
    BACKBONES[name] = backbone
    _MODULES[name] = module or getattr(backbone.build, "__module__", "")


def register_model(
    name: str,
    model: keras.Model,
    mean: Channels,
    std: Channels,
    module: str | None = None,
) -> None:
    """Makes a Keras model known as a backbone, with the weights that it has.

    Args:
        name: a new one; the model's layers get it before their names.
        model: from `[batch, height, width, 3]` images to `[batch, features]`, of any
            size if its input has none. It is copied for each network.
        mean, std: see `Backbone`.
        module: that registers it, see `register`.

    Raises:
        ValueError: if the model has other inputs or outputs.
    """
    shapes = [tuple(t.shape) for t in (*model.inputs, *model.outputs)]
    if len(shapes) != 2 or len(shapes[0]) != 4 or len(shapes[1]) != 2:
        raise ValueError(
            "expected a model from images [batch, height, width, 3] to features "
            f"[batch, features]; {name} has {shapes}"
        )
    side = shapes[0][1] or 32

    def build(images):
        copy = keras.models.clone_model(model)
        copy.name = name
        copy.set_weights(model.get_weights())
        return copy(images)

    register(name, Backbone(build, mean, std, smallest=side), module or "")


def module_of(name: str) -> str | None:
    """The module that registered a backbone; None for those of this package."""
    return _MODULES.get(name)


def get(name: str, module: str | None = None) -> Backbone:
    """Returns the backbone called `name`.

    Args:
        name: of `BACKBONES`.
        module: that registers it, if it is known, for the error.

    Raises:
        ValueError: listing the known names.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        hint = "; your own are registered by a module that --import names"
        if module:
            hint = f"; the module {module!r} registers it: give --import={module}"
        raise ValueError(
            f"unknown backbone {name!r}; known are {', '.join(BACKBONES)}{hint}"
        ) from None


def features(name: str, images, width: int | None = None):
    """Applies a backbone to normalised images.

    Args:
        name: of `BACKBONES`.
        images: `[batch, height, width, 3]`, normalised as the row says.
        width: channels of the first stage; None for the backbone's own.

    Returns:
        `[batch, features]`.

    Raises:
        ValueError: on an unknown name, or a width for a backbone without.
    """
    backbone = get(name)
    if width is None:
        return backbone.build(images)
    if backbone.width is None:
        raise ValueError(
            f"{name} has no width to choose; leave it out (--width=0), or take "
            f"one of {', '.join(n for n, b in BACKBONES.items() if b.width)}"
        )
    return backbone.build(images, width=width)


def alone(name: str, image_size: int | None = None, width: int | None = None):
    """A Keras model of the backbone alone, with new weights.

    The variables have the paths that they have in a `HydraNet`.

    Args:
        name: of `BACKBONES`.
        image_size: side of its images; None for the smallest.
        width: see `features`.

    Returns:
        A model from normalised images to features.
    """
    side = image_size or get(name).smallest
    images = keras.Input((side, side, 3), name="images")
    return keras.Model(images, features(name, images, width), name=name)
