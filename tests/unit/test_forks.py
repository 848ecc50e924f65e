"""What runs in a copy of a process sees and says what a process of its own would."""

from __future__ import annotations

import subprocess
import sys

import forks
import pytest

PROGRAM = """
import atexit, os, sys
atexit.register(print, "at its end")
print(sys.argv, __name__, os.getcwd(), sys.path[0], sorted(os.environ))
print(sys.stdin.read(), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "sys.exit('in a line')",
        "raise ValueError('of the test')",
        "sys.stdout.flush(); os.kill(os.getpid(), 9)",
    ],
)
@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_copy_does_what_a_process_does(end, in_a_file, tmp_path):
    arguments = ["-c", PROGRAM + end, "a", "b c"]
    if in_a_file:
        (tmp_path / "program.py").write_text(PROGRAM + end)
        arguments = ["program.py", "a", "b c"]
    environment = {"LC_ALL": "C.UTF-8", "ONE": "more"}
    expected = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, input="typed",
        capture_output=True, text=True,
    )  # fmt: skip
    found = forks.run(arguments, tmp_path, environment, "typed")
    assert found.returncode == expected.returncode
    assert found.stdout == expected.stdout
    said, expected_said = (x.stderr.splitlines() for x in (found, expected))
    # Between the two a traceback has lines of this module, too.
    assert said[0] == expected_said[0] == "typed" and said[-1] == expected_said[-1]
