"""tools/gpu.py on a CPU with a budget of seconds: it trains, writes and collects."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import forks
import keras
import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "tools/gpu.py"
SIDE = 32


@pytest.fixture(scope="module")
def script():
    """The script as a module; its flags are its own."""
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_of_a_small_network_worked_by_hand(script):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(images)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(images, keras.layers.Dense(5)(x))
    convolution = 2 * (3 * 3 * 3 * 4) * 4 * 4
    depthwise = 2 * (3 * 3 * 4) * 4 * 4
    dense = 2 * 4 * 5
    assert script.training_flops(network) == 3 * (convolution + depthwise + dense)


def test_pieces_hold_every_array_and_none_is_too_large(script, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"layer{i}/kernel": rng.normal(size=(60, 10 + i)) for i in range(9)}
    count = script.write_pieces(tmp_path, arrays, 4000)
    files = sorted(tmp_path.iterdir())
    assert len(files) == count > 2
    assert max(file.stat().st_size for file in files) <= 4000
    found = {}
    for file in files:
        found.update(np.load(file))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.astype("float16"))


def test_an_array_above_the_limit_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match="layer/kernel alone takes"):
        script.write_pieces(tmp_path, {"layer/kernel": np.zeros(4000)}, 4000)


def archive_of_faces(folder: Path, count: int) -> tuple[Path, Path]:
    """An archive of grey squares whose level is their age, and split lists."""
    rng = np.random.default_rng(0)
    archive, lists = folder / "faces.tar", folder / "splits"
    lists.mkdir()
    names = []
    with tarfile.open(archive, "w") as tar:
        for number in range(count):
            age = int(rng.integers(1, 100))
            name = f"{age}_{number % 2}_{number % 5}_2017011221524{number:04}.jpg"
            path = folder / name
            Image.new("RGB", (40, 40), (2 * age,) * 3).save(path)
            tar.add(path, f"UTKFace/{name}")
            names.append(name)
    held_out = count // 5
    parts = {"train": names[held_out:], "validation": names[:held_out], "test": []}
    for part, listed in parts.items():
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in listed))
    return archive, lists


@pytest.mark.long
def test_it_trains_for_its_minutes_and_the_pieces_make_a_preset(tmp_path):
    archive, lists = archive_of_faces(tmp_path, 60)
    output, preset = tmp_path / "out", tmp_path / "preset"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [
            sys.executable, SCRIPT, f"--images={archive}", f"--split_lists={lists}",
            "--minutes=0.1", f"--output={output}", "--backbone=tiny",
            f"--image_size={SIDE}", "--batch_size=16", "--precision=float32",
            "--piece_mib=0.5",
        ],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "48 faces to train, 12 to validate" in done.stdout
    assert len(re.findall(r"^epoch \d+: .* images/s", done.stdout, re.M)) >= 2
    figures = json.loads((output / "figures.json").read_text())
    assert figures["images_per_second"] > 1
    assert 0 < figures["share_of_peak"] < 1
    assert 0 <= figures["input_wait"] < 1
    assert 0 < figures["val_age_mae"] < 100
    pieces = list(output.glob("weights-*.npz"))
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) <= 0.5 * 2**20

    done = forks.run([SCRIPT, f"--collect={output}", f"--preset={preset}"])
    assert done.returncode == 0, done.stderr
    from hydranet_tf.model import HydraNet

    variables = {v.path: v for v in HydraNet.from_preset(preset).network.variables}
    written = {}
    for piece in pieces:
        written.update(np.load(piece))
    for path, array in written.items():
        np.testing.assert_allclose(variables[path], array, rtol=1e-2, atol=1e-2)
