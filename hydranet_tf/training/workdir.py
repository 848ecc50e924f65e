"""The folder of a run: whose it is, who writes in it, what it was made of.

workdir/
    config.json  settings           run.json  versions, command, data
    model.json   the network        tasks.json  the labels' names
    training_faces.csv              ids and labels of the faces that it trains on
    lock         held by the process that writes; left behind, it means nothing
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import filelock
import keras
import numpy as np

from hydranet_tf import __version__, tasks
from hydranet_tf.checkpoints import FOLDER
from hydranet_tf.config import ConfigError, TrainingConfig
from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.sources import Examples
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.table import name_of
from hydranet_tf.io import atomic
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import MISSING

_CONFIG = "config.json"
_RUN = "run.json"
_LOCK = "lock"
_TRAINING_FACES = "training_faces.csv"
_VERSIONS = ("keras", "tensorflow", "tensorflow-cpu", "jax", "numpy", "pillow",
             "tensorflow-datasets")  # fmt: skip


class WorkdirError(HydraNetError, RuntimeError):
    """A workdir that cannot be used; the message says why."""


@contextlib.contextmanager
def opened(workdir: Path, config: TrainingConfig) -> Iterator[None]:
    """Makes or reopens a workdir; its body is the only one to write there.

    Raises:
        WorkdirError: if the workdir cannot be written, holds something else,
            belongs to a run with other settings, or another process has it
            open.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Before anything is touched.
        _check(workdir, config)
        lock = _locked(workdir)
    except OSError as error:
        raise _unwritable(workdir, error) from error
    with lock:
        try:
            # Again: another process may have been here until it let go.
            _check(workdir, config)
            for folder in (workdir, workdir / FOLDER):
                atomic.remove_unfinished(folder)
            atomic.write_text(workdir / _CONFIG, config.to_json())
        except OSError as error:
            raise _unwritable(workdir, error) from error
        yield


def _unwritable(workdir: Path, error: OSError) -> WorkdirError:
    return WorkdirError(
        f"cannot write to workdir {workdir}: {error}. Give a folder that can be written"
    )


def _check(workdir: Path, config: TrainingConfig) -> None:
    described = workdir / _CONFIG
    if described.exists():
        before = _read(described, TrainingConfig.from_json)
        # Written once the data could be read: before it there is no run.
        began = (workdir / _RUN).exists()
        conflicts = before.conflicts(config)
        if began and conflicts:
            raise WorkdirError(
                f"{workdir} belongs to a run with other settings:\n  "
                + "\n  ".join(conflicts)
                + "\nGive the old settings to resume it, or another "
                "--workdir"
            )
    elif any(path.name != _LOCK for path in workdir.iterdir()):
        raise WorkdirError(
            f"{workdir} is not empty and holds no {_CONFIG}: it is not a "
            "workdir of a run. Give a new or empty folder"
        )


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except ConfigError:
        raise
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise WorkdirError(
            f"{path} is damaged ({error!r}). Bring it back from a copy, or give "
            "another --workdir"
        ) from error


def _locked(workdir: Path) -> TextIO:
    """The lock file, open and locked: the system unlocks it with our end."""
    file = (workdir / _LOCK).open("a+")
    try:
        if not filelock.lock_descriptor(file.fileno(), blocking=False):
            raise WorkdirError(
                f"{workdir} is in use by {_holder(file)}. Wait for that run, end it, "
                "or give another --workdir"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        return file.read().strip() or "a process that has just begun"
    except OSError:  # Windows lets nobody read what another has locked.
        return "another process"


def describe(
    workdir: Path,
    model: HydraNet,
    training: Faces,
    validation: Faces,
    start: Mapping[str, str] | None = None,
) -> None:
    """Writes what is needed to repeat the run; checks that it is the same.

    Args:
        workdir: of the run.
        model: what it trains.
        training, validation: its data.
        start: where the first weights came from; None for random ones.

    Raises:
        WorkdirError: if the run began with other data, or nothing can be
            written.
    """
    described = workdir / _RUN
    data = {
        split: {
            "examples": len(faces),
            "digest": faces.digest(),
            "skipped": [
                dataclasses.asdict(skipped)
                for skipped in (*faces.examples.skipped, *faces.bad)
            ],
        }
        for split, faces in (("train", training), ("validation", validation))
    }
    if described.exists():
        before = _read(described, _known_data)
        for split in data:
            examples, digest = before[split]
            if digest != data[split]["digest"]:
                raise WorkdirError(
                    f"the {split} part is not what this run began with "
                    f"({examples} examples then, {data[split]['examples']} "
                    "now): bring the old data back, or give another --workdir"
                )
        return
    run = {
        "hydranet_tf": __version__,
        "commit": _commit(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "keras_backend": keras.backend.backend(),
        "versions": _versions(),
        "data": data,
        "start": start,
    }
    try:
        atomic.write_text(workdir / "tasks.json", tasks.to_json(model.tasks))
        network = json.dumps(model.get_config(), indent=2)
        atomic.write_text(workdir / "model.json", network)
        atomic.write_text(workdir / _TRAINING_FACES, _table(training.examples))
        # Last: where it is, the others are.
        atomic.write_text(described, json.dumps(run, indent=2))
    except OSError as error:
        raise _unwritable(workdir, error) from error


def settings_of(workdir: Path) -> TrainingConfig | None:
    """The settings of the run in a workdir; None where the path is not a workdir.

    Raises:
        WorkdirError, ConfigError: if they cannot be read.
    """
    if not (workdir / _RUN).is_file():
        return None
    return _read(workdir / _CONFIG, TrainingConfig.from_json)


def _table(examples: Examples) -> str:
    names = [task.name for task in tasks.TASKS if task.name in examples.labels]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", *names])
    columns = [examples.labels[name].tolist() for name in names]
    writer.writerows(zip(map(name_of, examples.ids.tolist()), *columns, strict=True))
    return stream.getvalue()


def trained_on(workdir: Path, examples: Examples, source: str) -> np.ndarray | None:
    """Which examples the run in a workdir was trained on.

    A face is the same where its id is and no label differs: two data sets may both
    have a `1.jpg`.

    Args:
        workdir: of the run, or any folder or file.
        examples: n of one source.
        source: the name of that source, see `sources.listed`.

    Returns:
        Bool `[n]`, or None where that is not known: of exports, and of runs of earlier
        versions.

    Raises:
        WorkdirError: if the list is damaged.
    """
    path = workdir / _TRAINING_FACES
    if not path.is_file():
        return None
    known = _read(path, _known_faces)
    labels = {name: values.tolist() for name, values in examples.labels.items()}

    def is_known(number: int, name: str) -> bool:
        name = name_of(name)
        # Where two sources of a run use the same id, `sources.join` puts names before.
        face = known.get(name, known.get(f"{source}/{name}"))
        return face is not None and all(
            MISSING in (label, labels[task][number]) or label == labels[task][number]
            for task, label in face.items()
        )

    return np.array([is_known(*pair) for pair in enumerate(examples.ids.tolist())])


def _known_faces(text: str) -> dict[str, dict[str, float]]:
    rows = csv.DictReader(io.StringIO(text))
    return {
        row.pop("id"): {task: float(label) for task, label in row.items()}
        for row in rows
    }


def _known_data(text: str) -> dict[str, tuple[int, str]]:
    data = json.loads(text)["data"]
    return {
        split: (data[split]["examples"], data[split]["digest"])
        for split in ("train", "validation")
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of the code, with `+` where files were changed; None outside git."""
    here = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
