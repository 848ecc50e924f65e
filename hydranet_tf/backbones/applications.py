"""Backbones of Keras Applications: ResNet50, InceptionV3, EfficientNetB0.

Each is a copy with two changes. Layers get names of their own where Keras
counts (`conv2d_93`): the count depends on what a process built before, and
checkpoints go by name. Normalisation inside (EfficientNet's) falls away,
because that of the `Backbone` does the same. Weights start at random; see
`pretrained` for others.
"""

from __future__ import annotations

import re
from collections import Counter

import keras
import numpy as np
from keras import layers

_ORIGINALS = {
    "resnet50": keras.applications.ResNet50,
    "inception_v3": keras.applications.InceptionV3,
    "efficientnet_b0": keras.applications.EfficientNetB0,
}
NAMES = tuple(_ORIGINALS)

_NORMALISATION = (layers.Rescaling, layers.Normalization)


def application(images, *, name: str):
    """Applies a network of Keras Applications without its classifier.

    Args:
        images: normalised images `[batch, height, width, 3]`, RGB.
        name: "resnet50" (arXiv:1512.03385, strides in the 1x1 convolutions),
            "inception_v3" (arXiv:1512.00567, 75 pixels or more each side) or
            "efficientnet_b0" (arXiv:1905.11946).

    Returns:
        Features `[batch, 2048]`, of efficientnet_b0 `[batch, 1280]`.
    """
    original = _original(name, input_shape=images.shape[1:])
    seen = Counter()

    def copy(layer):
        kind = type(layer).__name__.lower()
        seen[kind] += 1
        if isinstance(layer, _NORMALISATION):
            return layers.Identity(name=f"no_{kind}")
        config = layer.get_config()
        if re.sub(r"_\d+$", "", layer.name).replace("_", "") == kind:
            config["name"] = f"{kind}_{seen[kind]}"
        return type(layer).from_config(config)

    return keras.models.clone_model(original, clone_function=copy)(images)


def pretrained_arrays(name: str, weights: str) -> list[np.ndarray]:
    """Weights of the original in the order of the copy's.

    Args:
        name: see `application`.
        weights: a file of Keras Applications without classifier (`notop`), or
            "imagenet" to let Keras fetch it.

    Raises:
        ValueError: if the file is of another network.
        OSError: if it cannot be read or fetched.
    """
    model = _original(name, weights=weights)
    arrays = [
        keras.ops.convert_to_numpy(variable)
        for layer in model.layers
        if not isinstance(layer, _NORMALISATION)
        for variable in layer.weights
    ]
    if name == "resnet50":
        # It was trained on BGR. Turned once here, the network takes RGB.
        arrays[0] = arrays[0][:, :, ::-1, :]
    return arrays


def _original(name: str, weights: str | None = None, input_shape=None) -> keras.Model:
    return _ORIGINALS[name](
        include_top=False, weights=weights, input_shape=input_shape, pooling="avg"
    )
