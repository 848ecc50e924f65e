"""Training: from settings and a workdir to a network; cross-validation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from absl import logging

from hydranet_tf import checkpoints, losses, replicas
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data import detection, pipeline, sources
from hydranet_tf.data.file_names import Skipped
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.sources import NoExamplesError, concatenate
from hydranet_tf.heads import task_metrics
from hydranet_tf.inference import photograph_faces, predictor
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import MISSING, score_name
from hydranet_tf.training import (
    callbacks,
    distillation,
    fine_tuning,
    initialization,
    optimizers,
    proportions,
    strategies,
)
from hydranet_tf.training.callbacks import Notice
from hydranet_tf.training.callbacks import notice as preemption_notice
from hydranet_tf.training.workdir import describe, opened


def train(
    config: TrainingConfig,
    workdir: str | os.PathLike,
    data: tuple[Faces, Faces] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Trains a network, or goes on where the same run stopped.

    Args:
        config: the settings.
        workdir: new, or of a run with the same settings (those of
            `config.MAY_CHANGE` may differ). Nothing in it is overwritten.
        data: faces to train on and to validate on; None for those that the settings
            name.
        callbacks: of your own, called after the logs are complete and before an
            epoch's checkpoint is written. What they hold is not in the checkpoint:
            a resumed run begins with new ones.

    Returns:
        What `fit` returns, of the whole run: `history` has a list for each column of
        metrics.jsonl, those of epochs before a resume too, `epoch` counts from 0, and
        `model` is the network as it is after the last epoch. The best one is in the
        workdir: `hydranet_tf.load(workdir)`.

    Raises:
        WorkdirError: if the workdir cannot be written, holds something else,
            belongs to a run with other settings or other data, or is in use by
            another process.
        ConfigError: on a monitored score that does not exist; if the training part
            has no label of a task, or the validation part none of the monitored one.
        hydranet_tf.backbones.pretrained.WeightsError: if the first weights cannot be
            read or do not fit.
        hydranet_tf.inference.loading.LoadError: the same, of weights of a run.
        hydranet_tf.data.sources.SourceError: if the data cannot be read.
        hydranet_tf.training.callbacks.TrainingDiverged: if the loss is NaN.
        hydranet_tf.checkpoints.CheckpointError: if a checkpoint cannot be
            written or read.
        hydranet_tf.training.callbacks.Preempted: on SIGTERM, after a checkpoint.
    """
    workdir = Path(workdir)
    known_scores = [score_name(task) for task in config.asked_tasks()]
    names = sources.listed(config.data, config.split_lists)
    if len(names) > 1:
        known_scores += [f"{n}/{score}" for n in names for score in known_scores]
    if config.monitor not in known_scores:
        raise ConfigError(
            f"--monitor: unknown score {config.monitor!r}; known are "
            f"{', '.join(known_scores)}"
        )
    with preemption_notice() as notice, strategies.start(config, workdir) as devices:
        # Before the workdir keeps a setting that would have to be changed.
        # A checkpoint has later weights.
        start = None if checkpoints.any_saved(workdir) else initialization.read(config)
        with opened(devices.folder, config):
            # The chief's folder is this one; others read it and write elsewhere.
            run = _prepared(config, workdir, devices, start, data)
            if run.has_ended:
                print("the run is finished; raise --epochs to go on", flush=True)
                optimizers.keep_average(run.model)
            else:
                run.train(notice, callbacks)
            return _history(run.model, devices.folder)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose network is made and whose checkpoint, if it has one, is read.

    Attributes:
        config: the settings, with a batch size.
        devices: that it trains on; their `folder` is the workdir.
        training, validation: the faces.
        limits: of the scores that the validation has labels for, see
            `callbacks.StopOnNonFinite`.
        model: compiled.
        progress: how far it has come; grows while it trains.
    """

    config: TrainingConfig
    devices: strategies.Devices
    training: Faces
    validation: Faces
    limits: dict[str, float]
    model: HydraNet
    progress: checkpoints.Progress

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return pipeline.steps_per_epoch(self.training, self.config.batch_size)

    @property
    def has_ended(self) -> bool:
        return self.progress.finished or self.progress.epoch >= self.config.epochs

    def train(
        self,
        notice: Notice,
        extra: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Trains what is left of the run, and says what a fine-tuning has gained."""
        config, devices, validation = self.config, self.devices, self.validation
        # What one worker of several computes by itself, the others would wait for.
        if config.start_from and not devices.workers and not self.progress.step:
            fine_tuning.keep_start(
                devices.folder, self.model, validation, self.progress, config.monitor,
                config.batch_size,
            )  # fmt: skip
        called = self._callbacks(notice, extra)
        with contextlib.nullcontext() if devices.workers else notice.awaited():
            if self.progress.batch:
                self._end_epoch(called)
            if not self.has_ended:
                self._fit(self.steps, called)
        optimizers.keep_average(self.model)
        if not devices.workers:
            lines = fine_tuning.summary(devices.folder, validation, config)
            print(*lines, sep="\n", end="\n" * bool(lines), flush=True)

    def _callbacks(
        self,
        notice: Notice,
        extra: Sequence[keras.callbacks.Callback],
    ) -> list[keras.callbacks.Callback]:
        config, validation, workdir = self.config, self.validation, self.devices.folder
        return [
            callbacks.StopOnNonFinite(self.limits),
            *callbacks.source_scores(validation, config.batch_size),
            *([optimizers.ValidateAverage()] if config.ema_momentum else []),
            # First of those that read the logs: it completes them.
            callbacks.EpochLog(workdir, self.progress, config.batch_size),
            callbacks.ProgressBar(
                config.epochs, config.batch_size, validation.examples.source_names
            ),
            *_tensorboard(workdir, self.devices, validation, config.batch_size),
            *extra,
            # Last: a checkpoint says that everything before it is on disk.
            callbacks.Checkpointing(
                workdir,
                self.progress,
                config.monitor,
                config.patience,
                # To read the scores inside an epoch, several workers would have to
                # stop at the same step; clock and SIGTERM come to each at its own.
                0 if self.devices.workers else config.checkpoint_minutes,
                notice,
            ),
        ]

    def _fit(self, steps: int, called: list[keras.callbacks.Callback]) -> None:
        """Trains `steps` batches an epoch from where the progress stands."""
        config, validation, progress = self.config, self.validation, self.progress
        self.model.fit(
            pipeline.training_batches(
                self.training, config.batch_size, config.seed, progress.epoch,
                progress.batch,
            ),
            initial_epoch=progress.epoch,
            epochs=config.epochs,
            steps_per_epoch=steps,
            validation_data=pipeline.validation_batches(validation, config.batch_size),
            validation_steps=pipeline.validation_steps(validation, config.batch_size),
            # The order is the pipeline's; Keras cannot shuffle a data set.
            shuffle=False,
            verbose=0,
            callbacks=called,
        )  # fmt: skip

    def _end_epoch(self, called: list[keras.callbacks.Callback]) -> None:
        """Trains and validates what is left of an epoch that was broken off."""
        model, batch_size = self.model, self.config.batch_size
        batches = pipeline.validation_batches(self.validation, batch_size)
        # Keras makes the variables of scores at their first use; they are to be set
        # before it.
        model.evaluate(batches, steps=1, verbose=0)
        left = self.steps - self.progress.batch
        if left:
            with contextlib.suppress(callbacks.EpochEnded):
                self._fit(left, [*called, callbacks.EndWithEpoch()])
            return
        # `fit` takes at least one step, and here only the validation is left.
        epoch = self.progress.epoch
        together = keras.callbacks.CallbackList(
            called, model=model, epochs=self.config.epochs, steps=left
        )
        together.on_train_begin()
        together.on_epoch_begin(epoch)
        logs = {
            name: float(value) for name, value in model.get_metrics_result().items()
        }
        scores = model.evaluate(
            batches,
            steps=pipeline.validation_steps(self.validation, batch_size),
            verbose=0,
            return_dict=True,
            callbacks=together,
        )
        logs.update((f"val_{name}", value) for name, value in scores.items())
        together.on_epoch_end(epoch, logs)
        together.on_train_end(logs)

    def announce(self, start: Mapping | None) -> None:
        """Prints what begins, and `start`: where its first weights are from."""
        config, devices, model = self.config, self.devices, self.model
        weights = sum(math.prod(w.shape) for w in model.trainable_weights)
        print(
            f"{config.backbone} at {config.image_size} px, {weights:,} weights, "
            f"{config.precision}, {keras.backend.backend()} backend, on "
            f"{devices.replicas} device{'s' * (devices.replicas > 1)} "
            f"({devices.strategy})\n"
            f"{len(self.training):,} faces to train, {len(self.validation):,} to "
            f"validate; workdir {devices.folder}",
            *proportions.lines(self.training, self.validation, config.balance),
            *fine_tuning.few_faces(self.validation),
            sep="\n",
            flush=True,
        )
        if start:
            print(
                f"starts from {start['path']}: {start['parts']}",
                *fine_tuning.nothing_frozen(self.training, config.freeze),
                sep="\n",
                flush=True,
            )
        progress = self.progress
        if progress.step:
            batches = f" and {progress.batch} batches" if progress.batch else ""
            print(f"resumed after epoch {progress.epoch}{batches}", flush=True)
        _say_rate(config, devices.folder, model)


