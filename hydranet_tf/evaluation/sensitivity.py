"""The same faces predicted again under changes; the loop that such measures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from hydranet_tf.data import decoding, sources
from hydranet_tf.inference import runtimes

# Faces are compared with themselves, so a part of a large set will do.
MOST_FACES = 500

_BATCH = 100

# From the upright pixels of a face, uint8 [height, width, 3], and its number in the
# examples to uint8 [size, size, 3] for the network.
Variant = Callable[[np.ndarray, int], np.ndarray]


def sample(examples: sources.Examples, seed: int = 0) -> np.ndarray:
    """Ascending numbers of at most `MOST_FACES` examples, drawn without repeats."""
    n = min(len(examples), MOST_FACES)
    rows = np.random.default_rng(seed).choice(len(examples), n, replace=False)
    rows.sort()
    return rows


def predictions(
    runtime: runtimes.Runtime,
    examples: sources.Examples,
    rows: np.ndarray,
    variants: Sequence[Variant],
    title: str,
) -> list[dict[str, np.ndarray]]:
    """What the network predicts for the faces under each variant.

    Args:
        examples: decodable ones.
        rows: numbers of the examples, n >= 1.
        title: of the progress bar.

    Returns:
        One dict a variant, by the names of `task.outputs`: `[n]` or `[n, classes]`.
    """
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in variants]
    total = len(rows) * len(variants)
    with tqdm(total=total, desc=title, unit="img", disable=None) as bar:
        for start in range(0, len(rows), _BATCH):
            batch = [int(row) for row in rows[start : start + _BATCH]]
            faces = [decoding.decode(examples.read(row)) for row in batch]
            for part, variant in zip(parts, variants, strict=True):
                images = [variant(*pair) for pair in zip(faces, batch, strict=True)]
                part.append(runtime.predictions(np.stack(images)))
                bar.update(len(batch))
    return [
        {name: np.concatenate([batch[name] for batch in part]) for name in part[0]}
        for part in parts
    ]
