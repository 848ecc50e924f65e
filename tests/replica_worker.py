"""Trains a tiny network on made-up batches and writes down what came of it.

    python replica_worker.py OUTPUT.npz STRATEGY CPU_DEVICES CASE...

A process of its own, because devices, workers and backend are chosen once in a
process. tests/integration/test_strategies.py starts it and compares the outputs.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline
from hydranet_tf.data.sources import Examples
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import optimizers, strategies, trackers, train

BATCH, STEPS, SIDE = 8, 3, 32
COMMON = dict(
    backbone="tiny", image_size=SIDE, augmentation="none", batch_size=BATCH,
    epochs=1, sync_batch_norm=True, width=8,
)  # fmt: skip
CASES = {
    # Steps of plain gradient descent are the gradient.
    "plain": dict(optimizer="sgd", momentum=0.0, learning_rate=1e-3, weight_decay=0.0),
    # A norm below that of every gradient here.
    "clipped": dict(
        optimizer="sgd", learning_rate=1e-2, gradient_clip_norm=0.5, ema_momentum=0.5,
    ),
    "float16": dict(precision="mixed_float16", gradient_clip_norm=0.5),
    "bfloat16": dict(precision="mixed_bfloat16", xla=True),
}  # fmt: skip


def faces(count: int, seed: int) -> pipeline.Faces:
    """Images and labels; of each batch the second half has no race."""
    rng = np.random.default_rng(seed)
    labels = {
        "age": rng.uniform(1, 90, count).astype("float32"),
        "gender": rng.integers(0, 2, count).astype("int32"),
        "race": rng.integers(0, 5, count).astype("int32"),
    }
    rows = np.arange(count)
    labels["race"][rows % BATCH >= BATCH // 2] = MISSING
    labels["age"][rows % 5 == 1] = MISSING
    # Never read: the images are there.
    examples = Examples(np.array([f"{i}" for i in rows]), labels, read=bytes)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
    return pipeline.Faces(examples, SIDE, images, ())


class Record(keras.callbacks.Callback):
    """Keeps the losses of every step, and the weights after the first."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        self.rows.append({name: float(value) for name, value in logs.items()})
        if batch == 0:
            self.first = values(self.model)


def values(model) -> dict[str, np.ndarray]:
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def compiled(config, part):
    """The network as a run has it before its first step."""
    model = train.build_model(config, part)
    train.compile_model(model, config, STEPS)
    model.optimizer.build(model.trainable_variables)
    return model


def fill(model) -> None:
    """Starting weights that do not depend on the backend's random numbers."""
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            *inward, _ = variable.shape
            variable.assign(rng.normal(0, np.prod(inward) ** -0.5, variable.shape))


def weights_after_training(config, devices) -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_dtype_policy(config.precision)
    training_part, validation = faces(BATCH * STEPS, 1), faces(11, 2)
    with devices.scope():
        model = compiled(config, training_part)
    fill(model)
    begun = values(model)
    record = Record()
    history = model.fit(
        # Not shuffled, or the uneven labels would be evened.
        pipeline.validation_batches(training_part, BATCH),
        steps_per_epoch=STEPS,
        epochs=1,
        validation_data=pipeline.validation_batches(validation, BATCH),
        validation_steps=2,
        shuffle=False,
        verbose=0,
        callbacks=[record]
        + ([optimizers.ValidateAverage()] if config.ema_momentum else []),
    )
    found = {f"begun/{k}": v for k, v in begun.items()}
    found |= {f"first/{k}": v for k, v in record.first.items()}
    found |= {f"last/{k}": v for k, v in values(model).items()}
    found |= {f"epoch/{k}": np.array(v[-1]) for k, v in history.history.items()}
    for name in record.rows[0]:
        found[f"step/{name}"] = np.array([row[name] for row in record.rows])
    halves = training_part.examples.labels["race"].reshape(STEPS, 2, -1) != MISSING
    found["races_by_half"] = halves.sum(axis=(0, 2))
    found["log_variances"] = keras.ops.convert_to_numpy(model.weighting.log_variances())
    return found


def worst_predictions(strategy, devices, workdir) -> dict[str, np.ndarray]:
    """The pictures of a run that keeps an average of its weights, by task."""
    keras.mixed_precision.set_dtype_policy("float32")
    settings = COMMON | CASES["clipped"] | {"epochs": trackers.WORST_EVERY}
    config = TrainingConfig(**settings, strategy=strategy)
    part, validation = faces(BATCH * STEPS, 1), faces(11, 2)
    with devices.scope():
        model = compiled(config, part)
    fill(model)
    record = Record()
    model.fit(
        pipeline.validation_batches(part, BATCH),
        steps_per_epoch=STEPS,
        epochs=config.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[trackers.WorstFaces(workdir, validation, BATCH), record],
    )
    events = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard/largest_errors"), size_guidance={"tensors": 0}
    )
    events.Reload()
    found = {"steps": np.array(len(record.rows))}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)
        with Image.open(io.BytesIO(event.tensor_proto.string_val[2])) as picture:
            found[f"picture/{tag}"] = np.asarray(picture.convert("RGB"))
    return found


def keras_alone(devices) -> dict[str, np.ndarray]:
    """Whether Keras trains under the strategy without our reductions."""
    keras.mixed_precision.set_dtype_policy("float32")
    # Not a strategy of its own: messages of two in a process get mixed up.
    ours = strategies.MultiWorkerStrategy.reduce
    strategies.MultiWorkerStrategy.reduce = (
        tf.distribute.MultiWorkerMirroredStrategy.reduce
    )
    with devices.scope():
        inputs = keras.Input((3,))
        predictions = {name: keras.layers.Dense(1, name=name)(inputs) for name in "ab"}
        model = keras.Model(inputs, predictions)
        model.compile("sgd", {"a": "mse", "b": "mse"})
    x = np.ones((8, 3), "float32")
    batches = tf.data.Dataset.from_tensors((x, {"a": x[:, :1], "b": x[:, :1]}))
    try:
        model.fit(batches, verbose=0)
    except (ValueError, TypeError) as error:
        return {"failed": np.array(str(error))}
    finally:
        strategies.MultiWorkerStrategy.reduce = ours
    return {"failed": np.array("")}


def main(output, strategy, cpu_devices, *cases):
    if keras.backend.backend() == "tensorflow":
        tf.config.threading.set_intra_op_parallelism_threads(1)
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * int(cpu_devices)
        tf.config.set_logical_device_configuration(cpu, logical)
    config = TrainingConfig(**COMMON, strategy=strategy)
    found = {}
    with strategies.start(config, Path(output).parent) as devices:
        for case in cases:
            if case == "keras_alone":
                results = keras_alone(devices)
            elif case == "worst_predictions":
                # Another folder for each process: they run at the same time.
                folder = Path(output).with_suffix("")
                results = worst_predictions(strategy, devices, folder)
            else:
                config = TrainingConfig(**COMMON, **CASES[case], strategy=strategy)
                results = weights_after_training(config, devices)
            found |= {f"{case}/{name}": value for name, value in results.items()}
        if devices.workers is None or devices.workers.is_chief:
            np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
