"""Pictures to measure on where nobody gave any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(folder: Path, count: int = 2000, side: int = 200) -> None:
    """Writes UTKFace-named JPEGs, smooth and random, of the size that UTKFace has."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        name = f"{1 + i % 90}_{i % 2}_{i % 5}_{20170101000000000 + i}.jpg.chip.jpg"
        image = Image.fromarray(coarse).resize((side, side), Image.BICUBIC)
        image.save(folder / name, quality=90)
