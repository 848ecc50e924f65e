"""SFace: a MobileNet that tells faces apart, as OpenCV's zoo has it.

Zhong et al. 2021 (arXiv:2205.12010) for the loss that taught it; the shape is that of
MobileNetV1 (Howard et al. 2017, arXiv:1704.04861) with PReLU and without the stride of
the first convolution. Taken is the trunk to its global pooling: the 128 numbers after
it tell people apart and have lost much of their age.

The published file normalises after each convolution, with constants. They are folded
into kernel and bias, which is exact. The last normalisation follows a PReLU. It stands
after the pooling here, as a scale and a shift of each feature, which is the same.
"""

from __future__ import annotations

import keras
from keras import layers

FEATURES = 1024
# Channels and stride of each pair of a depthwise and a pointwise convolution.
_PAIRS = (
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (FEATURES, 2), (FEATURES, 1),
)  # fmt: skip
_STEM = 32
# The slope that PReLU begins with where no weights are given, as in He et al. 2015
# (arXiv:1502.01852).
_SLOPE = 0.25


def sface(images):
    """Applies the trunk and its global pooling.

    Args:
        images: normalised images `[batch, height, width, 3]`; the published weights
            know 112 pixels, the eyes at 38 and 74 from the left and 52 from the top.

    Returns:
        Features `[batch, 1024]`.
    """
    x = layers.Conv2D(
        _STEM, 3, padding="same", kernel_initializer=_initializer(), name="conv1"
    )(images)
    x = _prelu(x, "conv1")
    for number, (channels, stride) in enumerate(_PAIRS, 2):
        x = _pair(x, channels, stride, f"conv{number}")
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    # A kernel of one pixel a channel: scale and bias.
    x = layers.DepthwiseConv2D(1, depthwise_initializer="ones", name="scale")(x)
    return layers.Flatten(name="features")(x)


def onnx_names(layer: str) -> tuple[str, str]:
    """What the published file calls a layer's convolution and normalisation.

    Args:
        layer: `conv1`, `conv2_depthwise`, `conv2_pointwise` and so on.

    Returns:
        Prefixes of the names of their weights.
    """
    stem, _, part = layer.removeprefix("conv").partition("_")
    name = f"conv_{stem}_dw" if part == "depthwise" else f"conv_{stem}"
    return f"{name}_conv2d", f"{name}_batchnorm"


def _pair(x, channels: int, stride: int, name: str):
    if stride > 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.DepthwiseConv2D(
        3,
        stride,
        padding="valid" if stride > 1 else "same",
        depthwise_initializer=_initializer("fan_out"),
        name=f"{name}_depthwise",
    )(x)
    x = _prelu(x, f"{name}_depthwise")
    x = layers.Conv2D(
        channels, 1, kernel_initializer=_initializer(), name=f"{name}_pointwise"
    )(x)
    return _prelu(x, f"{name}_pointwise")


def _initializer(fan: str = "fan_in") -> keras.initializers.Initializer:
    """Keeps the variance through a PReLU; a new one each time, with its own numbers.

    A depthwise kernel `[3, 3, channels, 1]` has nine inputs an output, which Keras
    counts as its outgoing ones.
    """
    variance = 2 / (1 + _SLOPE**2)
    return keras.initializers.VarianceScaling(variance, fan, "untruncated_normal")


def _prelu(x, name: str):
    # One slope a channel.
    return layers.PReLU(
        keras.initializers.Constant(_SLOPE), shared_axes=(1, 2), name=f"{name}_prelu"
    )(x)