def _prepared(
    config: TrainingConfig,
    resumed: Path,
    devices: strategies.Devices,
    start: initialization.Start | None,
    data: tuple[Faces, Faces] | None,
) -> Run:
    """Reads data, makes the network and reads a checkpoint of the folder `resumed`."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        _make_deterministic()
    keras.mixed_precision.set_dtype_policy(config.precision)

    training, validation = data or (
        load(config, [split]) for split in ("train", "validation")
    )
    limits = _check_labels(config, training, validation)
    if config.teacher:
        training = distillation.blended(training, config)
    if not config.batch_size:
        size = fine_tuning.sized_batch(len(training), devices.replicas)
        config = dataclasses.replace(config, batch_size=size)
    training = proportions.drawn(training, config)
    with devices.scope():
        model = build_model(config, training)
        if start is not None:
            start.assign(model)
        fine_tuning.freeze(model, config.freeze)
        steps = pipeline.steps_per_epoch(training, config.batch_size)
        compile_model(model, config, steps)
    about = None if start is None else start.about
    describe(devices.folder, model, training, validation, about)
    # In the scope, where the optimiser makes its variables.
    with devices.scope():
        progress = checkpoints.restore(resumed, model) or checkpoints.Progress()
        if not model.optimizer.built:
            # Left to the first step, TensorFlow would trace that a second time: a
            # function that makes variables is traced once with them and once without.
            model.optimizer.build(model.trainable_variables)
    devices.agree(
        settings=config.that_make_the_run(),
        data=(training.digest(), validation.digest()),
        weights=about and about["sha256"],
        checkpoint=progress,
    )
    run = Run(config, devices, training, validation, limits, model, progress)
    run.announce(about)
    return run


def _history(model: HydraNet, workdir: Path) -> keras.callbacks.History:
    """The log of a run in the form of Keras."""
    # The start of a fine-tuning is not an epoch of `fit`.
    rows = [row for row in callbacks.logged(workdir) if row["epoch"] > 0]
    history = keras.callbacks.History()
    history.set_model(model)
    history.epoch = [int(row["epoch"]) - 1 for row in rows]
    names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
    history.history = {name: [row.get(name) for row in rows] for name in names}
    return history


def build_model(config: TrainingConfig, training: Faces) -> HydraNet:
    """The network with its loss weights, not compiled."""
    asked = config.asked_tasks()
    fixed = config.fixed_loss_weights()
    if fixed is not None:
        weighting = losses.FixedWeights(fixed)
    else:
        weighting = losses.learned_weights(
            asked, training.examples.labels, config.loss_weights_rate
        )
    model = HydraNet(
        backbone=config.backbone,
        image_size=config.image_size,
        width=config.width or None,
        augmentation=config.augmentation,
        dropout=config.dropout,
        mixup=config.mixup,
        weighting=weighting,
        seed=config.seed,
        tasks=asked,
        class_weights=proportions.class_weights(config, training.examples.labels),
        flip_tta=config.flip_tta,
    )
    if config.sync_batch_norm:
        strategies.synchronise_batch_norm(model)
    return model


def compile_model(
    model: HydraNet, config: TrainingConfig, steps_per_epoch: int
) -> None:
    """Gives the network its optimiser and scores, in the scope it was made in."""
    optimizer = make_optimizer(config, steps_per_epoch)
    # Decay draws kernels towards zero; for scales, shifts and log-variances
    # zero is not the neutral value.
    getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.name != "kernel"]
    )
    model.compile(
        optimizer=optimizer,
        metrics=task_metrics(model.tasks),
        # Without it the JAX backend would run each operation by itself.
        jit_compile=config.xla or keras.backend.backend() == "jax",
    )


def make_optimizer(
    config: TrainingConfig, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """The optimiser with its schedule."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rate = _learning_rate(config, warmup, config.epochs * steps_per_epoch)
    options = {
        "learning_rate": rate,
        "weight_decay": config.weight_decay or None,
        "gradient_accumulation_steps": (
            config.accumulate_steps if config.accumulate_steps > 1 else None
        ),
    }
    if config.ema_momentum:
        # None: the averages stay beside the weights until someone asks for them.
        options |= {
            "use_ema": True,
            "ema_momentum": config.ema_momentum,
            "ema_overwrite_frequency": None,
        }
    if config.gradient_clip_norm:
        options["global_clipnorm"] = config.gradient_clip_norm
    if config.optimizer == "sgd":
        options |= {"momentum": config.momentum, "nesterov": True}
    # Keras' Adam takes a decoupled decay as AdamW does; at the published
    # 3e-4 and 1e-5 the difference to a coupled one is below 1e-8 a step.
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
    }
    return optimizers.optimizer(
        kinds[config.optimizer], config.precision == "mixed_float16", **options
    )


