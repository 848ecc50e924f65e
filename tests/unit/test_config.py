"""Settings: defaults, checks, flags and JSON."""

import dataclasses
import json

import pytest
from absl import flags

from hydranet_tf import config
from hydranet_tf.config import ConfigError, TrainingConfig


def test_defaults_are_the_published_settings():
    settings = TrainingConfig()
    assert settings.backbone == "resnet34"
    # 32 faces where there are enough of them, see fine_tuning.sized_batch.
    assert settings.batch_size == 0
    assert settings.learning_rate == 3e-4
    assert settings.weight_decay == 1e-5
    assert settings.optimizer == "adam"
    assert settings.loss_weights == "learned"


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"backbone": "vgg"}, "resnet34, resnet18, resnet50"),
        ({"optimizer": "rmsprop"}, "adam, adamw, sgd"),
        ({"precision": "float8"}, "mixed_bfloat16"),
        ({"epochs": 0}, "above 0"),
        ({"learning_rate": -1.0}, "above 0"),
        ({"image_size": 8}, "at least 32 for resnet34"),
        ({"image_size": 74, "backbone": "inception_v3"}, "at least 75 for inception"),
        ({"width": 8, "backbone": "resnet50"}, "no width to choose"),
        ({"dropout": 1.0}, "below 1"),
        ({"patience": -1}, "0 or more"),
        ({"epochs": 2, "warmup_epochs": 2.0}, "less than the 2 epochs"),
        ({"loss_weights": "1,1"}, "3 numbers"),
        ({"loss_weights": "0,0,0"}, "not all 0"),
        ({"loss_weights_rate": -50.0}, "0 or more"),
        ({"momentum": 5.0}, "from 0 to below 1"),
        ({"loss_weights": "1,1,nan"}, "3 numbers"),
        ({"loss_weights": "equal"}, "3 numbers"),
    ],
)
def test_senseless_settings_are_refused(change, hint):
    (name,) = set(change) - ({"epochs", "backbone"} if len(change) > 1 else set())
    with pytest.raises(ConfigError, match=hint) as caught:
        TrainingConfig(**change)
    assert f"--{name}" in str(caught.value)


def test_fixed_loss_weights_are_read():
    settings = TrainingConfig(loss_weights="0.1, 1,2")
    assert settings.fixed_loss_weights() == (0.1, 1.0, 2.0)
    assert TrainingConfig().fixed_loss_weights() is None


def test_json_keeps_every_setting():
    settings = TrainingConfig(width=48, xla=True, loss_weights="1,2,3")
    assert TrainingConfig.from_json(settings.to_json()) == settings
    with pytest.raises(ConfigError, match="wings"):
        TrainingConfig.from_json('{"wings": 2}')


def test_flags_are_the_settings():
    values = flags.FlagValues()
    config.define_flags(values)
    values(["train.py"])
    assert config.from_flags(values) == TrainingConfig()
    values(["train.py", "--epochs=7", "--xla", "--optimizer=sgd", "--data=x.csv"])
    assert config.from_flags(values) == TrainingConfig(
        epochs=7, xla=True, optimizer="sgd", data="x.csv"
    )
    # By the names that two of them had before.
    values(["train.py", "--mirrored", "--teacher_share=0.25", "--teacher=t.csv"])
    found = config.from_flags(values)
    assert (found.flip_tta, found.distillation_weight) == (True, 0.25)


def test_conflicts_name_what_differs_and_ignore_where_things_lie():
    one = TrainingConfig()
    moved = dataclasses.replace(one, data="elsewhere", cache="none", epochs=99)
    assert one.conflicts(moved) == []
    other = dataclasses.replace(one, batch_size=64, seed=1)
    assert one.conflicts(other) == [
        "--batch_size: 0 before, 64 now",
        "--seed: 0 before, 1 now",
    ]


def test_names_of_earlier_versions_are_read():
    old = json.loads(TrainingConfig(flip_tta=True, distillation_weight=0.25).to_json())
    assert {"flip_tta", "distillation_weight"} < set(old)
    old["mirrored"] = old.pop("flip_tta")
    old["teacher_share"] = old.pop("distillation_weight")
    read = TrainingConfig.from_json(json.dumps(old))
    assert (read.flip_tta, read.distillation_weight) == (True, 0.25)
