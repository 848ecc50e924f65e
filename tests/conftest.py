"""What all tests share: a quiet, seeded TensorFlow, and the two data sets."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

# Before anything imports Keras or TensorFlow, which read these once. Level 3:
# at 2 TensorFlow calls it an error that a machine has no GPU.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# The same examples in every run, and no deadline: the first call of a TensorFlow
# operation takes as long as it takes.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Starts every test from the same random state, in whatever order they run."""
    random.seed(0)
    np.random.seed(0)
    # Tests that need no Keras shall not wait for its import.
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def drawn_faces_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir that holds the embedded data set, made by its own command.

    Use it as `open_source("drawn_faces", split, data_dir=drawn_faces_dir)`.
    """
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    builder = REPOSITORY / "datasets/drawn_faces/drawn_faces_dataset_builder.py"
    done = subprocess.run(
        [sys.executable, builder, f"--data_dir={data_dir}"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(f"{builder} ended with {done.returncode}:\n{done.stderr}")
    return data_dir


@pytest.fixture(scope="session")
def utkface_dir() -> Path:
    """The folder with the UTKFace images, for tests marked `real_data`.

    It fails rather than skips: who selects these tests wants them run.
    """
    named = os.environ.get("HYDRANET_UTKFACE_DIR", "")
    folder = Path(named)
    if not named or not folder.is_dir():
        pytest.fail(
            "tests marked real_data need HYDRANET_UTKFACE_DIR to name the folder "
            f"with the UTKFace images (*.jpg); it is {named or 'not set'!r}. "
            "Set it, or leave these tests out with -m 'not real_data'."
        )
    if next(folder.glob("*.jpg"), None) is None:
        pytest.fail(
            f"HYDRANET_UTKFACE_DIR names {folder}, which holds no *.jpg; expected "
            "the folder UTKFace/ itself, as it comes out of the archive"
        )
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of reports that look at no picture: drawing takes most of the time."""
    from hydranet_tf.evaluation import evaluate

    monkeypatch.setattr(evaluate, "_draw", lambda found, folder: {})
