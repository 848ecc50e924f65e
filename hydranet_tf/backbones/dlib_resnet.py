"""ResNet with 29 convolutions, as dlib's face recogniser has it.

Structure after github.com/davisking/dlib, tools/python/src/face_recognition.cpp,
without its last layer, which turns features into 128 numbers that tell people apart.
Its published weights were learned from faces and not from ImageNet. Two things differ
from He et al. 2016 (arXiv:1512.03385):

- A residual branch and its shortcut of another shape are both filled up with zeros, at
  the end of each axis. Strided convolutions do not pad, the shortcut's pooling neither,
  so for most sizes the branch is a pixel smaller.
- Nothing is normalised. The published file has the statistics of its normalisation
  folded into scale and shift, which are folded into kernel and bias here. Random
  weights start small in the second convolution of each block, or 14 would blow up.
"""

from __future__ import annotations

import keras
from keras import layers, ops

# Channels and blocks of each stage; all but the first begin with a stride of 2.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
_BLOCKS = sum(count for _, count in _STAGES)


def dlib_resnet29(images):
    """Applies the network without its last layer.

    Args:
        images: normalised images `[batch, height, width, 3]`; the published weights
            know 150 pixels.

    Returns:
        Features `[batch, 256]`.
    """
    x = _convolution(images, 32, 7, 2, "stem_conv")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, (channels, count) in enumerate(_STAGES, 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, channels, stride, f"stage{stage}_block{block}")
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _block(x, channels: int, stride: int, name: str):
    branch = _convolution(x, channels, 3, stride, f"{name}_conv1")
    branch = layers.ReLU(name=f"{name}_relu1")(branch)
    # The variance of each block by a part of what comes in, that of all by e.
    branch = _convolution(branch, channels, 3, 1, f"{name}_conv2", 2 / _BLOCKS)
    if stride > 1:
        x = layers.AveragePooling2D(2, name=f"{name}_shortcut")(x)
    shape = [max(sizes) for sizes in zip(x.shape[1:], branch.shape[1:], strict=True)]
    x = layers.Add(name=f"{name}_add")([_filled(x, shape), _filled(branch, shape)])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _filled(x, shape):
    missing = [wanted - size for wanted, size in zip(shape, x.shape[1:], strict=True)]
    return ops.pad(x, [(0, 0), *((0, n) for n in missing)]) if any(missing) else x


def _convolution(x, channels, kernel, stride, name: str, variance: float = 2.0):
    return layers.Conv2D(
        channels,
        kernel,
        stride,
        padding="valid" if stride > 1 else "same",
        kernel_initializer=keras.initializers.VarianceScaling(
            variance, "fan_in", "untruncated_normal"
        ),
        name=name,
    )(x)
