"""Runs one command: reads its flags, and says in a line what is wrong."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from absl import app, flags, logging

from hydranet_tf import errors, notices
from hydranet_tf.errors import HydraNetError

# Read by `extended` before the others; here for --help and against misspelling.
flags.DEFINE_list(
    "import", [], "Python modules that register backbones and tasks, found here too."
)
flags.DEFINE_list("tasks_file", [], "TOML files with tables [[task]].")

_HELP = frozenset({"--help", "-help", "-h", "-?"})


class CommandError(HydraNetError):
    """Ends a command with a line that says what is wrong and what to do."""


def script(name: str) -> NoReturn:
    """Runs a command as the script NAME.py at the root of the checkout."""
    run(name, os.path.basename(sys.argv[0]), sys.argv[1:])


def run(name: str, program: str, arguments: Sequence[str]) -> NoReturn:
    """Runs a command and ends the process with its exit code.

    Args:
        name: of a module of `hydranet_tf.commands`. Its flags are global, so a process
            runs one command. It has `main`, which takes what is not a flag and returns
            an exit code, and may have `FAILED`, the code of what could not begin (1).
        program: what the user typed, for messages.
        arguments: the rest of the line.
    """
    failed = 1

    def stop(problem: object) -> NoReturn:
        print(f"{program}: {problem}", file=sys.stderr)
        sys.exit(failed)

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            stop(f"{error}\n`{program} --help` lists the flags")

    def main(argv: list[str]) -> int | None:
        # TFDS and TensorFlow report every file they open.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            return command.main(argv[1:])
        except app.UsageError as error:
            stop(f"{error}\n`{program} --help` lists the flags")
        except HydraNetError as error:
            stop(error)
        except ImportError as error:
            missing(error)

    def missing(error: ImportError) -> NoReturn:
        hint = errors.installation_hint(error)
        if hint is None:
            traceback.print_exception(error)
            sys.exit(failed)
        stop(hint)

    notices.begin(arguments)
    try:
        with notices.held_back():
            extended(arguments, stop)
            command = importlib.import_module(f"hydranet_tf.commands.{name}")
    except ImportError as error:
        missing(error)
    failed = getattr(command, "FAILED", failed)
    if _HELP.intersection(arguments):
        print(help_of(command))
        sys.exit()
    app.run(main, [program, *arguments], parse)


def extended(
    arguments: Sequence[str], stop: Callable[[object], NoReturn] = sys.exit
) -> None:
    """Imports what `--import` and `--tasks_file` name, before anything knows the tasks.

    Args:
        arguments: of the command.
        stop: is called with what is wrong.
    """
    found = {"--import": [], "--tasks_file": []}
    words = list(arguments)
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        name = f"--{name.lstrip('-')}" if name.startswith("-") else name
        if name in found:
            value = value if equals else "".join(words[number + 1 : number + 2])
            found[name] += [part for part in value.split(",") if part]
    from hydranet_tf import tasks

    # Modules beside what the user works on, as `python -m` finds them.
    sys.path.append(os.getcwd())
    for path in found["--tasks_file"]:
        try:
            tasks.register_file(path)
        except ValueError as error:
            stop(f"--tasks_file: {error}")
    for module in found["--import"]:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0]:
                raise
            stop(
                f"--import: there is no module {module!r} in {os.getcwd()} or where "
                "Python looks for modules; give a name without .py"
            )
        except ValueError as error:
            stop(f"--import: {module}: {error}")


def help_of(command: ModuleType) -> str:
    """What the command is for, and its flags with their defaults."""
    listed = flags.FLAGS.module_help(command)
    _, _, described = listed.lstrip().partition("\n")
    _, _, shared = flags.FLAGS.module_help(__name__).lstrip().partition("\n")
    described = f"{described.rstrip()}\n{shared}"
    return f"{command.__doc__}\nFlags:\n{described}"
