"""EfficientNet-Lite0: EfficientNet made for phones (Liu, Tan 2020).

EfficientNet-B0 (Tan, Le 2019, arXiv:1905.11946, table 1) with three changes:
no squeeze-and-excitation, ReLU6 for swish (its range suits 8 bits), and stem
and head of fixed size. After the original in github.com/tensorflow/tpu,
models/official/efficientnet/lite; momentum and epsilon are those of there.

Padding is TensorFlow's 'same', the one exception to the rule that strided
convolutions pad explicitly: the published weights come from TensorFlow, and in
a LiteRT file 'same' costs nothing, where padding on its own is an operator.
"""

from __future__ import annotations

import keras
from keras import layers

_STEM = 32
_HEAD = 1280
# Repeats, kernel, stride of the first, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite0(images):
    """Applies EfficientNet-Lite0 without its classifier.

    Args:
        images: normalised images `[batch, height, width, 3]`.

    Returns:
        Features `[batch, 1280]`.
    """
    x = _relu6(_convolution(images, _STEM, 3, 2, "stem_conv", "stem_norm"), "stem")
    number = 0
    for repeats, kernel, stride, expansion, channels in _STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            x = _block(x, kernel, step, expansion, channels, f"block{number}")
            number += 1
    x = _relu6(_convolution(x, _HEAD, 1, 1, "head_conv", "head_norm"), "head")
    return layers.GlobalAveragePooling2D(name="pool")(x)


def torch_name(layer: str) -> str:
    """The PyTorch name of a layer, of the package efficientnet_lite_pytorch."""
    stem, _, part = layer.partition("_")
    if stem.startswith("block"):
        return f"_blocks.{stem.removeprefix('block')}._{part}"
    return {
        "stem_conv": "_conv_stem",
        "stem_norm": "_bn0",
        "head_conv": "_conv_head",
        "head_norm": "_bn1",
    }[layer]


def _block(x, kernel: int, stride: int, expansion: int, channels: int, name: str):
    """An inverted bottleneck (arXiv:1801.04381, figure 4)."""
    shortcut, inner = x, x.shape[-1] * expansion
    if expansion != 1:
        x = _convolution(x, inner, 1, 1, f"{name}_expand_conv", f"{name}_bn0")
        x = _relu6(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _relu6(_norm(x, f"{name}_bn1"), f"{name}_depthwise")
    x = _convolution(x, channels, 1, 1, f"{name}_project_conv", f"{name}_bn2")
    if stride == 1 and shortcut.shape[-1] == channels:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _convolution(x, channels: int, kernel: int, stride: int, name: str, norm: str):
    x = layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=name,
    )(x)
    return _norm(x, norm)


def _initializer() -> keras.initializers.Initializer:
    """A new one each time: one that is shared gives all layers the same numbers."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _norm(x, name: str):
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def _relu6(x, name: str):
    return layers.ReLU(6.0, name=f"{name}_relu6")(x)
