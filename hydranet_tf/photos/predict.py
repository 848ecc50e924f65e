"""Files, folders and patterns of pictures to rows, one a face.

Pictures are read and searched a few at a time and only their cut faces are
kept until a batch of pictures is predicted, so that memory does not grow with
their number. Batches are predicted here or by workers elsewhere; the rows are
the same, and one process alone writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image
from tqdm import tqdm

from hydranet_tf.data import detection, reading
from hydranet_tf.data.detection import DetectionError, Detector
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.predictor import Face, Found, PictureError, Predictor
from hydranet_tf.inference.table import (
    FAILED,
    UNREADABLE,
    name_of,
    rows_of,
)
from hydranet_tf.photos import annotation, collecting, rows, sharded
from hydranet_tf.photos.rows import STANDARD_INPUT

# Each holds one decoded picture.
_READERS = 4

# What predicts: this process, or workers that Ray starts.
LOCAL, RAY = "local", "ray"


# Files are drawn in their own format where it is one of these.
_DRAWN_ENDINGS = (".jpg", ".jpeg", ".png")


class PhotographsError(HydraNetError, ValueError):
    """Folders or files that cannot be written; the message says why."""


@dataclasses.dataclass(frozen=True)
class Summary(rows.Counted):
    """How the pictures of an output ended, those of earlier runs included.

    Attributes:
        statuses: pictures by status: ok, no_face, unreadable, failed.
        faces: rows of faces.
        output: the file of rows; None where they were printed.
        partial: pictures that were read in part: truncated or damaged files.
        closed: folders that could not be looked into.
        notes: what else there is to say, a line each.
    """

    statuses: Mapping[str, int]
    faces: int
    output: Path | None
    partial: int = 0
    closed: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = self.total("pictures", f"faces: {self.faces:,}")
        return "\n".join([*self.notes, text])


def predict(
    paths: Sequence[str],
    model: Predictor | str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    *,
    detector: Detector | None = detection.find_faces,
    annotate: str | os.PathLike | None = None,
    save_crops: str | os.PathLike | None = None,
    bom: bool = False,
    batch_size: int = 32,
    runner: str = LOCAL,
    engine: str = "auto",
) -> Summary:
    """Predicts for every face of many pictures: printed, or appended to a file of rows.

    Args:
        paths: files, folders, patterns, `-`; see `collecting.collect`.
        model: a predictor, or what names a model for one; None is the released one.
        output: a .csv or .jsonl file. Pictures that it has whole rows of are
            skipped, so a run that was broken off goes on; those that could not be read
            are tried again. None prints a line a face.
        detector: with a path: what finds the faces, for example a
            `detection.FaceFinder` with other settings. None takes pictures as they are.
        annotate: folder for pictures with boxes and predictions; of pictures that are
            predicted now.
        save_crops: folder for the faces as the network sees them, of the same pictures:
            `NAME_0.png` and so on.
        bom: see `rows.Rows`.
        batch_size: pictures that are predicted at once.
        runner: `LOCAL` or `RAY`. With the latter the model is a path, and every
            machine finds it and the pictures under the names they have here.
        engine: what runs the file of a model; see `runtimes.load`.

    Raises:
        collecting.PathsError: if there is nothing to read.
        PhotographsError: if something cannot be written.
        rows.RowsError: if the output cannot be used.
        runtimes.LoadError: if there is no whole model.
        sharded.ShardError: if `RAY` is not there or its workers die.
    """
    own = [folder for folder in (annotate, save_crops) if folder is not None]
    collected = collecting.collect(paths, own)
    files = collected.files
    drawn = _targets(files, annotate, "--annotate")
    crops = _targets(files, save_crops, "--save_crops")
    # A name of the package's own networks is the same everywhere.
    if runner == RAY and model is not None and os.path.exists(model):
        model = _absolute(model)
    make = functools.partial(_Predicting, model, detector, engine)
    written = _output(output, files, bom)
    try:
        with written as rows:
            left = [file for file in files if name_of(file) not in rows.finished]
            _warn_of_undrawn(set(files).difference(left), drawn, crops)
            pictures = (
                _Picture(file, _source(file), drawn.get(file), crops.get(file))
                for file in left
            )
            batches = [
                list(itertools.islice(pictures, batch_size))
                for _ in range(0, len(left), batch_size)
            ]
            with tqdm(
                total=len(files), initial=len(files) - len(left),
                desc="predicting", unit="img", disable=None,
            ) as bar:  # fmt: skip
                for predicted in _results(make, batches, runner):
                    rows.add(predicted)
                    bar.update(len({row["file"] for row in predicted}))
    except OSError as error:
        place = error.filename or written.path or "standard output"
        raise PhotographsError(
            f"cannot write to {place}: {error.strerror}. "
            "What is written stays; the same command goes on from there"
        ) from error
    notes = []
    if collected.left_out:
        notes.append(collected.describe_left_out())
    if collected.closed:
        notes.append(collected.describe_closed())
    outcomes = written.outcomes
    return Summary(
        dict(outcomes.statuses), outcomes.faces, written.path, outcomes.partial,
        len(collected.closed), tuple(notes),
    )  # fmt: skip


def _output(
    output: str | os.PathLike | None, files: Sequence[str], bom: bool
) -> rows.Lines | rows.Rows:
    if output is None:
        return rows.Lines()
    return rows.Rows(output, files, bom=bom)


def _warn_of_undrawn(finished: Collection[str], *targets: Mapping[str, Path]) -> None:
    undrawn = [
        file
        for file in finished
        if any(file in some and not some[file].exists() for some in targets)
    ]
    if undrawn:
        logging.warning(
            "%d pictures have their rows already and are not drawn, the first %s: "
            "name another --output to have them predicted again",
            len(undrawn), min(undrawn),
        )  # fmt: skip


class _Picture(NamedTuple):
    """One of a batch.

    Attributes:
        file: its name in the rows.
        source: where it is, for a worker in whatever folder, or its bytes.
        drawn: where it goes with boxes and predictions, if anywhere.
        crops: where its faces go, if anywhere: the beginning of their names.
    """

    file: str
    source: str | bytes
    drawn: Path | None
    crops: Path | None


def _source(file: str) -> str | bytes:
    # There is one process that has standard input, and it has it once.
    return sys.stdin.buffer.read() if file == STANDARD_INPUT else _absolute(file)


class _Predicting:
    """Predicts batches; made once in every process that predicts."""

    def __init__(
        self,
        model: Predictor | str | os.PathLike | None,
        detector: Detector | None,
        engine: str,
    ):
        if not isinstance(model, Predictor):
            model = Predictor(model, detector, engine=engine)
        self._model = model

    def __call__(self, batch: Sequence[_Picture]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda one: _find(self._model, one.source), batch))
        rows = []
        predictions = _predict(self._model, found)
        for one, cut, faces in zip(batch, found, predictions, strict=True):
            if isinstance(cut, str):
                rows += rows_of(one.file, cut)
                continue
            if one.drawn:
                _draw(one, faces)
            if one.crops:
                _save_crops(one.crops, cut.crops)
            rows += rows_of(one.file, faces, cut.damage)
        return rows


def _draw(picture: _Picture, faces: Sequence[Face]) -> None:
    # Read once more, rather than kept: a batch of photographs would fill gigabytes.
    try:
        image = reading.read(picture.source).image
    except PictureError as error:
        # A pipe, or a file that went away since: its predictions are there anyway.
        logging.warning("%s is not drawn: %s", picture.file, error)
        return
    annotation.write(image, faces, picture.drawn)


def _save_crops(target: Path, crops: Sequence[np.ndarray]) -> None:
    """As the network saw them: aligned, at its size, RGB."""
    if len(crops):
        target.parent.mkdir(parents=True, exist_ok=True)
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(target.with_name(f"{target.name}_{number}.png"))


def _results(
    make: Callable[[], _Predicting], batches: Sequence[Sequence[_Picture]], runner: str
) -> Iterator[list[dict[str, Any]]]:
    # What is done needs no model and no workers.
    if not batches:
        return iter(())
    return sharded.results(make, batches) if runner == RAY else map(make(), batches)


def _absolute(path: str | os.PathLike) -> str:
    """For processes in another folder; symbolic links stay what they are."""
    return os.path.join(os.getcwd(), os.path.expanduser(path))


def _targets(
    files: Sequence[str], folder: str | os.PathLike | None, flag: str
) -> dict[str, Path]:
    """Where what is made of each file goes: no two to one place.

    Raises:
        PhotographsError: if one would be written over a picture.
    """
    if folder is None:
        return {}
    absolute = [os.path.abspath(f) for f in files if f != STANDARD_INPUT]
    common = os.path.commonpath([os.path.dirname(file) for file in absolute] or ["/"])
    targets = {}
    for file in files:
        path = os.path.abspath(file)
        name = os.path.relpath(path, common)
        if file == STANDARD_INPUT:
            name = "standard_input"
        if flag == "--annotate" and not name.lower().endswith(_DRAWN_ENDINGS):
            name += ".png"
        targets[file] = Path(_absolute(folder)) / name
        if os.path.realpath(targets[file]) == os.path.realpath(path):
            raise PhotographsError(
                f"{flag}={folder} would write over {file}: name another folder"
            )
    return targets


def _find(model: Predictor, source: str | bytes) -> Found | str:
    """The faces of a picture, or the status that tells why there are none."""
    try:
        return model.find(source)
    except PictureError as error:
        return f"{UNREADABLE}: {error}"
    except DetectionError as error:
        return f"{FAILED}: {error}"


def _predict(
    model: Predictor, found: Sequence[Found | str]
) -> Iterator[list[Face] | str]:
    predictions = iter(model.predict([one for one in found if isinstance(one, Found)]))
    for one in found:
        yield one if isinstance(one, str) else next(predictions)
