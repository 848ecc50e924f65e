"""Backbones: images in, one feature vector a face out.

A backbone is a function `(images, width) -> features`, symbolic Keras tensors
`[batch, height, width, 3]` (normalised) to `[batch, features]`. A new one
enters as a file in this folder and a row in `BACKBONES`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from hydranet_tf.backbones import resnet

BACKBONES: Mapping[str, Callable] = {
    "resnet34": functools.partial(resnet.resnet, blocks=(3, 4, 6, 3)),
    "resnet18": functools.partial(resnet.resnet, blocks=(2, 2, 2, 2)),
    # One block a stage and a quarter of the channels: for tests and the demo.
    "tiny": functools.partial(resnet.resnet, blocks=(1, 1, 1, 1), width=16),
}


def get(name: str) -> Callable:
    """Returns the backbone called `name`.

    Raises:
        ValueError: listing the known names.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise ValueError(
            f"unknown backbone {name!r}; known are {', '.join(BACKBONES)}"
        ) from None
