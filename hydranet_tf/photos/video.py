"""Films and cameras to rows, one a track: a face that is followed through frames.

Every frame is searched once, and what is found in it goes to a log beside the table.
Tracks, rows and the annotated film are made from the log when all frames are in it, so
a run that was broken off gives the same table as one that was not. Neither frames nor
faces of more than a batch are kept in memory.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import glob
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging
from tqdm import tqdm

from hydranet_tf import __version__
from hydranet_tf.data import detection
from hydranet_tf.data.detection import DetectionError, Detector
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.predictor import Face, Found, Predictor
from hydranet_tf.inference.table import FAILED, NO_FACE, OK, UNREADABLE, name_of, row
from hydranet_tf.photos import annotation, collecting, rows, tracks
from hydranet_tf.photos.collecting import PathsError
from hydranet_tf.photos.frames import Film, FilmError, Frame, is_film
from hydranet_tf.photos.tracks import FrameLog, Seen, SeenFrame

# Each holds one frame.
_READERS = 4
_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
_UNFINISHED = ".unfinished"
# Plays everywhere but in browsers: OpenCV's wheels bring no encoder of H.264.
_CODEC, _FILM_ENDING = "mp4v", ".mp4"


class VideoError(HydraNetError, ValueError):
    """A command for films that cannot be done; the message says why."""


@dataclasses.dataclass(frozen=True)
class Summary(rows.Counted):
    """How the films of an output ended, those of earlier runs included.

    Attributes:
        statuses: films by status: ok, no_face, unreadable, failed.
        tracks: rows of tracks.
        output: the file of rows; None where they were printed.
        partial: films that were read in part.
        drawn: annotated films that were written.
    """

    statuses: Mapping[str, int]
    tracks: int
    output: Path | None
    partial: int
    drawn: tuple[Path, ...] = ()

    def __str__(self) -> str:
        text = self.total("films", f"tracks: {self.tracks:,}")
        return "\n".join([*(f"annotated film: {path}" for path in self.drawn), text])


@dataclasses.dataclass(frozen=True)
class _Source:
    """A film or a camera.

    Attributes:
        name: in the rows.
        address: what OpenCV opens.
        is_camera: whether it can be read once.
        drawn: where the annotated film goes, if anywhere.
    """

    name: str
    address: str
    is_camera: bool
    drawn: Path | None


def films_of(paths: Sequence[str]) -> list[str]:
    """The films that a command names: files and patterns; none if it names pictures.

    Raises:
        PathsError: if it names both: their tables have other columns.
    """
    found = list(dict.fromkeys(itertools.chain(*map(_named, paths))))
    films = [path for path in found if is_film(path)]
    others = [path for path in found if path not in films]
    if films and others:
        raise PathsError(
            "expected films or pictures, not both in one command: their tables have "
            f"other columns; got the film {films[0]} and {others[0]}"
        )
    return films


def _named(path: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.lexists(path) or not collecting.is_pattern(path):
        return [path]
    return [os.path.normpath(match) for match in collecting.matches(path)]


def predict(
    films: Sequence[str],
    model: Predictor | str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    *,
    camera: str | None = None,
    frames: str | os.PathLike | None = None,
    frame_step: int = 1,
    detector: Detector = detection.find_faces,
    annotate: str | os.PathLike | None = None,
    bom: bool = False,
    batch_size: int = 32,
    engine: str = "auto",
) -> Summary:
    """Predicts for every face that is followed through a film: a row a track.

    Args:
        films: paths.
        model: a predictor, or what names a model for one; None is the released one.
        output: a .csv or .jsonl file. Films that it has rows of are skipped, and one
            that was broken off goes on at its frame. None prints a line a track.
        camera: in the place of films: the number of one, or an address, read until it
            ends or Ctrl-C is pressed. Its rows have the time in their name.
        frames: another .csv or .jsonl file, for a row a face of every frame.
        frame_step: every so many frames one is searched.
        detector: see `Predictor`.
        annotate: folder for the films with boxes and predictions drawn into them.
        bom: see `rows.Rows`.
        batch_size: frames that are predicted at once.
        engine: see `Predictor`.

    Raises:
        ImportError: if the extra `video` is not installed.
        VideoError: if something cannot be written.
        FilmError: if there is no such camera.
        rows.RowsError: if an output cannot be used.
        runtimes.LoadError: if there is no whole model.
    """
    # Said before an hour of frames, not after.
    import trackers  # noqa: F401

    sources = _sources(films, camera, annotate)
    if frames is not None and output is None:
        raise VideoError("expected --output beside --frames: the rows of the tracks")
    settings = {
        "version": __version__, "model": _named_model(model), "engine": engine,
        "detector": repr(detector), "frame_step": frame_step,
        "tasks": list(tracks.TASK_COLUMNS),
    }  # fmt: skip
    run = _Run(model, detector, engine, frame_step, batch_size, settings)
    try:
        with contextlib.ExitStack() as stack:
            # A log that is there belongs to a film whose rows may be unfinished.
            run.folder, run.prefix = _log_place(output, stack)
            unfinished = [s.name for s in sources if run.log_path(s).exists()]
            run.table = stack.enter_context(_table(output, unfinished, bom))
            if frames is not None:
                _check_other(output, frames)
                run.frame_table = stack.enter_context(
                    rows.Rows(frames, unfinished, bom=bom, columns=tracks.FRAME_COLUMNS)
                )
            if output is not None:
                run.recover_recordings()
            for source in sources:
                if source.name in unfinished or not run.has_rows(source.name):
                    run.film(source)
                elif source.drawn and not source.drawn.exists():
                    logging.warning(
                        "%s has its rows already and is not drawn: name another "
                        "--output to have it searched again", source.name,
                    )  # fmt: skip
    except OSError as error:
        place = error.filename or output or "standard output"
        raise VideoError(
            f"cannot write to {place}: {error.strerror}. "
            "What is written stays; the same command goes on from there"
        ) from error
    outcomes = run.table.outcomes
    return Summary(
        dict(outcomes.statuses), outcomes.faces, run.table.path, outcomes.partial,
        tuple(run.drawn),
    )  # fmt: skip


def _sources(
    films: Sequence[str], camera: str | None, annotate: str | os.PathLike | None
) -> list[_Source]:
    folder = None if annotate is None else Path(annotate).expanduser()
    if camera is not None:
        if films:
            raise PathsError(f"expected a camera or films; got --camera and {films[0]}")
        # To the second: two recordings of a camera are two films.
        now = datetime.datetime.now().isoformat(" ", "seconds")
        name = f"camera {camera} {now}"
        file = f"camera {now}{_FILM_ENDING}".replace(":", "-")
        return [_Source(name, camera, True, folder and folder / file)]
    found: dict[Path, str] = {}
    sources = []
    for film in films:
        drawn = None
        if folder:
            drawn = folder / (os.path.splitext(os.path.basename(film))[0] + ".mp4")
            if drawn in found or os.path.realpath(drawn) == os.path.realpath(film):
                other = found.get(drawn, film)
                raise VideoError(
                    f"--annotate={annotate} would write over {other} for {film}: draw "
                    "them in another folder, by another command"
                )
            found[drawn] = film
        sources.append(_Source(name_of(film), film, False, drawn))
    return sources


def _named_model(model: Any) -> Any:
    """What tells a model from another: its name, and when its file was made."""
    if model is None or isinstance(model, Predictor):
        return model and "a Predictor"
    made = os.stat(model).st_mtime_ns if os.path.exists(model) else None
    return [os.fspath(model), made]


def _check_other(output: Any, frames: Any) -> None:
    if os.path.realpath(output) == os.path.realpath(frames):
        raise VideoError(f"expected another file for --frames than --output, {output}")


def _log_place(
    output: str | os.PathLike | None, stack: contextlib.ExitStack
) -> tuple[Path, str]:
    """The folder and the beginning of the names of logs."""
    if output is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory())), "log"
    path = Path(output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent, path.name


def _table(
    output: str | os.PathLike | None, unfinished: Sequence[str], bom: bool
) -> rows.Lines | rows.Rows:
    if output is None:
        return rows.Lines(line=line)
    return rows.Rows(output, unfinished, bom=bom, columns=tracks.COLUMNS)


class _Run:
    """One call of `predict`: its model, loaded when there is a frame, and its outputs.

    Attributes:
        table, frame_table: where rows go.
        folder, prefix: where logs lie, and how their names begin.
        drawn: annotated films that were written.
    """

    table: rows.Lines | rows.Rows
    frame_table: rows.Rows | None = None
    folder: Path
    prefix: str

    def __init__(
        self,
        model: Predictor | str | os.PathLike | None,
        detector: Detector,
        engine: str,
        frame_step: int,
        batch_size: int,
        settings: Mapping[str, Any],
    ):
        self._model, self._detector, self._engine = model, detector, engine
        self._frame_step, self._batch_size = frame_step, batch_size
        self._settings = settings
        self.drawn: list[Path] = []

    def log_path(self, source: _Source) -> Path:
        # Names of films may be alike, and longer than those of files.
        digest = hashlib.sha256(source.name.encode()).hexdigest()[:8]
        return self.folder / f"{self.prefix}-{digest}{_UNFINISHED}"

    def has_rows(self, name: str) -> bool:
        """Whether all tables have those that another run would not better."""
        found = [self.table, *([self.frame_table] if self.frame_table else [])]
        return all(
            name in one.outcomes and one.outcomes[name].is_final for one in found
        )

    def film(self, source: _Source) -> None:
        """Searches a film or a camera, and writes what was found."""
        header = {"film": source.name, **self._settings}
        if source.is_camera:
            header["camera"] = source.address
        else:
            with contextlib.suppress(OSError):
                status = os.stat(source.address)
                header |= {"size": status.st_size, "changed": status.st_mtime_ns}
        with FrameLog(self.log_path(source), header) as log:
            if log.started_anew:
                logging.warning(
                    "%s begins anew: it changed, or the command did, since it was "
                    "broken off", source.name,
                )  # fmt: skip
            try:
                self._search(source, log)
            except FilmError as error:
                if source.is_camera:
                    log.delete()
                    raise
                self._no_rows(source.name, f"{UNREADABLE}: {error}")
            except DetectionError as error:
                self._no_rows(source.name, f"{FAILED}: {error}")
            else:
                self._write(source, log, log.rate / self._frame_step)
            log.delete()

    def recover_recordings(self) -> None:
        """Writes the rows of cameras whose command was killed: none comes again."""
        for path in sorted(self.folder.glob(f"{glob.escape(self.prefix)}-*")):
            header = tracks.log_header(path) if path.suffix == _UNFINISHED else {}
            if "camera" not in header:
                continue
            source = _Source(header["film"], header["camera"], True, None)
            with FrameLog(path, header) as log:
                if log.next_frame:
                    self._write(source, log, log.rate / header["frame_step"])
                    logging.warning(
                        "%s was broken off; its rows are written now", source.name
                    )
                log.delete()

    def _no_rows(self, name: str, status: str) -> None:
        status = " ".join(status.split())
        self.table.add([row(name, status, tracks.COLUMNS)])
        if self.frame_table:
            self.frame_table.add([row(name, status, tracks.FRAME_COLUMNS)])

    def _search(self, source: _Source, log: FrameLog) -> None:
        """Searches the frames that are not in the log."""
        if log.is_complete:
            return
        with Film(source.address, is_camera=source.is_camera) as film:
            log.begin(film.rate)
            model = self._predictor()
            # A camera shows what it sees now.
            size = 1 if source.is_camera else self._batch_size
            with contextlib.ExitStack() as stack:
                writer = None
                if source.is_camera and source.drawn:
                    writer = stack.enter_context(_Writer(source.drawn, film.rate))
                    live = _Live(film.rate)
                bar = stack.enter_context(
                    tqdm(
                        total=film.length,
                        initial=log.next_frame,
                        desc=source.name,
                        unit="frame",
                        disable=None,
                    )  # fmt: skip
                )
                frames = film.frames(log.next_frame, self._frame_step)
                found = _searched(frames, model, source.is_camera)
                if source.is_camera:
                    stack.enter_context(contextlib.suppress(KeyboardInterrupt))
                while batch := list(itertools.islice(found, size)):
                    seen = _predicted(model, batch)
                    following = batch[-1][0].number + self._frame_step
                    log.add(seen, following)
                    bar.update(following - bar.n)
                    if writer:
                        writer.add(live.drawn(batch[0][0], seen[0]))
            if not log.next_frame:
                raise FilmError("no frame of it can be read")
            # Of a camera that Ctrl-C stopped as well.
            log.complete(film.damage)

    def _predictor(self) -> Predictor:
        if not isinstance(self._model, Predictor):
            self._model = Predictor(self._model, self._detector, engine=self._engine)
        return self._model

    def _write(self, source: _Source, log: FrameLog, rate: float) -> None:
        found = tracks.Tracks()
        for frame, numbers in tracks.follow(log.frames(), rate):
            found.add(frame, numbers)
        reason = f": {rows.TRUNCATED}: {log.damage}" if log.damage else ""
        if source.drawn:
            if not source.is_camera:
                self._draw(source, log, rate, found)
            self.drawn.append(source.drawn)
        if self.frame_table:
            self._write_frames(self.frame_table, source.name, log, rate, reason)
        self.table.add(
            [
                track.row(source.name, number, f"{OK}{reason}")
                for number, track in sorted(found.items())
            ]
            or [row(source.name, f"{NO_FACE}{reason}", tracks.COLUMNS)]
        )

    def _write_frames(
        self, table: rows.Rows, name: str, log: FrameLog, rate: float, reason: str
    ) -> None:
        every = itertools.chain.from_iterable(
            tracks.frame_rows(name, frame, numbers, reason)
            for frame, numbers in tracks.follow(log.frames(), rate)
        )
        first = next(every, None) or row(
            name, f"{NO_FACE}{reason}", tracks.FRAME_COLUMNS
        )
        table.add([first])
        table.extend(every)

    def _draw(
        self, source: _Source, log: FrameLog, rate: float, found: tracks.Tracks
    ) -> None:
        assert source.drawn
        means = {number: track.mean() for number, track in found.items()}
        with (
            Film(source.address) as film,
            _Writer(source.drawn, rate) as writer,
            tqdm(desc="drawing", unit="frame", disable=None) as bar,
        ):
            pairs = zip(
                film.frames(step=self._frame_step),
                tracks.follow(log.frames(), rate),
                strict=False,
            )
            for frame, (seen, numbers) in pairs:
                writer.add(_drawn(frame.image, seen, numbers, means))
                bar.update()


def _searched(
    frames: Iterator[Frame], model: Predictor, is_live: bool
) -> Iterator[tuple[Frame, Found]]:
    """Frames with their faces, in order.

    Args:
        frames: of a film or a camera.
        model: finds the faces.
        is_live: whether each frame is searched before the next is read, and keeps its
            pixels. Otherwise some are searched side by side, and let go of theirs.
    """
    most = 1 if is_live else _READERS
    with ThreadPoolExecutor(most) as pool:
        under_way: collections.deque[tuple[Frame, Future[Found]]] = collections.deque()
        for frame in frames:
            kept = frame if is_live else frame._replace(image=_NO_IMAGE)
            under_way.append((kept, pool.submit(model.find, frame.image)))
            if len(under_way) >= most:
                yield _done(*under_way.popleft())
        while under_way:
            yield _done(*under_way.popleft())


def _done(frame: Frame, found: Future[Found]) -> tuple[Frame, Found]:
    return frame, found.result()


def _predicted(
    model: Predictor, batch: Sequence[tuple[Frame, Found]]
) -> list[SeenFrame]:
    predictions = model.predict([found for _, found in batch])
    return [
        SeenFrame(frame.number, frame.seconds, tuple(map(Seen.of, faces)))
        for (frame, _), faces in zip(batch, predictions, strict=True)
    ]


def _drawn(
    image: np.ndarray,
    frame: SeenFrame,
    numbers: Sequence[int | None],
    means: Mapping[int, Seen],
) -> np.ndarray:
    """A frame with the predictions of whole tracks at the faces."""
    faces: list[Face] = []
    names = []
    for seen, number in zip(frame.faces, numbers, strict=True):
        if number is not None:
            mean = dataclasses.replace(means[number], box=seen.box)
            faces.append(mean.face())
            names.append(f"{number}")
    return annotation.drawn(image, faces, names)


class _Live:
    """Follows the faces of a camera as they come, for its film."""

    def __init__(self, rate: float):
        self._queue: collections.deque[SeenFrame] = collections.deque()
        self._found = tracks.Tracks()
        self._following = tracks.follow(self._frames(), rate)

    def _frames(self) -> Iterator[SeenFrame]:
        while True:
            yield self._queue.popleft()

    def drawn(self, frame: Frame, seen: SeenFrame) -> np.ndarray:
        """With the means of the frames so far."""
        self._queue.append(seen)
        seen, numbers = next(self._following)
        self._found.add(seen, numbers)
        means = {n: self._found[n].mean() for n in numbers if n is not None}
        return _drawn(frame.image, seen, numbers, means)


class _Writer:
    """A film that has its name once it is whole."""

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, rate
        self._part = path.with_name(f".{path.stem}{_UNFINISHED}{_FILM_ENDING}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> _Writer:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, image: np.ndarray) -> None:
        """The next frame; all have the size of the first."""
        height, width = image.shape[:2]
        # The codec has four pixels for each of its two colours.
        image = image[: height // 2 * 2, : width // 2 * 2]
        if self._writer is None:
            self._writer = cv2.VideoWriter(
                str(self._part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*_CODEC),
                self._rate, image.shape[1::-1],
            )  # fmt: skip
            if not self._writer.isOpened():
                raise VideoError(f"cannot write a film to {self._path}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind in (None, KeyboardInterrupt):
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def line(found: Mapping[str, Any]) -> str:
    """`clip.mp4: track 0, 0.0 to 3.2 s, 80 frames: 31 years, female 97 %, ...`.

    Args:
        found: a row of `tracks.COLUMNS`.
    """
    name, kind = rows.named(found)
    if kind == NO_FACE:
        return f"{name}: no face found"
    if kind != OK:
        return f"{name}: {found['status']}"
    return (
        f"{name}: track {found['track']}, {found['start']:.1f} to {found['end']:.1f} "
        f"s, {found['frames']} frames: {rows.predictions_of(found)}"
    )
