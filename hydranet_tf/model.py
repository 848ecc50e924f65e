"""HydraNet: one backbone, one head a task, and a loss that weighs them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from hydranet_tf import backbones, heads, losses, presets, replicas
from hydranet_tf.augmentation import Augmentation, Mixup
from hydranet_tf.capture import Capture
from hydranet_tf.metrics import MeanOfLabels
from hydranet_tf.tasks import TASKS, Task, from_config, to_json, told_apart

# Name of the layer that takes the pixels.
NORMALISATION = "normalisation"

# Names in descriptions that earlier versions wrote.
_RENAMED = {"mirrored": "flip_tta"}


@keras.saving.register_keras_serializable("hydranet_tf")
class HydraNet(keras.Model):
    """Predicts every task from one look at a face.

    A functional Keras model: images `[batch, side, side, 3]`, RGB 0..255, to
    a dict of logits by task name: `[batch]` in the task's unit (regression),
    `[batch, bins]` (regression by a distribution), `[batch, 1]` logit of
    class 1 (yes-no) or `[batch, classes]`, float32.
    For probabilities, and for export, see `inference_model`.

    `compute_loss` is overridden and never `train_step`, so `fit`, `evaluate`,
    distribution and both backends stay Keras' own. Labels are a dict by task name,
    `[batch]` or `[batch, 1]` each. A label is missing where it is `MISSING` or NaN,
    and for the whole batch where the dict has no such key. Sample weights are one
    array `[batch]` for all tasks, or a dict of them by task name. They weigh the
    loss, and the scores that `compile` takes as `weighted_metrics`. What layers add
    to `losses`, as regularisers do, is part of the total.

    Args:
        backbone: a name of `backbones.BACKBONES`.
        image_size: side of the images in pixels.
        width: channels of the first stage; None for the backbone's own.
        augmentation: strength, see `Augmentation.of_strength`.
        dropout: share of features that a head drops in training.
        mixup: largest share of another face in a training image, see `Mixup`.
        weighting: an `UncertaintyWeights` or `FixedWeights`; None learns the
            weights, see `losses.learned_weights`.
        seed: of augmentation and dropout.
        tasks: what is predicted.
        temperatures: by task name, what `inference_model` divides logits by, see
            `evaluation.scores.fit_temperatures`; 1.0 for a task that is not named.
        flip_tta: `inference_model` looks at each face and at its mirror image, and
            predicts from the mean of their logits: twice the work. Training and
            its validation look once.
        class_weights: by task name and class name, what a label of the class counts
            in the loss; 1.0 where none is given. It multiplies a sample weight.

    Raises:
        ValueError: on an unknown backbone or augmentation, naming the known;
            on a width that the backbone does not have; on class weights of a
            task or class that is not there, or below 0; on tasks that share a name.
    """

    def __init__(
        self,
        backbone: str = "resnet34",
        image_size: int = 200,
        width: int | None = None,
        augmentation: str = "standard",
        dropout: float = 0.0,
        mixup: float = 0.0,
        weighting: keras.layers.Layer | None = None,
        seed: int = 0,
        tasks: Sequence[Task] = TASKS,
        temperatures: Mapping[str, float] | None = None,
        flip_tta: bool = False,
        class_weights: Mapping[str, Mapping[str, float]] | None = None,
        name: str = "hydranet",
    ):
        tasks = told_apart(
            [task if isinstance(task, Task) else from_config(task) for task in tasks]
        )
        class_weights = losses.checked_class_weights(tasks, class_weights or {})
        augment = Augmentation.of_strength(augmentation, seed)
        network = _network(backbone, image_size, width, dropout, seed, tasks)
        images = keras.Input((image_size, image_size, 3), name="images")
        augmented = images
        for layer in (augment, Capture.of_strength(augmentation, seed)):
            augmented = augmented if layer is None else layer(augmented)
        if mixup:
            augmented = Mixup(mixup)(augmented)
        super().__init__(inputs=images, outputs=network(augmented), name=name)
        self.backbone = backbone
        self.image_size = image_size
        self.width = width
        self.augmentation = augmentation
        self.dropout = dropout
        self.mixup = mixup
        self.seed = seed
        self.tasks = tasks
        self.temperatures = dict(temperatures or {})
        self.flip_tta = flip_tta
        self.class_weights = class_weights
        self.network = network
        self.weighting = weighting or losses.learned_weights(tasks)
        self.task_loss_trackers = [
            MeanOfLabels(name=f"{task.name}_loss") for task in tasks
        ]

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, *args, **kwargs
    ):
        """Keras' own, without `loss` and `loss_weights`.

        Raises:
            ValueError: if one of them is given.
        """
        if loss is not None:
            raise ValueError(
                "expected compile() without loss=: HydraNet has a loss for each of its "
                "tasks and leaves out labels that are missing. Leave loss= out; to "
                "train with losses of your own, compile "
                "keras.Model(model.input, model.output) instead"
            )
        if loss_weights is not None:
            raise ValueError(
                "expected compile() without loss_weights=: they belong to the network. "
                "Make it with HydraNet(weighting=FixedWeights([...])), one weight for "
                f"each of {', '.join(task.name for task in self.tasks)}, or leave them "
                "out to learn them"
            )
        super().compile(optimizer, None, None, *args, **kwargs)

    def compile_from_config(self, config):
        """Compiles a loaded model as it was, its optimiser's variables made."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Weighted sum of the tasks' losses over their present labels.

        With several replicas it is the loss of the whole batch divided by
        their number, on each of them: Keras sums what they return, and
        multiplies what it logs.
        """
        del x
        y = losses.completed_labels(self.tasks, y)
        largest_fraction = self.mixup if training else 0.0
        means, weights, emphasis = losses.task_losses(
            self.tasks,
            y,
            y_pred,
            largest_fraction,
            losses.weights_by_task(self.tasks, sample_weight),
            self.class_weights,
        )
        names = [task.name for task in self.tasks]
        for name, tracker in zip(names, self.task_loss_trackers, strict=True):
            tracker.update_state(means[name], sample_weight=weights[name])
        loss = self.weighting(
            ops.stack([means[name] for name in names]),
            ops.stack([emphasis[name] for name in names]),
        )
        # Regularisers: each replica has all of them, and divides like the rest.
        for added in self.losses:
            loss = loss + ops.sum(ops.cast(added, loss.dtype))
        return loss / replicas.count()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Keras' own, for labels of which some keys may be missing."""
        y = losses.completed_labels(self.tasks, y)
        y = {task.name: _scored(task, y, y_pred) for task in self.tasks}
        weights = losses.weights_by_task(self.tasks, sample_weight)
        if weights is not None:
            weights = {n: weights.get(n, ops.ones(ops.shape(y[n]))) for n in y}
        return super().compute_metrics(x, y, y_pred, weights)

    def inference_model(self) -> keras.Model:
        """The network as it is used: probabilities, nothing of training.

        It shares its weights with this one, and so do the next two.

        Returns:
            A model from images `[batch, side, side, 3]` 0..255 to a dict by the
            names of `task.outputs`: `[batch]` in the task's unit within its range,
            or probabilities `[batch, classes]`, in the order of `task.classes`.
        """
        size = self.image_size
        images = keras.Input((size, size, 3), name="images")
        logits = self.logits_model()(images)
        predictions: dict[str, Any] = {}
        for task in self.tasks:
            # A constant of the graph: nothing of it is left at 1.
            temperature = self.temperatures.get(task.name, 1.0)
            scaled = logits[task.name]
            if temperature != 1.0:
                scaled = scaled * (1 / temperature)
            predictions |= heads.of(task).predictions(scaled)
        return keras.Model(images, predictions, name="predictions")

    def logits_model(self) -> keras.Model:
        """What `inference_model` makes its predictions of, before the temperatures.

        Returns:
            A model from images `[batch, side, side, 3]` 0..255 to a dict of logits by
            task name, as `HydraNet` has them; of a mirrored one the mean over a face
            and its mirror image.
        """
        size = self.image_size
        images = keras.Input((size, size, 3), name="images")
        if not self.flip_tta:
            return keras.Model(images, self.network(images), name="logits")
        # Two passes, not a batch of two: GPU delegates of LiteRT take no batch that
        # changes on the way. Normalised first, so that one operation alone reads the
        # images: it becomes the input of a file in 8 bits.
        normalisation = self.network.get_layer(NORMALISATION)
        trunk = keras.Model(normalisation.output, self.network.output, name="trunk")
        normalised = normalisation(images)
        seen, mirrored = trunk(normalised), trunk(_mirror_images(normalised))
        # Their mean as a subtraction: TensorFlow makes a bias of an addition to a
        # single row, and flattens it to one axis, which delegates do not take.
        logits = {name: 0.5 * seen[name] - -0.5 * mirrored[name] for name in seen}
        return keras.Model(images, logits, name="logits")

    def feature_extractor(self) -> keras.Model:
        """The network without its heads.

        Returns:
            A model from images `[batch, side, side, 3]` 0..255 to the pooled features
            `[batch, features]` that all heads read.
        """
        network = self.network
        first = heads.of(self.tasks[0]).layer_names[0]
        head = network.get_layer(first)
        return keras.Model(network.input, head.input, name="features")

    def task_weights(self) -> dict[str, float]:
        """Current weights of the losses by name: alpha, beta, gamma."""
        values = ops.convert_to_numpy(self.weighting.task_weights())
        return {
            task.weight_name: float(value)
            for task, value in zip(self.tasks, values, strict=True)
        }

    @classmethod
    def from_preset(cls, folder: str | os.PathLike) -> HydraNet:
        """Loads what `save_to_preset` wrote, in the precision that is set.

        Args:
            folder: of the preset, or `hf://OWNER/NAME[@REVISION]` of the Hugging Face
                Hub.

        Raises:
            hydranet_tf.presets.PresetError: if it is not a whole preset.
        """
        folder = presets.folder_of(folder)
        config = presets.read_config(folder)
        try:
            model = cls.from_config(config)
        except (KeyError, TypeError, ValueError) as error:
            raise presets.PresetError(
                f"the preset {folder} describes a network that this version cannot "
                f"make: {error!r}. Use the version that wrote it"
            ) from error
        presets.assign(folder, _by_path(model.network))
        return model

    def save_to_preset(
        self, folder: str | os.PathLike, origin: Mapping | None = None
    ) -> None:
        """Writes the network that predicts as a preset; nothing of training is in it.

        `from_preset` of the same folder loads it.

        Args:
            folder: new or empty; its parents are made, too.
            origin: where it comes from, for metadata.json.

        Raises:
            hydranet_tf.presets.PresetError: if the folder holds something.
        """
        # Fixed weights of 1: the learned ones are of no use to the predictions.
        config = self.get_config()
        config |= {"augmentation": "none", "dropout": 0.0, "mixup": 0.0}
        config |= {"class_weights": {}, "frozen": []}
        plain = losses.FixedWeights([1.0] * len(self.tasks))
        config["weighting"] = keras.saving.serialize_keras_object(plain)
        variables = _by_path(self.network)
        presets.write(
            Path(folder).expanduser(),
            config,
            variables,
            to_json(self.tasks),
            origin or {},
        )

    def get_config(self):
        return {
            "backbone": self.backbone,
            "image_size": self.image_size,
            "width": self.width,
            "augmentation": self.augmentation,
            "dropout": self.dropout,
            "mixup": self.mixup,
            "weighting": keras.saving.serialize_keras_object(self.weighting),
            "seed": self.seed,
            "tasks": [vars(task) for task in self.tasks],
            "temperatures": dict(self.temperatures),
            "flip_tta": self.flip_tta,
            "backbone_module": backbones.module_of(self.backbone),
            "class_weights": self.class_weights,
            "frozen": [
                path for path, layer in _layers_by_path(self) if not layer.trainable
            ],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        weighting = keras.saving.deserialize_keras_object(
            config["weighting"], custom_objects=custom_objects
        )
        # Networks that earlier versions wrote have none.
        frozen = set(config.get("frozen", ()))
        # Says which module is missing, before anything is made.
        backbones.get(config["backbone"], config.get("backbone_module"))
        config = {
            _RENAMED.get(name, name): value
            for name, value in config.items()
            if name not in ("frozen", "backbone_module")
        }
        model = cls(**{**config, "weighting": weighting})
        # What holds others comes first, for it sets theirs, too.
        for path, layer in _layers_by_path(model):
            if layer.trainable == (path in frozen):
                layer.trainable = path not in frozen
        return model


def _mirror_images(images):
    """`[n, side, side, c]` with the columns in reverse order.

    By operations on four axes that every GPU delegate of LiteRT takes, which a gather
    and a reversal are not: a convolution of one pixel can put channels in any order.
    The columns become channels in two steps, of some columns side by side and of how
    many times there are as many, so that the kernels stay below the 1,024 weights from
    which on a converter stores 8 bits. Weights are 0 and 1: nothing is rounded.
    """
    _, _, size, channels = images.shape
    side_by_side = min(
        (n for n in range(1, size + 1) if size % n == 0),
        key=lambda n: (channels * n) ** 2 + (size // n) ** 2,
    )
    groups = size // side_by_side

    def reordered(values, kernel):
        # An array, which becomes a constant of every graph. A tensor of now would be an
        # input more of an .onnx file.
        kernel = kernel[np.newaxis, np.newaxis].astype(np.float32)
        return ops.conv(values, kernel, data_format="channels_last")

    x = ops.reshape(images, (-1, size, groups, side_by_side * channels))
    x = reordered(x, np.kron(np.eye(side_by_side)[::-1], np.eye(channels)))
    x = ops.transpose(x, (0, 1, 3, 2))
    x = reordered(x, np.eye(groups)[::-1])
    x = ops.transpose(x, (0, 1, 3, 2))
    return ops.reshape(x, (-1, size, size, channels))


def _layers_by_path(model: keras.Model, prefix: str = "") -> Iterator[tuple]:
    """Every layer with its path, `hydranet/network/stem_conv`, the outer ones first."""
    path = prefix + model.name
    yield path, model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers_by_path(layer, f"{path}/")
        else:
            yield f"{path}/{layer.name}", layer


def _scored(task: Task, labels: Mapping, logits: Mapping):
    """Labels as metrics compare them with predictions: of a range the nearest value."""
    widths = labels.get(task.half_width_name)
    if widths is None:
        return labels[task.name]
    return heads.of(task).nearest_labels(labels[task.name], widths, logits[task.name])


def _by_path(network: keras.Model) -> dict[str, keras.Variable]:
    return {variable.path: variable for variable in network.variables}


def _network(backbone, image_size, width, dropout, seed, tasks) -> keras.Model:
    """Normalisation, backbone and heads: images to logits."""
    row = backbones.get(backbone)
    images = keras.Input((image_size, image_size, 3), name="images")
    # float32, or 16-bit precision would round the pixels before their mean is
    # taken away.
    x = layers.Rescaling(
        [1 / d for d in row.std],
        [-m / d for m, d in zip(row.mean, row.std, strict=True)],
        dtype="float32",
        name=NORMALISATION,
    )(images)
    features = backbones.features(backbone, x, width)
    logits = {
        task.name: heads.of(task).build(features, dropout, seed) for task in tasks
    }
    return keras.Model(images, logits, name="network")
