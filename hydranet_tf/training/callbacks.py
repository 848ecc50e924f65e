"""What happens beside the steps: progress, log, checkpoints, emergency stop."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from hydranet_tf import checkpoints, replicas
from hydranet_tf.checkpoints import Progress
from hydranet_tf.data import pipeline
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import atomic
from hydranet_tf.tasks import MISSING, score_name
from hydranet_tf.training import optimizers

METRICS_FILE = "metrics.jsonl"


_WAY_OUT = (
    ". The last good checkpoint is kept. Lower --learning_rate, use --warmup_epochs, "
    "or look for wrong labels in the data; then start in a new workdir"
)


class TrainingDiverged(HydraNetError, ArithmeticError):
    """The loss is no longer a number."""


class LogError(HydraNetError, RuntimeError):
    """The log of a run cannot be written."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends the run where its loss is not a number, or its validation is out of range.

    Comes before the checkpoints, so that none is written of such a network.

    Args:
        most: by the names of scores that the validation part has labels for, more
            than what no network reaches that learns anything.
    """

    def __init__(self, most: Mapping[str, float] | None = None):
        super().__init__()
        self.most = {"loss": math.inf, **(most or {})}

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            step = int(replicas.number(self.model.optimizer.iterations))
            raise TrainingDiverged(f"the loss became {loss} at step {step}{_WAY_OUT}")

    def on_epoch_end(self, epoch, logs=None):
        # A loss of steps that is still a number says nothing of the statistics and
        # weights that validation uses.
        for name, most in self.most.items():
            value = (logs or {}).get(f"val_{name}", 0.0)
            # True of NaN as well.
            if not abs(value) < most:
                raise TrainingDiverged(
                    f"the validation's {name} became {value:.4g} in epoch {epoch + 1}"
                    f"{_WAY_OUT}"
                )


class EpochLog(keras.callbacks.Callback):
    """Adds what Keras leaves out to the epoch's logs and keeps them.

    The callbacks that come after it (TensorBoard among them) see the added
    values: loss weights, learning rate, images/s. metrics.jsonl gets one line
    an epoch.
    """

    def __init__(self, workdir: Path, progress: Progress, batch_size: int):
        super().__init__()
        self.path = workdir / METRICS_FILE
        self.progress = progress
        self.batch_size = batch_size
        self._drop_lines_after(progress.epoch)

    def _drop_lines_after(self, epoch: int) -> None:
        # A run that died between log and checkpoint repeats its last epoch.
        if not self.path.exists():
            return
        lines = self.path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _epoch_of(line) <= epoch]
        if kept != lines:
            atomic.write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter()
        self._steps_before = self.progress.step

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.progress.step = int(replicas.number(self.model.optimizer.iterations))
        steps = self.progress.step - self._steps_before
        rate = replicas.number(self.model.optimizer.learning_rate)
        logs.update(self.model.task_weights())
        logs["learning_rate"] = rate
        logs["images_per_second"] = (
            steps * self.batch_size / (self._trained - self._started)
        )
        logs["seconds"] = now - self._started
        # Scores of tasks without a label: JSON has no NaN, and 0 would be a lie. What
        # is not a number for another reason has stopped the run.
        for name in [name for name, value in logs.items() if math.isnan(value)]:
            del logs[name]
        row = {"epoch": epoch + 1, "step": self.progress.step}
        row.update((name, float(value)) for name, value in logs.items())
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                # The checkpoint that follows shall not outlive its line.
                os.fsync(file.fileno())
        except OSError as error:
            raise LogError(
                f"could not write {self.path}: {error}. The last checkpoint is "
                "kept; free space, then start the same command again"
            ) from error


class ProgressBar(keras.callbacks.Callback):
    """A bar while an epoch runs, and one line for each finished epoch.

    Args:
        epochs: of the run.
        batch_size: of the run.
        sources: names of several sources whose scores are in the logs, each with a
            line of its own after the epoch's.
    """

    def __init__(self, epochs: int, batch_size: int, sources: Sequence[str] = ()):
        super().__init__()
        self.sources = sources
        self.epochs = epochs
        self.batch_size = batch_size
        self._bar = None
        self._seconds = []
        self._explained = False

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = tqdm(
            total=self.params["steps"] * self.batch_size,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="img",
            unit_scale=True,
            leave=False,
            # Not in log files, where a bar is a line for every refresh.
            disable=None,
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, batch, logs=None):
        if self._bar.disable:
            return
        self._bar.set_postfix_str(
            f"loss {logs['loss']:.3f} {self._scores(logs)} {self._weights()}",
            refresh=False,
        )
        self._bar.update(self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        self._bar.close()
        self._seconds.append(logs["seconds"])
        mean = sum(self._seconds) / len(self._seconds)
        left = mean * (self.epochs - epoch - 1)
        line = f"epoch {epoch + 1}/{self.epochs} | loss {logs['loss']:.3f} "
        line += f"| train {self._scores(logs)} "
        if "val_loss" in logs:
            line += f"| validation {self._scores(logs, 'val_')} "
        line += f"| {self._weights()} | {logs['images_per_second']:.0f} img/s "
        print(line + f"| {_duration(left)} left", flush=True)
        if logs["loss"] < 0 and not self._explained:
            self._explained = True
            print(
                "  (a loss below 0 is right: it is a likelihood's negative logarithm "
                "under learned weights. The scores tell how good the network is)",
                flush=True,
            )
        for name in self.sources:
            print(f"  {name}: {self._scores(logs, f'val_{name}/')}", flush=True)

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()

    def _scores(self, logs, prefix="") -> str:
        parts = []
        for task in self.model.tasks:
            value = logs.get(prefix + score_name(task), math.nan)
            # None yet, or of a source that does not label it.
            shown = "-" if math.isnan(value) else task.format_score(value)
            parts.append(f"{task.name} {shown}")
        return " ".join(parts)

    def _weights(self) -> str:
        weights = self.model.task_weights()
        return " ".join(f"{name} {value:.3g}" for name, value in weights.items())


class Checkpointing(keras.callbacks.Callback):
    """Saves the last and the best state; stops when nothing gets better.

    Args:
        workdir: of the run.
        progress: of the run, kept up to date.
        monitor: score of the validation part that tells the best.
        patience: epochs without a better one before the run ends; 0 for ever.
        minutes: between two saves inside an epoch; 0 saves after epochs alone.
        notice: when it comes, the state is saved and `Preempted` raised.
    """

    def __init__(
        self,
        workdir: Path,
        progress: Progress,
        monitor: str,
        patience: int,
        minutes: float,
        notice: Notice,
    ):
        super().__init__()
        self.workdir = workdir
        self.progress = progress
        self.monitor = monitor
        self.patience = patience
        self.seconds = minutes * 60
        self.notice = notice
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._batches_before = self.progress.batch
        if self.progress.running is not None:
            # Keras has just set them to zero.
            checkpoints.set_running_scores(self.model, self.progress.running)

    def on_train_batch_end(self, batch, logs=None):
        self.progress.batch = self._batches_before + batch + 1
        # The state after an epoch's last batch is saved with its validation,
        # which sets the running scores to zero.
        last = batch + 1 == self.params["steps"]
        due = self.seconds and time.monotonic() - self._saved >= self.seconds
        if last or due or self.notice.came:
            self.progress.step = int(replicas.number(self.model.optimizer.iterations))
            self.progress.running = checkpoints.running_scores(self.model)
        if due and not last:
            self._save()
        self._leave_if_asked()

    def on_test_batch_end(self, batch, logs=None):
        self._leave_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        progress = self.progress
        progress.epoch, progress.batch, progress.running = epoch + 1, 0, None
        score = logs.get(f"val_{self.monitor}")
        if score is not None:
            if checkpoints.better(self.monitor, float(score), progress.best):
                progress.best = float(score)
                progress.epochs_without_gain = 0
                with optimizers.averaged(self.model):
                    checkpoints.save(
                        self.workdir, checkpoints.BEST, self.model, progress
                    )
            else:
                progress.epochs_without_gain += 1
        if 0 < self.patience <= progress.epochs_without_gain:
            self.model.stop_training = True
            progress.finished = True
            print(
                f"stopped early: {self.monitor} has not improved for "
                f"{self.patience} epochs",
                flush=True,
            )
        self._save()

    def _save(self) -> None:
        checkpoints.save(self.workdir, checkpoints.LAST, self.model, self.progress)
        self._saved = time.monotonic()

    def _leave_if_asked(self) -> None:
        if self.notice.came:
            self._save()
            raise Preempted(
                f"SIGTERM came: saved at step {self.progress.step}. Start the same "
                "command again to go on from there"
            )


class EndWithEpoch(keras.callbacks.Callback):
    """Ends `fit` after one epoch without what it does at the end of a run.

    Comes last. There `fit` would put an optimiser's average weights in the place
    of the weights.
    """

    def on_epoch_end(self, epoch, logs=None):
        raise EpochEnded


class EpochEnded(Exception):
    """How `EndWithEpoch` leaves `fit`."""


def logged(workdir: Path) -> list[dict]:
    """The rows of a run's log; those of whole lines, if it was cut off."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if math.isfinite(_epoch_of(line))]


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        # Half a line of a run that was killed while writing it.
        return math.inf


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s"


