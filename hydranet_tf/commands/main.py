"""`hydranet COMMAND ...`: finds the command and hands it the rest of the line.

Nothing is imported before it is known what for, so that --help answers at once.
"""

from __future__ import annotations

import difflib
import sys

from hydranet_tf import __version__

# What each does, for `hydranet --help`; the modules beside this one have the rest.
COMMANDS = {
    "predict": "find the faces of photographs: age, gender, race, as perceived",
    "serve": "answer for photographs over HTTP",
    "demo": "draw faces, train, evaluate and export: the whole path in minutes",
    "train": "train a network on UTKFace or on your own faces",
    "evaluate": "report the errors of a network, group by group",
    "export": "write a run as SavedModel, LiteRT file or preset",
}
USAGE_ERROR = 2


def usage() -> str:
    """What `hydranet --help` prints."""
    lines = [f"  {name:<9} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hydranet COMMAND [FLAGS] ...",
            "",
            *lines,
            "",
            "`hydranet COMMAND --help` lists the flags of one.",
            "Predictions estimate what annotators saw in pictures. They are not facts "
            "about a person.",
        ]
    )


def main() -> None:
    """The console script `hydranet`, and `python -m hydranet_tf`."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("--help", "-h", "help"):
        print(usage())
    elif name == "--version":
        print(f"hydranet_tf {__version__}")
    elif name in COMMANDS:
        from hydranet_tf.commands import running

        running.run(name, f"hydranet {name}", arguments)
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        print(f"hydranet: no command {name!r}{hint}\n\n{usage()}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