def _learning_rate(config: TrainingConfig, warmup: int, steps: int):
    schedules = keras.optimizers.schedules
    if config.schedule == "cosine":
        return schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else config.learning_rate,
            decay_steps=steps - warmup,
            warmup_target=config.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    if not warmup:
        return config.learning_rate
    # A line to the full rate, and constant after its end.
    return schedules.PolynomialDecay(
        initial_learning_rate=0.0,
        decay_steps=warmup,
        end_learning_rate=config.learning_rate,
    )


def load(config: TrainingConfig, splits: Sequence[str]) -> Faces:
    """The faces of some splits of the data that the settings name, one after the other.

    Raises:
        hydranet_tf.data.sources.SourceError: see there; of several splits some may
            have no example.
        hydranet_tf.data.pipeline.BadImagesError: see there.
    """
    parts = []
    for number, split in enumerate(splits, 1):
        try:
            parts.append(sources.open_source(config.data, split, **config.places()))
        except NoExamplesError:
            if number == len(splits) and not parts:
                raise
    examples = concatenate(parts)
    if config.crop_faces:
        examples = _cropped(examples, config.image_size)
    labels = {
        name: examples.labels[name]
        for task in config.asked_tasks()
        for name in (task.name, task.half_width_name)
        if name in examples.labels
    }
    examples = dataclasses.replace(examples, labels=labels)
    return pipeline.load_faces(
        examples, config.image_size, config.cache, config.max_bad_images
    )


