"""Backbones and tasks that others register, without a change of the package."""

from __future__ import annotations

from pathlib import Path

import forks
import keras
import numpy as np
import pytest
import synthetic

from hydranet_tf import backbones, checkpoints, tasks
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.training import train

ROOT = Path(__file__).resolve().parents[2]
TOML = """
[[task]]
name = "race7"
kind = "categorical"
weight_name = "epsilon"
classes = ["white", "black", "indian", "east asian", "southeast asian"]
"""


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(backbones, "BACKBONES", dict(backbones.BACKBONES))
    monkeypatch.setattr(backbones, "_MODULES", {})


def small_model():
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(8, 3, 4, activation="relu", name="first"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
        ],
        name="anything",
    )


def test_a_keras_model_is_a_backbone(registry, tmp_path):
    model = small_model()
    backbones.register_model("mine", model, (127.5,) * 3, (127.5,) * 3, "my_models")
    config = TrainingConfig(
        **{**synthetic.tiny_run(tmp_path / "faces"), "backbone": "mine", "width": 0},
        optimizer="sgd", learning_rate=1e-12,
    )  # fmt: skip
    trained = train.train(config, tmp_path / "run").model
    loaded = checkpoints.load_model(tmp_path / "run")
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    features = keras.Model(
        loaded.network.input, loaded.network.get_layer("mine").output
    ).predict(images, verbose=0)
    # The weights that it had, and its normalisation.
    expected = model.predict((images - 127.5) / 127.5, verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    found, again = (m.predict(images, verbose=0)["age"] for m in (trained, loaded))
    np.testing.assert_allclose(found, again, rtol=1e-6)

    # Elsewhere, without the module.
    del backbones.BACKBONES["mine"]
    with pytest.raises(checkpoints.CheckpointError, match="give --import=my_models"):
        checkpoints.load_model(tmp_path / "run")
    with pytest.raises(ConfigError, match="--backbone: unknown backbone 'mine'; known"):
        TrainingConfig(backbone="mine")


def test_what_is_no_backbone(registry):
    features = keras.Input((8,))
    heads = keras.Model(features, keras.layers.Dense(2)(features))
    with pytest.raises(ValueError, match="expected a model from images"):
        backbones.register_model("mine", heads, (0,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match="'tiny' is a backbone of hydranet_tf"):
        backbones.register("tiny", backbones.get("resnet18"))


def test_tasks_come_before_the_modules_that_know_them():
    task = tasks.Task("glasses", tasks.BINARY, "delta", classes=("bare", "glasses"))
    with pytest.raises(ValueError, match="register tasks before hydranet_tf.config"):
        tasks.register(task)


def python(code, cwd):
    environment = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "PATH": ""}
    return forks.run(["-c", code], cwd, environment)


def test_tasks_of_a_file_are_asked_by_every_command(tmp_path):
    (tmp_path / "tasks.toml").write_text(TOML)
    (tmp_path / "my_tasks.py").write_text(
        "from hydranet_tf import tasks\n"
        "tasks.register(tasks.Task('glasses', tasks.BINARY, 'delta',"
        " classes=('bare', 'glasses')))\n"
    )
    done = python(
        "from hydranet_tf.commands import running\n"
        "running.extended(['--tasks_file=tasks.toml', '--import', 'my_tasks'])\n"
        "from hydranet_tf.config import TrainingConfig\n"
        "from hydranet_tf.data import labels\n"
        "from hydranet_tf.tasks import TASKS\n"
        "print([t.name for t in TrainingConfig().asked_tasks()])\n"
        "print(labels.read(TASKS[3], 'Southeast Asian'))\n",
        tmp_path,
    )
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines() == [
        "['age', 'gender', 'race', 'race7', 'glasses']",
        "{'race7': 4}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[task]]\nname = 'x'\n", "expected tasks.toml to hold tables"),
        ("tasks = 3", "expected tasks.toml to hold tables"),
        (TOML.replace("race7", "age"), "two tasks share the name 'age'"),
    ],
)
def test_a_file_that_describes_no_task(tmp_path, text, message):
    (tmp_path / "tasks.toml").write_text(text)
    done = python(
        "from hydranet_tf.commands import running\n"
        "running.extended(['--tasks_file=tasks.toml'])", tmp_path,
    )  # fmt: skip
    assert done.returncode and message in done.stderr


def test_a_module_that_is_not_there(tmp_path):
    done = python(
        "from hydranet_tf.commands import running\n"
        "running.extended(['--import=nowhere'])", tmp_path,
    )  # fmt: skip
    assert done.returncode and "there is no module 'nowhere' in" in done.stderr
