"""The page of web/ for its tests: how it is built, and what it is given."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import filelock
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sample_pictures import astronaut, crowd
from small_network import SIZE, random_images, random_model

from hydranet_tf.data import crops, detection
from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.tasks import DISTRIBUTION, TASKS, with_head

WEB = Path(__file__).resolve().parents[1] / "web"

BY_YEAR = with_head(TASKS, DISTRIBUTION)
# By the name of its file: tasks, variant and options of a model. They are what the
# released network is not: small, without an interval, of every variant.
MODELS = {
    "model": (BY_YEAR, litert.FLOAT32, {}),
    "any_batch": (TASKS, litert.FLOAT32, {"dynamic_batch": True}),
    "float16": (TASKS, litert.FLOAT16, {}),
    "dynamic": (TASKS, litert.DYNAMIC, {}),
    "int8": (TASKS, litert.INT8, {"representative_faces": random_images(20, seed=1)}),
    "integer": (
        TASKS,
        litert.INTEGER,
        {"representative_faces": random_images(20, seed=1)},
    ),
}


def node(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    """Runs a command in web/ and shows what it said where it failed."""
    done = subprocess.run(
        arguments, cwd=WEB, capture_output=True, text=True, timeout=240, **options
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def chromium() -> str:
    """Where the browser is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    if missing or not found:
        pytest.fail(
            "tests marked web need node, npm and chromium on the path: apt-get "
            "install chromium nodejs npm, or leave these tests out"
        )
    return found


def install() -> None:
    """Installs the packages of the lock where they are not."""
    chromium()
    lock, installed = WEB / "package-lock.json", WEB / "node_modules/.installed"
    # Several processes of pytest may want them; the first one installs.
    with filelock.FileLock(Path(tempfile.gettempdir(), "hydranet_web_packages.lock")):
        if not installed.exists() or installed.read_bytes() != lock.read_bytes():
            node("npm", "ci", "--no-audit", "--no-fund")
            shutil.copyfile(lock, installed)


def write_model(folder: Path, name: str) -> None:
    """Exports a model of `MODELS`."""
    tasks, variant, options = MODELS[name]
    litert.write(
        random_model(tasks=tasks).inference_model(),
        saved_model.describe(tasks, SIZE),
        folder / f"{name}.tflite",
        variant,
        **options,
    )


def write_broken_models(folder: Path) -> None:
    """Spoils copies of "model" in three ways."""
    content = bytearray((folder / "model.tflite").read_bytes())
    (folder / "cut.tflite").write_bytes(content[: len(content) // 2])
    content[len(content) // 2] ^= 1
    (folder / "damaged.tflite").write_bytes(content)
    (folder / "foreign.tflite").write_bytes(b"not a network" * 99)


def write_pictures(folder: Path) -> None:
    """A photograph, and drawn pictures of every kind; no face is in those."""
    astronaut().save(folder / "astronaut.png")
    pixels = np.asarray(astronaut())
    (face,) = detection.find_faces(pixels)
    face_crop = crops.crop(pixels, crops.locate(face), 200)
    Image.fromarray(face_crop).save(folder / "chip.png")
    crowd(3, 2, 240).save(folder / "crowd.png")
    # What a camera films: frames of JPEG, one after the other.
    astronaut().crop((0, 0, 512, 384)).resize((640, 480)).save(
        folder / "camera.mjpeg", "JPEG", quality=95
    )
    # Smooth, as faces are: half a level of a pixel must not decide a prediction.
    corners = np.random.default_rng(3).integers(0, 256, (4, 5, 3))
    smooth = tf.image.resize(corners.astype(np.float32), [120, 150], "bicubic")
    pixels = np.clip(np.round(smooth.numpy()), 0, 255).astype(np.uint8)
    face = Image.fromarray(pixels)
    face.crop((10, 0, 107, 97)).save(folder / "face.png")
    face.save(folder / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn right, which also tells a face from its mirror image.
    face.save(folder / "turned.jpg", quality=95, exif=exif)
    clear = face.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(face.size))
    clear.save(folder / "clear.png")
    Image.new("RGB", (320, 200), (120, 130, 140)).save(folder / "plain.png")
    Image.new("RGB", (40, 7)).save(folder / "tiny.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and nothing more")
