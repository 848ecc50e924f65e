"""Files, folders and patterns of pictures to rows, one a face.

Pictures are read and searched a few at a time and only their cut faces are
kept until a batch of pictures is answered, so that memory does not grow with
their number. Batches are answered here or by workers elsewhere; the rows are
the same, and one process alone writes them.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from hydranet_tf.data import reading
from hydranet_tf.data.detection import DetectionError
from hydranet_tf.inference import runtimes
from hydranet_tf.inference.predictor import Face, Found, PictureError, Predictor
from hydranet_tf.photos import annotation, lines, rows, sharded
from hydranet_tf.photos.rows import FAILED, NO_FACE, OK, UNREADABLE

_ENDINGS = (".jpg", ".jpeg", ".png")
# Each holds one decoded picture.
_READERS = 4
# More do not fit next to the codes that shells and absl use.
MOST_IN_EXIT_CODE = 100

# Who answers: this process, or workers that Ray starts.
LOCAL, RAY = "local", "ray"


class PhotographsError(ValueError):
    """Pictures or folders that cannot be used; the message says why."""


# What wrong paths and wrong models raise; each says what to do.
ERRORS = (
    PhotographsError,
    rows.RowsError,
    sharded.ShardError,
    runtimes.LoadError,
)


@dataclasses.dataclass(frozen=True)
class Summary:
    """How the pictures of an output ended, those of earlier runs included.

    Attributes:
        statuses: pictures by status: ok, no_face, unreadable, failed.
        faces: rows of faces.
        output: the file of rows; None where they were printed.
    """

    statuses: Mapping[str, int]
    faces: int
    output: Path | None

    @property
    def unreadable(self) -> int:
        """Pictures without an answer for a reason other than having no face."""
        return self.statuses.get(UNREADABLE, 0) + self.statuses.get(FAILED, 0)

    @property
    def exit_code(self) -> int:
        """The number of unreadable pictures, 100 standing for more."""
        return min(self.unreadable, MOST_IN_EXIT_CODE)

    def __str__(self) -> str:
        text = (
            f"pictures: {sum(self.statuses.values()):,}, faces: {self.faces:,}, "
            f"pictures without a face: {self.statuses.get(NO_FACE, 0):,}, "
            f"unreadable: {self.unreadable:,}"
        )
        return text if self.output is None else f"{text}; rows in {self.output}"


def predict(
    paths: Sequence[str],
    model: Predictor | str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    *,
    detect: bool = True,
    annotate: str | os.PathLike | None = None,
    batch_size: int = 32,
    runner: str = LOCAL,
) -> Summary:
    """Answers for every face of many pictures: printed, or appended to a file of rows.

    Args:
        paths: files, folders and patterns; see `pictures`.
        model: a predictor, or what names a model for one; None is the released one.
        output: a .csv or .jsonl file. Pictures that it has whole rows of are
            skipped, so a run that was broken off goes on. None prints a line a face.
        detect: with a path: whether to search faces, or take pictures as they
            are.
        annotate: folder for pictures with boxes and answers; of pictures that are
            answered now.
        batch_size: pictures that are answered at once.
        runner: `LOCAL` or `RAY`. With the latter the model is a path, and every
            machine finds it and the pictures under the names they have here.

    Raises:
        PhotographsError: if there is nothing to read.
        face_rows.RowsError: if the output cannot be used.
        runtimes.LoadError: if there is no whole model.
        sharded.ShardError: if `RAY` is not there or its workers die.
    """
    files = pictures(paths, annotate)
    targets = _targets(files, annotate)
    with _rows_of(output, files) as rows:
        left = [file for file in files if file not in rows.finished]
        undrawn = [f for f in rows.finished if f in targets and not targets[f].exists()]
        if undrawn:
            logging.warning(
                "%d pictures have their rows already and are not drawn, the first %s: "
                "name another --output to have them answered again",
                len(undrawn), min(undrawn),
            )  # fmt: skip
        batches = [
            [
                _Picture(file, _absolute(file), targets.get(file))
                for file in left[start : start + batch_size]
            ]
            for start in range(0, len(left), batch_size)
        ]
        # A name of the package's own networks is the same everywhere.
        if runner == RAY and model is not None and os.path.exists(model):
            model = _absolute(model)
        make = functools.partial(_Answering, model, detect)
        try:
            with tqdm(
                total=len(files), initial=len(files) - len(left),
                desc="predicting", unit="img", disable=None,
            ) as bar:  # fmt: skip
                for answered in _results(make, batches, runner):
                    rows.add(answered)
                    bar.update(len({row["file"] for row in answered}))
        except OSError as error:
            place = error.filename or rows.path or "standard output"
            raise PhotographsError(
                f"cannot write to {place}: {error.strerror}. "
                "What is written stays; the same command goes on from there"
            ) from error
        return Summary(dict(rows.statuses), rows.faces, rows.path)


def _rows_of(
    output: str | os.PathLike | None, files: Sequence[str]
) -> lines.Lines | rows.Rows:
    return lines.Lines() if output is None else rows.Rows(output, files)


class _Picture(NamedTuple):
    """One of a batch.

    Attributes:
        file: its name in the rows.
        path: where it is, for a worker in whatever folder.
        target: where it goes with boxes and answers, if anywhere.
    """

    file: str
    path: str
    target: Path | None


class _Answering:
    """Answers batches; made once in every process that answers."""

    def __init__(self, model: Predictor | str | os.PathLike | None, detect: bool):
        if not isinstance(model, Predictor):
            model = Predictor(model) if detect else Predictor(model, None)
        self._model = model

    def __call__(self, batch: Sequence[_Picture]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda one: _find(self._model, one.path), batch))
        rows = []
        for one, faces in zip(batch, _answer(self._model, found), strict=True):
            if one.target and not isinstance(faces, str):
                _draw(one, faces)
            rows += rows_of(one.file, faces)
        return rows


def _draw(picture: _Picture, faces: Sequence[Face]) -> None:
    # Read once more, rather than kept: a batch of photographs would fill gigabytes.
    try:
        image = reading.read(picture.path).image
    except PictureError as error:
        # A pipe, or a file that went away since: its answers are there all the same.
        logging.warning("%s is not drawn: %s", picture.file, error)
        return
    annotation.write(image, faces, picture.target)


def _results(
    make: Callable[[], _Answering], batches: Sequence[Sequence[_Picture]], runner: str
) -> Iterator[list[dict[str, Any]]]:
    # What is done needs no model and no workers.
    if not batches:
        return iter(())
    return sharded.results(make, batches) if runner == RAY else map(make(), batches)


def _absolute(path: str | os.PathLike) -> str:
    """For processes in another folder; symbolic links stay what they are."""
    return os.path.join(os.getcwd(), os.path.expanduser(path))


def pictures(
    paths: Sequence[str], annotate: str | os.PathLike | None = None
) -> list[str]:
    """The files that some paths name, each once.

    Args:
        paths: a file, whatever its ending; a folder, of which all .jpg, .jpeg
            and .png files at any depth are taken; or a pattern with * ? [].
        annotate: a folder whose pictures were drawn here and do not count.

    Raises:
        PhotographsError: if a path leads to no picture.
    """
    drawn = None if annotate is None else os.path.realpath(annotate)
    found: dict[str, None] = {}
    empty = []
    for path in paths:
        some = [
            file
            for file in _expand(os.path.expanduser(path))
            if not drawn or not _is_below(file, drawn)
        ]
        if not some:
            empty.append(path)
        found.update(dict.fromkeys(os.path.normpath(file) for file in some))
    if empty or not found:
        raise PhotographsError(
            "expected files, folders with .jpg, .jpeg or .png files, or patterns; "
            f"there is no picture at {', '.join(map(str, empty)) or 'no path at all'}"
        )
    return list(found)


def _expand(path: str) -> Iterator[str]:
    # A name may hold characters of patterns, so what exists comes first.
    if os.path.isdir(path):
        for folder, inner, names in os.walk(path):
            inner.sort()
            for name in sorted(names):
                if name.lower().endswith(_ENDINGS):
                    yield os.path.join(folder, name)
    elif os.path.lexists(path):
        yield path
    else:
        for match in sorted(glob.glob(path, recursive=True)):
            # A folder in a pattern stands for its pictures.
            yield from _expand(match)


def _is_below(file: str, folder: str) -> bool:
    return os.path.commonpath([os.path.realpath(file), folder]) == folder


def _targets(
    files: Sequence[str], annotate: str | os.PathLike | None
) -> dict[str, Path]:
    """Where the drawn picture of each file goes: no two to one place."""
    if annotate is None:
        return {}
    absolute = [os.path.abspath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(file) for file in absolute])
    folder = Path(_absolute(annotate))
    targets = {}
    for file, path in zip(files, absolute, strict=True):
        name = os.path.relpath(path, common)
        if not name.lower().endswith(_ENDINGS):
            name += ".png"
        targets[file] = folder / name
        if os.path.realpath(targets[file]) == os.path.realpath(path):
            raise PhotographsError(
                f"--annotate={annotate} would write over {file}: name another folder"
            )
    return targets


def _find(model: Predictor, file: str) -> Found | str:
    """The faces of a file, or the status that tells why there are none."""
    try:
        return model.find(file)
    except PictureError as error:
        return f"{UNREADABLE}: {error}"
    except DetectionError as error:
        return f"{FAILED}: {error}"


def _answer(
    model: Predictor, found: Sequence[Found | str]
) -> Iterator[list[Face] | str]:
    answers = iter(model.answer([one for one in found if isinstance(one, Found)]))
    for one in found:
        yield one if isinstance(one, str) else next(answers)


def rows_of(file: str, faces: list[Face] | str) -> list[dict[str, Any]]:
    if isinstance(faces, str):
        return [rows.row(file, " ".join(faces.split()))]
    if not faces:
        return [rows.row(file, NO_FACE)]
    return [
        rows.row(file, OK, face=number, **_values(face))
        for number, face in enumerate(faces)
    ]


def _values(face: Face) -> dict[str, Any]:
    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    values: dict[str, Any] = {"detection_score": rounded(face.detection_score, 4)}
    for name, answer in face.answers.items():
        values[name] = answer if isinstance(answer, str) else rounded(answer, 2)
    if face.box:
        places = ("left", "top", "right", "bottom")
        values |= dict(zip(places, face.box, strict=True))
    for shares in face.probabilities.values():
        values |= {f"p_{name}": rounded(p, 6) for name, p in shares.items()}
    return values
