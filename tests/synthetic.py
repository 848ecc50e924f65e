"""Small made-up face folders whose pixels tell the labels, and runs of seconds."""

import dataclasses
import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(age, gender, race, side=48, seed=0):
    """A picture from which the three labels can be read off.

    Brightness tells the age, the half that is striped the gender and the
    colour channel that sticks out the race.
    """
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 30 + 1.5 * age)
    half = slice(0, side // 2) if gender == 0 else slice(side // 2, side)
    pixels[half, ::4] = 255
    tints = [(0, 0, 0), (60, 0, 0), (0, 60, 0), (0, 0, 60), (60, 60, 0)]
    pixels = pixels + tints[race] + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(format="JPEG", **labels):
    """Bytes of `picture`."""
    buffer = io.BytesIO()
    picture(**{"age": 30, "gender": 0, "race": 0, **labels}).save(buffer, format)
    return buffer.getvalue()


def labels_of(count, seed=0):
    """Ages, genders and races, drawn evenly."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(1, 90, count),
        rng.integers(0, 2, count),
        rng.integers(0, 5, count),
    )


def write_folder(folder, count=40, side=48, seed=0):
    """Writes UTKFace-named files and lists for the three splits.

    Returns:
        The folder; the lists lie in `folder / "splits"`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i, (age, gender, race) in enumerate(zip(*labels_of(count, seed), strict=True)):
        name = f"{age}_{gender}_{race}_{20170101000000000 + i}.jpg.chip.jpg"
        picture(age, gender, race, side, seed=i).save(folder / name, "JPEG")
        names.append(name)
    lists = folder / "splits"
    lists.mkdir(exist_ok=True)
    cut = max(1, count // 5)
    parts = {
        "validation": names[:cut],
        "test": names[cut : 2 * cut],
        "train": names[2 * cut :],
    }
    for split, part in parts.items():
        text = "".join(f"{name}\n" for name in sorted(part))
        (lists / f"{split}.txt").write_text(text)
    return folder


def stem():
    """The name of a backbone that is the beginning of `tiny`, known from now on.

    For tests to which the network is of no matter: TensorFlow traces a training step of
    it in half of the time. Other processes do not know it.
    """
    from hydranet_tf import backbones

    name = "stem"
    if name not in backbones.BACKBONES:
        tiny = backbones.get("tiny")
        build = functools.partial(tiny.build, blocks=())
        backbones.register(name, dataclasses.replace(tiny, build=build), "synthetic")
    return name


def tiny_run(folder):
    """Settings of a run of seconds on 40 faces, which are written to the folder."""
    write_folder(folder, 40, side=32)
    return dict(
        data=str(folder), split_lists=str(folder / "splits"), backbone=stem(),
        image_size=32, epochs=1, batch_size=8, augmentation="none", width=8,
    )  # fmt: skip
