"""What was found in the frames of a film so far, on disk.

A line of JSON a batch of frames. A run that is broken off, by whatever, goes on behind
the last whole line. Numbers are kept as they are, so that means over them come out the
same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hydranet_tf.photos.tracks import Seen, SeenFrame


def header_of(path: Path) -> dict[str, Any]:
    """What the log in a file is of; nothing where it broke off before it said so."""
    with open(path, "rb") as file:
        try:
            found = json.loads(file.readline())
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


class FrameLog:
    """A log of one film, open for more.

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
