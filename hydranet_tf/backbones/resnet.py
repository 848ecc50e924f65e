"""ResNet with basic blocks (He et al. 2016, arXiv:1512.03385, table 1).

Channels, strides, epsilon and momentum are those of torchvision, and strided
convolutions pad explicitly: 'same' padding would shift their windows by half
a pixel against PyTorch's, and weights trained there would predict differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def resnet(images, *, blocks: Sequence[int], width: int = 64):
    """Applies a ResNet without its classifier.

    Args:
        images: normalised images `[batch, height, width, 3]`.
        blocks: number of basic blocks in each stage.
        width: channels of the first stage; each later stage doubles them.

    Returns:
        Features `[batch, width * 2 ** (len(blocks) - 1)]`.
    """
    x = _convolution(images, width, 7, 2, "stem_conv")
    x = layers.ReLU(name="stem_relu")(_norm(x, "stem_norm"))
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _basic_block(
                x,
                channels=width * 2**stage,
                stride=2 if stage and not block else 1,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    return layers.GlobalAveragePooling2D(name="pool")(x)


def torch_name(layer: str) -> str:
    """The PyTorch name of a layer, as torchvision and timm have it."""
    stem = {"stem_conv": "conv1", "stem_norm": "bn1"}
    if layer in stem:
        return stem[layer]
    stage, block, part = layer.split("_")
    prefix = f"layer{stage[-1]}.{int(block.removeprefix('block')) - 1}"
    shortcut = {"conv0": "downsample.0", "norm0": "downsample.1"}
    return f"{prefix}.{shortcut.get(part, part.replace('norm', 'bn'))}"


def _basic_block(x, channels: int, stride: int, name: str):
    shortcut = x
    x = _convolution(x, channels, 3, stride, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(_norm(x, f"{name}_norm1"))
    x = _convolution(x, channels, 3, 1, f"{name}_conv2")
    x = _norm(x, f"{name}_norm2")
    if stride != 1 or shortcut.shape[-1] != channels:
        shortcut = _convolution(shortcut, channels, 1, stride, f"{name}_conv0")
        shortcut = _norm(shortcut, f"{name}_norm0")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _convolution(x, channels: int, kernel: int, stride: int, name: str):
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
    )(x)


def _norm(x, name: str):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
