"""Frames of films and cameras, one after the other, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from hydranet_tf import notices
from hydranet_tf.data import formats
from hydranet_tf.errors import HydraNetError

# Files of these names are films, whatever they hold: a broken one has no content that
# would say so.
_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv",
    ".3gp", ".mts", ".m2ts",
)  # fmt: skip
# Where a file does not say how many frames a second has.
_RATE = 30.0
# Headers of some formats give the number of frames from a rounded duration.
_MISSING_SECONDS, _MISSING_FRACTION = 1.0, 0.02
# MPEG transport streams, of broadcasts and camcorders, have no signature: a byte at the
# start of every packet, behind four of a time stamp in camcorders'.
_SYNC, _PACKETS = 0x47, ((188, 0), (192, 4))

# FFmpeg writes to standard error what it thinks of a damaged file. Read when OpenCV
# opens the first one.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class FilmError(HydraNetError, ValueError):
    """A film or a camera that cannot be read; the message says why."""


class Frame(NamedTuple):
    """One picture of a film.

    Attributes:
        number: from 0.
        seconds: since the beginning; larger than that of the frame before.
        image: uint8 `[height, width, 3]`, RGB, upright.
    """

    number: int
    seconds: float
    image: np.ndarray


def is_film(path: str) -> bool:
    """Whether a file is a film, by its content, or by its name where that is broken."""
    try:
        # To open a pipe would wait for whoever writes.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        found = _kind(path)
    except OSError:
        return False
    if found in formats.PICTURES:
        return False
    return found == formats.VIDEO or path.lower().endswith(_ENDINGS)


class Film:
    """An open film or camera; a context manager.

    Attributes:
        rate: frames a second.
        length: frames as the file declares them; None where it does not, or of a
            camera.
        damage: once all frames were read: why some are missing; None for a whole film.
    """

    def __init__(self, source: str, *, is_camera: bool = False):
        """Opens it.

        Args:
            source: a path; of a camera its number, or an address that FFmpeg knows.

        Raises:
            FilmError: if there is no such camera, or the file is none that can be read.
        """
        self._source, self._is_camera = source, is_camera
        if not is_camera:
            _check_content(source)
        # The error says what cannot be opened, without OpenCV's own words on it.
        with notices.opencv_level("SILENT"):
            if is_camera and source.isdecimal():
                self._capture = cv2.VideoCapture(int(source))
            else:
                self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise FilmError(_not_there(source) if is_camera else _unopened(source))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else _RATE
        length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = length if length > 0 and not is_camera else None
        self.damage: str | None = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_) -> None:
        self._capture.release()

    def frames(self, start: int = 0, step: int = 1) -> Iterator[Frame]:
        """Every `step`-th frame, from number `start` on, which is one of those.

        Those before are read, too: to seek is exact in few formats.
        """
        number, last = 0, -1.0
        begun = time.monotonic()
        while self._capture.grab():
            seconds = self._seconds(number, last, begun)
            last = seconds
            if number >= start and number % step == 0:
                image = self._image()
                if image is None:
                    break
                yield Frame(number, seconds, image)
            number += 1
        self.damage = self._missing(number)

    def _seconds(self, number: int, last: float, begun: float) -> float:
        if self._is_camera:
            seconds = time.monotonic() - begun
        else:
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        # Time stamps of damaged files jump; some formats have none.
        is_later = last < seconds < last + 3600
        return seconds if is_later else max(0.0, last + 1 / self.rate)

    def _image(self) -> np.ndarray | None:
        is_there, image = self._capture.retrieve()
        if not is_there or image is None:
            return None
        try:
            formats.check_size(*image.shape[:2])
        except formats.PictureError as error:
            raise FilmError(str(error)) from error
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _missing(self, read: int) -> str | None:
        if self.length is None:
            return None
        missing = self.length - read
        if missing > max(_MISSING_SECONDS * self.rate, _MISSING_FRACTION * self.length):
            return f"{read:,} of {self.length:,} frames could be read"
        return None


def _check_content(path: str) -> None:
    """Refuses what is not a film before FFmpeg sees it.

    A list of addresses, named like a film, would make it fetch them.
    """
    try:
        found = _kind(path)
        is_empty = not os.path.getsize(path)
    except OSError as error:
        raise FilmError(f"cannot be opened: {error.strerror}") from error
    if found != formats.VIDEO:
        what = "the file is empty" if is_empty else "the content is " + (
            f"a file of the kind {found}" if found else "none that is known"
        )  # fmt: skip
        raise FilmError(
            "expected a film (MP4, QuickTime, AVI, Matroska, WebM, MPEG, Windows "
            f"Media or Flash); {what}"
        )


def _kind(path: str) -> str | None:
    with open(path, "rb") as file:
        head = file.read(max(formats.HEAD_BYTES, 2 * 192))
    for size, before in _PACKETS:
        if len(head) > before + size and head[before] == head[before + size] == _SYNC:
            return formats.VIDEO
    return formats.kind(head)


def _unopened(path: str) -> str:
    with open(path, "rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    cut = " An MP4 says at its end where its frames are: was it cut off?"
    return (
        "damaged film, or one whose codec OpenCV's FFmpeg does not know."
        f"{cut if is_mp4 else ''}"
    )


def _not_there(source: str) -> str:
    if source.isdecimal():
        return (
            f"expected a camera; the system has none with the number {source} that "
            "may be opened (ls /dev/video* lists them on Linux; is it in use?)"
        )
    return f"expected a camera's number or an address that can be opened; got {source}"
