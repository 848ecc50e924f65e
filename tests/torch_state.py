"""Weights and images that PyTorch and our tests both make from a seed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import skimage.data
from PIL import Image

# Even and odd, because padding differs between them.
SIDES = (64, 75)
# Of scikit-image, in the public domain: an astronaut, and a cup of espresso.
PHOTOGRAPHS = ("astronaut", "coffee")
PHOTOGRAPH_SIDE = 224


def random_state(shapes: Iterable[tuple[str, Iterable[int]]]) -> dict[str, np.ndarray]:
    """Fills a state dict of PyTorch, running statistics too.

    NumPy's RandomState, whose stream is promised never to change.
    """
    state = {}
    for number, (name, shape) in enumerate(shapes):
        rng = np.random.RandomState(number)
        shape = tuple(shape)
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(7, np.int64)
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1 and name.endswith("weight"):
            state[name] = rng.uniform(0.4, 0.8, shape).astype(np.float32)
        elif len(shape) == 1:
            state[name] = rng.normal(0, 0.1, shape).astype(np.float32)
        else:
            spread = np.sqrt(2 / np.prod(shape[1:]))
            state[name] = rng.normal(0, spread, shape).astype(np.float32)
    return state


def random_images(side: int) -> np.ndarray:
    """Two normalised images `[2, side, side, 3]`."""
    rng = np.random.RandomState(side)
    return rng.normal(0, 1, (2, side, side, 3)).astype(np.float32)


def photograph(name: str) -> np.ndarray:
    """RGB 0..255, `[1, 224, 224, 3]`, cut as ImageNet's are for a test."""
    image = Image.fromarray(getattr(skimage.data, name)())
    # The middle seven eighths of the shorter side.
    margin = 7 * min(image.size) / 16
    x, y = image.width / 2, image.height / 2
    side = (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)
    box = (x - margin, y - margin, x + margin, y + margin)
    cut = image.resize(side, Image.Resampling.BICUBIC, box=box)
    return np.asarray(cut, np.float32)[np.newaxis]