def _cropped(examples: sources.Examples, size: int) -> sources.Examples:
    """The largest face of each photograph; those without are left out and counted."""
    find = functools.partial(predictor.find, size=size, detector=detection.find_faces)
    found = photograph_faces.search(examples, find)
    missing = found.without_face
    print(
        f"{found.pictures:,} photographs searched: {found.with_several:,} with several "
        f"faces, of which the largest counts, {len(missing):,} without"
        + (f" ({', '.join(missing[:3])}{' ...' * (len(missing) > 3)})" * bool(missing)),
        flush=True,
    )
    if not len(found.examples):
        raise sources.SourceError(
            "--crop_faces: no face was found in any of the photographs; crops of faces "
            "are used without it"
        )
    left_out = tuple(Skipped(example, "no face was found in it") for example in missing)
    return dataclasses.replace(
        found.examples,
        skipped=(*found.examples.skipped, *left_out),
        variant="crop_faces",
    )


def _check_labels(
    config: TrainingConfig, training: Faces, validation: Faces
) -> dict[str, float]:
    """Refuses tasks that nothing teaches, and a score that nothing can be told by.

    Returns:
        The scores that the validation part has labels for, with limits for
        `callbacks.StopOnNonFinite`.
    """
    asked = config.asked_tasks()
    untaught = [
        task.name
        for task in asked
        if not losses.any_present(training.examples.labels[task.name])
    ]
    if untaught:
        others = ",".join(task.name for task in asked if task.name not in untaught)
        raise ConfigError(
            f"no face of the training part has a label of {', '.join(untaught)}, so "
            "nothing would teach its head. "
            + (f"Give --tasks={others}, or add labels" if others else "Add labels")
        )
    # A network whose statistics are not settled may miss by more than the whole range
    # of labels for an epoch, and not by a hundred times as much.
    labelled = {
        score_name(task): 100 * (task.high - task.low) if task.is_regression else 2.0
        for task in asked
        if losses.any_present(validation.examples.labels[task.name])
    }
    source, _, monitored = config.monitor.rpartition("/")
    rows = (
        validation.examples.by_source().get(source, slice(0)) if source else slice(None)
    )
    if not any(
        score_name(task) == monitored
        and losses.any_present(validation.examples.labels[task.name][rows])
        for task in asked
    ):
        raise ConfigError(
            f"--monitor={config.monitor}: no face of the validation part has a label "
            "for it. "
            + (
                f"Give --monitor={next(iter(labelled))}, or add labels"
                if labelled
                else "It has no labels at all: add some"
            )
        )
    return labelled


