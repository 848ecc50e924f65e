"""A run on the JAX backend, in 32 bits and in 16."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Trains three epochs in each precision, then six with an average of the weights; prints
# what the networks of the first are made of.
SCRIPT = """
import json, sys
from hydranet_tf.training import train
from hydranet_tf.config import TrainingConfig

folder, *precisions = sys.argv[1:]
common = dict(
    data=f"{folder}/faces", split_lists=f"{folder}/faces/splits", backbone="tiny",
    image_size=32, width=8, batch_size=12, augmentation="none",
)
found = {}
for precision in precisions:
    config = TrainingConfig(
        **common, epochs=3, precision=precision, learning_rate=1e-3
    )
    model = train.train(config, f"{folder}/{precision}").model
    found[precision] = {
        "log-variances": model.weighting.offsets.dtype,
        "logits": {str(t.dtype) for t in model.network.output.values()}.pop(),
        "convolution": model.network.get_layer("stem_conv").compute_dtype,
        "scaled": hasattr(model.optimizer, "dynamic_scale"),
    }
train.train(TrainingConfig(**common, epochs=6, ema_momentum=0.9), f"{folder}/average")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the script prints, the losses by epoch, and the workdir of the average."""
    folder = tmp_path_factory.mktemp("jax")
    synthetic.write_folder(folder / "faces", 60, side=32)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, *PRECISIONS],
        cwd=ROOT,
        env={
            **os.environ, "KERAS_BACKEND": "jax",
            # Only the time to compile: what is computed stays the same.
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = {}
    for precision in PRECISIONS:
        lines = (folder / precision / "metrics.jsonl").read_text().splitlines()
        losses[precision] = [json.loads(line)["loss"] for line in lines]
    return json.loads(done.stdout.splitlines()[-1]), losses, folder / "average"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_and_log_variances_are_float32(runs, precision):
    found, _, _ = runs
    assert found[precision] == {
        "log-variances": "float32",
        "logits": "float32",
        "convolution": precision.removeprefix("mixed_"),
        # Gradients of half floats vanish unless the loss is scaled up.
        "scaled": precision == "mixed_float16",
    }


@pytest.mark.parametrize(
    # The first steps in half floats are skipped, until the scale of the loss fits.
    ("precision", "fraction"),
    [("mixed_bfloat16", 0.03), ("mixed_float16", 0.1)],
)
def test_16_bits_lose_little_against_32(runs, precision, fraction):
    _, losses, _ = runs
    assert losses["float32"][2] < losses["float32"][0]
    assert losses[precision][2] < losses[precision][0]
    assert losses[precision] == pytest.approx(losses["float32"], rel=fraction)


def test_an_average_is_validated_and_drawn_and_training_goes_on(runs):
    """JAX takes the arrays that it evaluates with; the average must outlive that."""
    _, _, averaged = runs
    lines = (averaged / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # Of the fifth epoch.
    assert len(list((averaged / "tensorboard/largest_errors").iterdir())) == 1
