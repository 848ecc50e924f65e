"""Every argument of HydraNet changes what it names; a new one without a test fails."""

import inspect

import keras
import numpy as np
import pytest

from hydranet_tf import losses
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import AGE

SIDE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


def made(**options):
    keras.utils.set_random_seed(0)
    return HydraNet(
        **{"backbone": "tiny", "image_size": SIDE, "augmentation": "none", **options}
    )


def weights(model):
    return sum(int(np.prod(v.shape)) for v in model.network.variables)


def in_training(**options):
    return np.asarray(made(**options)(IMAGES, training=True)["race"])


def predicted(**options):
    return made(**options).inference_model().predict_on_batch(IMAGES)["race"]


def differ(one, other):
    return np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-4


def loss_of_asian(**options):
    model = made(**options)
    labels = {"race": np.full(4, 2)}
    return float(model.compute_loss(y=labels, y_pred=model(IMAGES, training=False)))


CHANGES = {
    "backbone": lambda: weights(made()) != weights(made(backbone="resnet18")),
    "image_size": lambda: made(image_size=48).input_shape == (None, 48, 48, 3),
    "width": lambda: weights(made(width=8)) < weights(made()),
    "augmentation": lambda: differ(in_training(), in_training(augmentation="strong")),
    "dropout": lambda: differ(in_training(), in_training(dropout=0.5)),
    "mixup": lambda: differ(in_training(), in_training(mixup=0.5)),
    "weighting": lambda: (
        made(weighting=losses.FixedWeights([2, 1, 1])).task_weights()["alpha"] == 2
    ),
    "seed": lambda: differ(
        in_training(augmentation="strong", seed=1),
        in_training(augmentation="strong", seed=2),
    ),
    "tasks": lambda: list(made(tasks=[AGE]).output) == ["age"],
    "temperatures": lambda: differ(predicted(), predicted(temperatures={"race": 3.0})),
    "flip_tta": lambda: differ(predicted(), predicted(flip_tta=True)),
    "class_weights": lambda: (
        loss_of_asian(class_weights={"race": {"asian": 0.0}}) == 0 != loss_of_asian()
    ),
    "name": lambda: made(name="faces").name == "faces",
}


def test_every_argument_has_its_test():
    known = set(inspect.signature(HydraNet.__init__).parameters) - {"self"}
    assert known == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_an_argument_changes_what_it_names(name):
    assert CHANGES[name]()
