"""Which files some paths name: files, folders, patterns and standard input."""

from __future__ import annotations

import dataclasses
import glob
import os
import stat
from collections.abc import Iterator, Sequence

from hydranet_tf.data import formats, reading
from hydranet_tf.data.formats import PictureError
from hydranet_tf.errors import HydraNetError
from hydranet_tf.photos.rows import STANDARD_INPUT

# Taken without a look at their content: what is not a picture gets a row that says so.
_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".dib",
    ".tif", ".tiff", ".gif", ".heic", ".heif",
)  # fmt: skip
# What systems put into folders of pictures.
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_NAMED = 3


class PathsError(HydraNetError, ValueError):
    """Paths that cannot be used; the message says why."""


@dataclasses.dataclass
class Collected:
    """What some paths name.

    Attributes:
        files: pictures, each once, in the order of the paths, sorted within folders.
        left_out: other files within folders, by kind.
        closed: folders that may not be looked into.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    closed: list[str] = dataclasses.field(default_factory=list)

    def describe_left_out(self) -> str:
        """`left out, as no pictures: 2 .txt (a.txt, b.txt), 1 video (c.mp4)`."""
        parts = [
            f"{len(names):,} {kind} ({_some(names)})"
            for kind, names in sorted(self.left_out.items())
        ]
        return f"left out, as no pictures: {', '.join(parts)}"

    def describe_closed(self) -> str:
        """`cannot look into 1 folder: a/b`."""
        n = len(self.closed)
        noun = "folder" if n == 1 else "folders"
        return f"cannot look into {n:,} {noun}: {_some(self.closed)}"


def collect(paths: Sequence[str], own: Sequence[str | os.PathLike] = ()) -> Collected:
    """The pictures that some paths name.

    Args:
        paths: a file, whatever its ending; a folder, of which all pictures at any depth
            are taken, by content where the ending does not say it, through linked
            folders, too; a pattern with * ? []; or `-`, standard input.
        own: folders that this command writes pictures to; they do not count.

    Raises:
        PathsError: if a path leads to no picture, is a URL, or lies in a folder of
            `own`.
    """
    found = Collected()
    walk = _Walk(found, [os.path.realpath(folder) for folder in own])
    names: dict[str, None] = {}
    empty = []
    for path in map(os.fspath, paths):
        if path == STANDARD_INPUT:
            names[path] = None
            continue
        _refuse_uri(path)
        path = os.path.expanduser(path)
        walk.refuse_own(path)
        some = list(walk.expand(path))
        if not some and not found.closed:
            empty.append(path)
        names.update(dict.fromkeys(os.path.normpath(file) for file in some))
    if empty or not (names or found.closed):
        others = f"; {found.describe_left_out()}" if found.left_out else ""
        raise PathsError(
            "expected files, folders with pictures, or patterns; there is no picture "
            f"at {', '.join(empty) or 'no path at all'}{others}"
        )
    found.files = list(names)
    return found


def has_picture_ending(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


class _Walk:
    def __init__(self, found: Collected, own: Sequence[str]):
        self._found = found
        self._own = own

    def expand(self, path: str) -> Iterator[str]:
        # A name may hold characters of patterns, so what exists comes first.
        if os.path.isdir(path):
            yield from self._folder(path, os.path.realpath(path), set())
        elif os.path.lexists(path):
            if not self._is_own(path):
                yield path
        else:
            for match in matches(path):
                # A folder in a pattern stands for its pictures.
                yield from self.expand(match)

    def refuse_own(self, path: str) -> None:
        """Of what is named itself, no picture would be left, and nobody told why.

        Raises:
            PathsError: if it lies in a folder that this command writes to.
        """
        if os.path.lexists(path) and self._is_own(path):
            raise PathsError(
                f"{path} lies in a folder that this command writes pictures to "
                "(--annotate, --save_crops), and might be written over: name another "
                "folder for them"
            )

    def _folder(self, folder: str, root: str, seen: set) -> Iterator[str]:
        """Files first, then folders, each sorted; no folder twice, links or not."""
        if self._is_own(folder):
            return
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in seen:
                return
            seen.add(identity)
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self._found.closed.append(folder)
            return
        folders = []
        for entry in inside:
            if entry.is_dir():
                folders.append(entry)
            elif self._is_picture(entry):
                yield entry.path
        for entry in folders:
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                # What lies in the folder that is walked comes under its own name.
                if target == root or target.startswith(os.path.join(root, "")):
                    continue
            yield from self._folder(entry.path, root, seen)

    def _is_own(self, path: str) -> bool:
        real = os.path.realpath(path)
        return any(
            real == own or real.startswith(os.path.join(own, "")) for own in self._own
        )

    def _is_picture(self, entry: os.DirEntry) -> bool:
        name = entry.name
        is_hidden = name.startswith(".") or name.lower() in _SYSTEM_FILES
        # "._x.jpg" beside "x.jpg" holds what macOS knows about it.
        is_named_picture = has_picture_ending(name) and not name.startswith("._")
        # A pipe or a socket may bear any name; to open one would wait for a writer.
        if is_named_picture and not _is_special(entry.path):
            return True
        kind = _kind(entry.path)
        if kind in formats.PICTURES:
            return True
        if not is_hidden:
            kind = kind or os.path.splitext(name)[1].lower() or "without ending"
            self._found.left_out.setdefault(kind, []).append(entry.path)
        return False


def _is_special(path: str) -> bool:
    """Whether it is there and no regular file; what cannot be seen has its row."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _kind(path: str) -> str | None:
    """What a file is by its content; None where it does not say."""
    if _is_special(path):
        return "no regular file"
    try:
        with open(path, "rb") as file:
            return formats.kind(file.read(formats.HEAD_BYTES))
    except OSError as error:
        return f"unreadable: {error.strerror}"


def is_pattern(path: str) -> bool:
    return glob.has_magic(path)


def matches(pattern: str) -> list[str]:
    """The names of a pattern; `hol [2019]/*.jpg` if there is such a folder."""
    folder, parts = _existing_part(pattern)
    literal = os.path.join(glob.escape(folder), *parts) if folder else pattern
    found = glob.glob(literal, recursive=True)
    return sorted(found or glob.glob(pattern, recursive=True))


def _existing_part(path: str) -> tuple[str, list[str]]:
    """The longest folder above a path that exists by that name, and what follows."""
    parts: list[str] = []
    while path and not os.path.isdir(path):
        path, part = os.path.split(path)
        if not part:
            break
        parts.insert(0, part)
    return path, parts


def _refuse_uri(path: str) -> None:
    if path[:5].lower() == "data:":
        raise PathsError(
            "expected a path, not a data URI: a row needs a name. Save its picture to "
            "a file, or send it to standard input: ... | base64 -d | predict.py -"
        )
    try:
        reading.refuse_url(path)
    except PictureError as error:
        raise PathsError(str(error)) from error


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
