"""Small folders and lists for the tests of sources."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from hydranet_tf.data import sources

NAMES = [
    "1_0_0_20170110000000001.jpg.chip.jpg",
    "26_1_2_20170110000000002.jpg.chip.jpg",
    "39_1_20170116000000003.jpg.chip.jpg",
    "90_0_4_20170110000000004.png",
]


def jpeg(shade: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 20, 200)).save(encoded, "JPEG")
    return encoded.getvalue()


def write_folder(folder: Path, names=NAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names):
        (folder / name).write_bytes(jpeg(shade))
    return folder


def write_lists(folder: Path, train=(), validation=(), test=()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": train, "validation": validation, "test": test}
    for split, names in parts.items():
        (folder / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
    return folder


def labels_of(examples: sources.Examples) -> dict[str, tuple[float, int, int]]:
    columns = (examples.labels[name].tolist() for name in ("age", "gender", "race"))
    rows = zip(*columns, strict=True)
    return dict(zip(examples.ids.tolist(), rows, strict=True))