# Leaving in time when the machine is taken away.
#
# Who takes a machine back (a scheduler, a cloud, Kubernetes) sends SIGTERM and, some
# seconds later, SIGKILL. A run saves its state in between and ends with `EXIT_CODE`.


# 75, "try again": what sysexits.h has for it since 1983, so that a scheduler can
# tell it from an error (1) and from a finished run (0).
EXIT_CODE = os.EX_TEMPFAIL


class Preempted(Exception):
    """SIGTERM came; what can be kept is saved. Start the same command again."""


class Notice:
    """Whether SIGTERM has come."""

    def __init__(self):
        self.came = False
        self._awaited = False

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """In it SIGTERM sets `came`: the body looks, saves and leaves.

        Outside of it SIGTERM raises `Preempted`, since nothing would be lost.
        """
        self._awaited = True
        try:
            yield
        finally:
            self._awaited = False

    def receive(self, number, frame) -> None:
        """The signal's handler; Python calls it between two steps, not in one."""
        del number, frame
        self.came = True
        if not self._awaited:
            raise Preempted(
                "SIGTERM came: nothing is saved before the first step, nor within "
                "an epoch of several workers. Start the same command again"
            )


@contextlib.contextmanager
def notice() -> Iterator[Notice]:
    """Listens for SIGTERM in its body.

    Outside of the main thread, where Python hears no signals, nothing ever comes.
    """
    given = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield given
        return
    before = signal.signal(signal.SIGTERM, given.receive)
    try:
        yield given
    finally:
        signal.signal(signal.SIGTERM, before)


