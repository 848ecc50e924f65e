"""The page of examples/gradio_app.py in a real browser, beside the Python predictor.

Gradio asks for an older Pillow than requirements.txt pins, so it lives in an
environment of its own, .venv_demo, which is made here of requirements-demo.txt.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from web_page import WEB, chromium, install, node

from hydranet_tf.inference.predictor import Predictor

ROOT = WEB.parent
PICTURE = WEB / "public/astronaut.jpg"
pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """Python with the packages of the lock."""
    lock, folder = ROOT / "requirements-demo.txt", ROOT / ".venv_demo"
    installed = folder / "installed"
    python = folder / "bin/python"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        for command in (
            [sys.executable, "-m", "venv", "--clear", folder],
            [python, "-m", "pip", "install", "--quiet", "--requirement", lock,
             # One process imports of it what it needs.
             "--no-compile"],
        ):  # fmt: skip
            subprocess.run(command, check=True)
        shutil.copyfile(lock, installed)
    return python


@pytest.fixture(scope="module")
def url(interpreter) -> Iterator[str]:
    """Of the page, served as a user does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [interpreter, ROOT / "examples/gradio_app.py", f"--port={port}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, "the page ended"
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_a_picture_is_predicted_as_in_python(url, tmp_path):
    install()
    kept = os.environ.get("HYDRANET_WEB_SCREENSHOTS")
    screenshot = Path(kept or tmp_path) / "gradio.png"
    done = node("node", "tests/gradio.mjs", chromium(), url, PICTURE, screenshot)
    seen = json.loads(done.stdout)
    assert seen["said"] == "1 face found."
    (face,) = Predictor()(PICTURE)
    number, age, interval, gender, race = seen["cells"]
    assert number == "1" and float(age) == pytest.approx(face.age, abs=0.2)
    low, high = map(float, interval.split(" to "))
    assert low == pytest.approx(face.age_low, abs=1)
    assert high == pytest.approx(face.age_high, abs=1)
    for cell, task in ((gender, "gender"), (race, "race")):
        name, percent = cell.removesuffix(" %)").split(" (")
        probability = face.probabilities[task][name]
        assert name == face.predictions[task]
        assert float(percent) == pytest.approx(100 * probability, abs=1)
    # Nothing from elsewhere: no fonts, no report of the start.
    assert all(host.startswith("127.0.0.1:") for host in seen["hosts"])
    with Image.open(screenshot) as image:
        assert image.size[0] == 1280
