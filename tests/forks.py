"""Runs scripts of Python in copies of one process that has imported TensorFlow.

The import takes five seconds, and most scripts that the tests run need it. For tests of
what a script does: not of what it imports, of what TensorFlow says when it starts, nor
of variables that it reads then.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

STREAMS = ("stdin", "stdout", "stderr")


@functools.cache
def _server() -> tuple[subprocess.Popen, IO[bytes]]:
    """The process that is copied, one for each process of pytest, and its log."""
    log = tempfile.TemporaryFile()
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    atexit.register(server.communicate)
    return server, log


def run(
    arguments: Sequence[str | os.PathLike],
    cwd: str | os.PathLike | None = None,
    env: Mapping[str, str] | None = None,
    input: str = "",
) -> subprocess.CompletedProcess:
    """As `subprocess.run` of Python with these arguments, its output taken as text.

    Args:
        arguments: a script, or `-c` and a program; then what it finds in `sys.argv`.
        cwd: where it runs.
        env: its environment; that of this process where it is None.
        input: what it reads.
    """
    server, log = _server()
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, name) for name in STREAMS}
        paths["stdin"].write_text(input)
        request = {
            "arguments": [os.fspath(a) for a in arguments],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "streams": [str(paths[name]) for name in STREAMS],
        }
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        status = server.stdout.readline()
        if not status:
            log.seek(0)
            raise RuntimeError(f"the process that is copied ended:\n{log.read()!r}")
        return subprocess.CompletedProcess(
            request["arguments"],
            int(status),
            paths["stdout"].read_text(),
            paths["stderr"].read_text(),
        )


def _serve() -> dict | None:
    """Waits for requests; returns each in a copy of this process, None at the end."""
    for line in sys.stdin:
        with warnings.catch_warnings():
            # Of threads that are not in the copy: see below.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(request: dict) -> None:
    """Makes of this process what `python *arguments` would be, and runs it."""
    streams = request["streams"]
    for number, path in enumerate(streams):
        file = os.open(path, (os.O_WRONLY | os.O_CREAT) if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    # The one of the server has read ahead.
    sys.stdin = open(0, closefd=False)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    name, *arguments = request["arguments"]
    if name == "-c":
        program, *arguments = arguments
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        names = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(program, "<string>", "exec"), names)
    else:
        sys.argv, sys.path[0] = [name, *arguments], str(Path(name).resolve().parent)
        runpy.run_path(name, run_name="__main__")


def _end(function: Callable, request: dict) -> NoReturn:
    """Calls a function and ends the process as Python would after it.

    But for taking the modules apart, which takes 1.6 seconds for those of TensorFlow.
    """
    code = 0
    try:
        function(request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Threads that a library starts at its first operation would not be in the copies:
    # nothing is computed here.
    import tensorflow  # noqa: F401

    if request := _serve():
        _end(_become, request)
