"""Faces of a film, followed from frame to frame, and what is predicted of each."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hydranet_tf.inference.predictor import Face
from hydranet_tf.inference.table import PLACE, TASK_COLUMNS, row, values_of
from hydranet_tf.tasks import TASKS

# Of a table of films, a row a track; and a row a face of a frame.
COLUMNS: tuple[str, ...] = (
    "file", "track", "frames", "first_frame", "last_frame", "start", "end",
    "largest_frame", *PLACE, "detection_score", *TASK_COLUMNS, "status",
)  # fmt: skip
FRAME_COLUMNS: tuple[str, ...] = (
    "file", "frame", "seconds", "face", "track", *PLACE, "detection_score",
    *TASK_COLUMNS, "status",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Seen:
    """A face in a frame, in plain Python types.

    Attributes:
        box: left, top, right, bottom in pixels.
        score: the detector's; None where it gives none.
        values: of regressions and of classes, by `TASK_COLUMNS`; not rounded.
    """

    box: tuple[int, int, int, int]
    score: float | None
    values: dict[str, float]

    @classmethod
    def of(cls, face: Face) -> Seen:
        """Of a prediction for a face that was found, and so has a box."""
        assert face.box is not None
        values = {
            name: value
            for name, value in face.predictions.items()
            if not isinstance(value, str)
        }
        for task, found in face.probabilities.items():
            values |= {f"p_{task}_{name}": p for name, p in found.items()}
        return cls(face.box, face.detection_score, values)

    def face(self) -> Face:
        """With the class that these probabilities make the likeliest."""
        predictions: dict[str, Any] = {}
        probabilities: dict[str, dict[str, float]] = {}
        for task in TASKS:
            predictions |= {n: self.values[n] for n in task.outputs if n in self.values}
            columns = task.probability_columns
            if columns and columns[0] in self.values:
                found = [self.values[name] for name in columns]
                probabilities[task.name] = dict(zip(task.classes, found, strict=True))
                predictions[task.name] = task.classes[int(np.argmax(found))]
        return Face(self.box, self.score, predictions, probabilities)


@dataclasses.dataclass(frozen=True)
class SeenFrame:
    """What was found in a frame.

    Attributes:
        number: of the frame, from 0.
        seconds: since the beginning of the film.
        faces: the largest first.
    """

    number: int
    seconds: float
    faces: tuple[Seen, ...]


def follow(
    frames: Iterable[SeenFrame], rate: float
) -> Iterator[tuple[SeenFrame, list[int | None]]]:
    """Gives the faces of a film numbers, by ByteTrack (https://arxiv.org/abs/2110.06864).

    Boxes alone count, so that a face that is away for more than a second comes back
    under another number.

    Args:
        frames: in their order.
        rate: frames a second, of these.

    Yields:
        A frame, and a number for each of its faces; None in the first frame that a
        face is seen in: it may be a mistake of the detector.

    Raises:
        ImportError: if the extra `video` is not installed.
    """
    import supervision
    import trackers

    tracker = trackers.ByteTrackTracker(
        frame_rate=rate, track_activation_threshold=0, high_conf_det_threshold=0
    )
    for frame in frames:
        n = len(frame.faces)
        found = tracker.update(
            supervision.Detections(
                np.array([one.box for one in frame.faces], float).reshape(n, 4),
                confidence=np.ones(n),
                data={"face": np.arange(n)},
            ),
            timestamp=frame.seconds,
        )
        numbers: list[int | None] = [None] * n
        for face, number in zip(
            found.data.get("face", ()), found.tracker_id, strict=True
        ):
            numbers[face] = None if number < 0 else int(number)
        yield frame, numbers


class Track:
    """A face over many frames: sums, whatever its length.

    Attributes:
        frames: in which it was seen.
        first, last: its first frame and its last.
        largest: the frame in which its box is largest, and how it was seen there.
    """

    def __init__(self, frame: SeenFrame, seen: Seen):
        self.frames = 0
        self.first = self.last = _without_faces(frame)
        self.largest = self.first, seen
        self._score = 0.0
        self._scored = 0
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, frame: SeenFrame, seen: Seen) -> None:
        """The frame that the track began with, too."""
        self.frames += 1
        self.last = _without_faces(frame)
        if _area(seen.box) > _area(self.largest[1].box):
            self.largest = self.last, seen
        if seen.score is not None:
            self._score += seen.score
            self._scored += 1
        for name, value in seen.values.items():
            self._sums[name] += value

    def mean(self) -> Seen:
        """Mean predictions of all frames, with the largest box."""
        score = self._score / self._scored if self._scored else None
        values = {name: total / self.frames for name, total in self._sums.items()}
        return Seen(self.largest[1].box, score, values)

    def row(self, file: str, number: int, status: str) -> dict[str, Any]:
        return row(
            file, status, COLUMNS, track=number, frames=self.frames,
            first_frame=self.first.number, last_frame=self.last.number,
            start=round(self.first.seconds, 3), end=round(self.last.seconds, 3),
            largest_frame=self.largest[0].number, **values_of(self.mean().face()),
        )  # fmt: skip


class Tracks(dict[int, Track]):
    """The tracks of a film by their numbers."""

    def add(self, frame: SeenFrame, numbers: Sequence[int | None]) -> None:
        for seen, number in zip(frame.faces, numbers, strict=True):
            if number is None:
                continue
            if number not in self:
                self[number] = Track(frame, seen)
            self[number].add(frame, seen)


def frame_rows(
    file: str, frame: SeenFrame, numbers: Sequence[int | None], reason: str
) -> Iterator[dict[str, Any]]:
    """A row a face; of a frame without one a row that says so.

    Args:
        file: name of the film.
        frame: what was found in it.
        numbers: of the tracks of its faces.
        reason: what follows the status: blank, or a colon and words.
    """
    place: Mapping[str, Any] = {
        "frame": frame.number, "seconds": round(frame.seconds, 3)
    }  # fmt: skip
    if not frame.faces:
        yield row(file, f"no_face{reason}", FRAME_COLUMNS, **place)
    for number, (seen, track) in enumerate(zip(frame.faces, numbers, strict=True)):
        yield row(
            file, f"ok{reason}", FRAME_COLUMNS, **place, face=number, track=track,
            **values_of(seen.face()),
        )  # fmt: skip


def _without_faces(frame: SeenFrame) -> SeenFrame:
    """A thousand tracks would keep those of a thousand frames."""
    return dataclasses.replace(frame, faces=())


def _area(box: Sequence[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def log_header(path: Path) -> dict[str, Any]:
    """What the log in a file is of; nothing where it broke off before it said so."""
    with open(path, "rb") as file:
        try:
            found = json.loads(file.readline())
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


class FrameLog:
    """What was found in the frames of a film so far, on disk, open for more.

    A line of JSON a batch of frames. A run that is broken off, by whatever, goes on
    behind the last whole line. Numbers are kept as they are, so that means over them
    come out the same.

    Attributes:
        path: of its file.
        rate: frames a second of the film; 0 before `begin`.
        next_frame: number of the first frame that is not in it.
        is_complete: whether there are no more.
        damage: of a complete one: see `frames.Film`.
        started_anew: whether another film, or one under other settings, was in it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        """Opens or makes it.

        Args:
            path: of its file.
            header: what the film is and how it is searched, as JSON has it. A log with
                another is emptied.

        Raises:
            OSError: if it cannot be written.
        """
        self.path = path
        self.next_frame = 0
        self.rate = 0.0
        self.is_complete = self.started_anew = False
        self.damage: str | None = None
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115
        self._header = json.dumps(header, sort_keys=True).encode() + b"\n"
        self._recover()

    def __enter__(self) -> FrameLog:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _recover(self) -> None:
        self._file.seek(0)
        first = self._file.readline()
        if first != self._header:
            self.started_anew = bool(first)
            self._file.truncate(0)
            self._file.write(self._header)
            self._file.flush()
            return
        end = self._file.tell()
        for line in self._file:
            try:
                if not line.endswith(b"\n"):
                    break
                self._note(json.loads(line))
            except ValueError:
                # As a power cut leaves it.
                break
            end += len(line)
        self._file.truncate(end)

    def _note(self, record: Mapping[str, Any]) -> None:
        if "frames" in record:
            self.next_frame = record["next"]
        elif "rate" in record:
            self.rate = record["rate"]
        else:
            self.is_complete, self.damage = True, record["damage"]

    def begin(self, rate: float) -> None:
        """Keeps the rate of a film that is open, before its frames."""
        if rate != self.rate:
            self._write({"rate": rate})

    def add(self, frames: Sequence[SeenFrame], next_frame: int) -> None:
        """Keeps a batch of frames; `next_frame` is the first that is not in it."""
        self._write(
            {
                "next": next_frame,
                "frames": [
                    [
                        frame.number,
                        frame.seconds,
                        [[one.box, one.score, one.values] for one in frame.faces],
                    ]
                    for frame in frames
                ],
            }
        )

    def complete(self, damage: str | None) -> None:
        """There are no more frames."""
        self._write({"damage": damage})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._note(record)

    def frames(self) -> Iterator[SeenFrame]:
        """All that are kept, from the first, a line in memory at a time."""
        with open(self.path, "rb") as file:
            file.readline()
            for line in file:
                for number, seconds, faces in json.loads(line).get("frames", ()):
                    yield SeenFrame(
                        number,
                        seconds,
                        tuple(Seen(tuple(box), *rest) for box, *rest in faces),
                    )

    def delete(self) -> None:
        self._file.close()
        os.unlink(self.path)
