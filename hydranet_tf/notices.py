"""Keeps what libraries say at their start out of the error output.

TensorFlow, oneDNN and LiteRT write notices to file descriptor 2 from C++: when they are
imported, and when an interpreter is made. No setting of theirs silences all of them:
TF_CPP_MIN_LOG_LEVEL is read after the first lines are out. `held_back` does, for as
long as its block takes, and loses nothing else:

- What is not a known notice is written afterwards: warnings of other libraries, what
  other threads wrote in the meantime.
- An error that leaves the block brings everything with it, notices too.
- Where the process itself is ended inside of the block, as by a processor that
  TensorFlow does not know, Python's fault handler writes where that was. What the
  library said about it is seen with `show()`, which is --verbosity=0 of the commands.

The commands hold back while they import. In a program of your own the package does so
while it imports Keras or TensorFlow for you (`hydranet_tf.HydraNet`,
`hydranet_tf.load(workdir)`) and while it makes an interpreter, and at no other time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_STDERR = 2

# A line each. What a library says about itself and this machine, of whatever level it
# thinks that is; a line that is not among them is shown.
_NOTICES = re.compile(
    r"""
    WARNING:\ All\ log\ messages\ before\ absl::InitializeLog\(\)
    # The second line of cpu_feature_guard.cc.
    | To\ enable\ the\ following\ instructions:
    # Anything of the level "information", as glog writes it.
    | I\d{4}\ [\d:.]+\s+\d+\ [\w.]+:\d+\]
    | \d{4}-\d\d-\d\d\ [\d:.]+:\ I\ [\w./]+:\d+\]
    # A machine without a GPU, or with two libraries that bring one plugin.
    | [WE]\d{4}\ [\d:.]+\s+\d+\ (cuda_\w+|computation_placer)\.cc:\d+\]\ .*
      (cuInit|[Uu]nable\ to\ register|already\ registered)
    # LiteRT, and its converter.
    | INFO:\ (Created|Initialized)\ TensorFlow\ Lite
    | fully_quantize:\ \d
    """,
    re.VERBOSE,
)

_lock = threading.Lock()
_asked = False
_blocks = 0
_failed = False
# While there are blocks: where the error output went, and what came meanwhile.
_kept: int | None = None
_file: BinaryIO | None = None
_handles_faults = False


def show(asked: bool = True) -> None:
    """From now on nothing is held back, or again what is known."""
    global _asked
    _asked = asked


def begin(arguments: Sequence[str]) -> None:
    """What a command does first: reads from its line whether it shall be quiet.

    --verbosity=0 (information) and more (debugging) ask for what TensorFlow says. They
    are read before the flags are known, since modules that define them import it.
    Processes that the command starts are told as well.
    """
    asked = False
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = word.partition("=")
        if name in ("--verbosity", "-verbosity", "--v", "-v"):
            asked = (value if equals else following or "").isdecimal()
    show(asked)
    # Everything, or not even errors: it is one to TensorFlow that a machine has no GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if asked else "3")


def is_notice(line: str) -> bool:
    """Whether a line is one of those that are held back."""
    return bool(_NOTICES.match(line))


@contextlib.contextmanager
def opencv_level(name: str) -> Iterator[None]:
    """OpenCV's own log at a level, as `ERROR` or `SILENT`, for as long as the block."""
    import cv2

    level = getattr(cv2.utils.logging, f"LOG_LEVEL_{name}")
    before = cv2.utils.logging.setLogLevel(level)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds back notices on file descriptor 2 while the block runs.

    Blocks may lie in each other and run in several threads: the first redirects, the
    last puts back. Where redirecting is not possible (no error output, no temporary
    folder), and after `show()`, the block simply runs.
    """
    global _failed
    if _asked:
        yield
        return
    _enter()
    try:
        yield
    except Exception:
        _failed = True
        raise
    finally:
        _leave()


def _enter() -> None:
    global _blocks, _failed, _kept, _file, _handles_faults
    # Late, for the sake of `import hydranet_tf`, which imports this module.
    import tempfile

    with _lock:
        _blocks += 1
        if _blocks > 1:
            return
        _failed = False
        try:
            _flush()
            kept = os.dup(_STDERR)
        except OSError:
            return
        try:
            _file = tempfile.TemporaryFile()
            os.dup2(_file.fileno(), _STDERR)
        except OSError:
            os.close(kept)
            _file = None
            return
        _kept = kept
        # Who has it on, as pytest, has it write where they want it.
        _handles_faults = not faulthandler.is_enabled()
        if _handles_faults:
            faulthandler.enable(kept)


def _leave() -> None:
    global _blocks, _kept, _file
    with _lock:
        _blocks -= 1
        if _blocks or _kept is None or _file is None:
            return
        _flush()
        if _handles_faults:
            faulthandler.disable()
        os.dup2(_kept, _STDERR)
        _file.seek(0)
        lines = _file.readlines()
        with contextlib.suppress(OSError):
            for line in lines:
                if _failed or not is_notice(line.decode(errors="replace")):
                    _write(_kept, line)
        os.close(_kept)
        _file.close()
        _kept = _file = None


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def _flush() -> None:
    """Lines that Python keeps belong where they were written to."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sys.stderr.flush()