def _say_rate(config: TrainingConfig, workdir: Path, model: HydraNet) -> None:
    """Says so where other --epochs change the rate that the last epoch ended with."""
    rows = callbacks.logged(workdir)
    before = rows[-1].get("learning_rate") if rows else None
    now = replicas.number(model.optimizer.learning_rate)
    if before is not None and not math.isclose(now, before, rel_tol=0.01, abs_tol=1e-9):
        print(
            f"the learning rate goes on at {now:.3g}, and was {before:.3g} before: "
            f"--epochs={config.epochs} is another length of its schedule",
            flush=True,
        )


def _tensorboard(
    workdir: Path, devices, validation: Faces, batch_size: int
) -> list[keras.callbacks.Callback]:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        logging.warning(
            "tensorboard is not installed: curves are in metrics.jsonl only"
        )
        return []
    # Imports TensorFlow, whatever the backend.
    from hydranet_tf.training.trackers import Curves, WorstFaces

    curves = Curves(workdir, lambda: callbacks.logged(workdir))
    if devices.workers:
        # No worker may compute alone what the network of all of them is part of.
        return [curves]
    return [curves, WorstFaces(workdir, validation, batch_size)]


def _make_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def cross_validate(
    config: TrainingConfig, workdir: str | os.PathLike, count: int
) -> dict[str, float]:
    """Trains a network for each fold and scores every face by one that has not seen it.

    The folds divide the parts train and validation together; test stays untouched. Of
    every class of the last task that has classes each fold gets as many. The best epoch
    of a fold is chosen by its own faces, so the scores are a little too good; the same
    is true of a fixed validation part.

    Args:
        config: of each run.
        workdir: gets a folder for each run, `fold_1` and so on. The same call goes on
            where it was broken off.
        count: of the folds, 2 or more.

    Returns:
        The scores over all faces, by name.

    Raises:
        ConfigError: if there are more folds than faces.
        Whatever `train` raises.
    """
    workdir = Path(workdir)
    faces = load(config, ("train", "validation"))
    if not 2 <= count <= len(faces):
        raise ConfigError(
            f"--folds: expected 2 to {len(faces)}, the number of faces; got {count}"
        )
    numbers = _fold_numbers(faces, count, config.seed)
    before, after, epochs = [], [], []
    for fold in range(count):
        print(f"fold {fold + 1} of {count}", flush=True)
        folder = workdir / f"fold_{fold + 1}"
        held_out = pipeline.select(faces, np.flatnonzero(numbers == fold))
        others = pipeline.select(faces, np.flatnonzero(numbers != fold))
        train(config, folder, (others, held_out))
        batch = fine_tuning.sized_batch(len(held_out))
        best = checkpoints.load_model(folder)
        after.append(fine_tuning.example_scores(best, held_out, batch))
        before.append(fine_tuning.start_scores(folder))
        epochs.append(fine_tuning.best_epoch(folder))
    found = {name: np.concatenate([s[name] for s in after]) for name in after[0]}
    print(
        f"{len(faces)} faces, each scored by the one of {count} networks that has "
        "not seen it:"
    )
    if all(before):
        start = {name: np.concatenate([s[name] for s in before]) for name in before[0]}
        print(*fine_tuning.compared(start, found), sep="\n")
    else:
        print(*fine_tuning.compared(found, found)[:1], sep="\n")
    typical = max(1, round(float(np.median(epochs))))
    print(
        f"best epochs {', '.join(map(str, epochs))}. next: train once on all faces, "
        f"with --epochs={typical}",
        flush=True,
    )
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def _fold_numbers(faces: pipeline.Faces, count: int, seed: int) -> np.ndarray:
    """The fold of each face, `[n]`."""
    labels = [
        values
        for values in faces.examples.labels.values()
        if values.dtype == np.int32 and (values != MISSING).any()
    ]
    order = np.random.default_rng(seed).permutation(len(faces))
    if labels:
        # Stable: within a class the order stays random.
        order = order[np.argsort(labels[-1][order], kind="stable")]
    numbers = np.empty(len(faces), int)
    numbers[order] = np.arange(len(faces)) % count
    return numbers
