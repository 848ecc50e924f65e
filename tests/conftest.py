"""What all tests share: a quiet, seeded TensorFlow, and where the real images lie."""

from __future__ import annotations

import gc
import os
import random
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

# Tracing a function of TensorFlow makes so many objects that looking for cycles after
# each 700, the default, takes a sixth of the time.
gc.set_threshold(50_000)

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
    if "keras" in sys.modules and "tensorflow" in sys.modules:
        with pytest.MonkeyPatch.context() as patch:
            # Nothing here draws from TensorFlow's own generator. To seed it makes
            # TensorFlow forget its kernels: a network that was called before then
            # takes eighteen times as long for a batch.
            patch.setattr(sys.modules["tensorflow"].random, "set_seed", lambda seed: 0)
            sys.modules["keras"].utils.set_random_seed(0)


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