# The validation of several sources, each scored by itself.


def source_scores(validation: Faces, batch_size: int) -> list[keras.callbacks.Callback]:
    """The callback that scores sources, where there are several."""
    if not validation.examples.source_names:
        return []
    return [SourceScores(validation, batch_size)]


class SourceScores(keras.callbacks.Callback):
    """Adds `val_NAME/SCORE` of each source to the logs of an epoch.

    Validation goes source after source, and its scores are means over what it has
    seen so far: two of them, at the end of one source and of the next, tell the mean
    over the second. So each face is looked at once. Comes before the source_scores that
    read the logs. A source without a label of a task has no such score.

    Args:
        validation: faces of several sources, see `Examples.source_names`.
        batch_size: of the validation.
    """

    def __init__(self, validation: Faces, batch_size: int):
        super().__init__()
        steps = pipeline.source_steps(validation, batch_size)
        ends = np.cumsum(list(steps.values())) - 1
        self._source_at = dict(zip(ends.tolist(), steps, strict=True))
        rows = validation.examples.by_source()
        self._counts = {
            name: {
                task: int(np.sum(values[rows[name]] != MISSING))
                for task, values in validation.examples.labels.items()
            }
            for name in steps
        }
        self._scores = {}

    def on_test_begin(self, logs=None):
        self._scores = {}
        self._sums = {}
        self._seen = {}

    def on_test_batch_end(self, batch, logs=None):
        name = self._source_at.get(batch)
        if name is None:
            return
        for task in self.model.tasks:
            added = self._counts[name].get(task.name, 0)
            if not added:
                continue
            seen = self._seen.get(task.name, 0) + added
            total = float(logs[score_name(task)]) * seen
            score = (total - self._sums.get(task.name, 0.0)) / added
            self._scores[f"{name}/{score_name(task)}"] = score
            self._seen[task.name], self._sums[task.name] = seen, total

    def on_epoch_end(self, epoch, logs=None):
        logs.update((f"val_{name}", score) for name, score in self._scores.items())
