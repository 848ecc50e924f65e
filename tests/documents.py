"""What the documents hold: commands, blocks of code, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def tracked() -> list[str]:
    """Paths of all files of the repository, from its root.

    Of those that git knows and of those that it would take: a page counts before it
    is committed, and what a run left behind does not.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return sorted(n for n in names if n and (REPOSITORY / n).is_file())


def pages() -> list[str]:
    """The Markdown files that are written by hand."""
    return [
        name
        for name in tracked()
        # Reports are written by evaluate.py.
        if name.endswith(".md") and not name.endswith("/report.md")
    ]


def text(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def code_blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.M | re.S)


def without_code_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S)


def commands(page: str) -> list[str]:
    """The indented lines outside of fenced blocks, joined where they continue.

    Indented text below a list belongs to the list and is none.
    """
    found, before = [], ""
    for line in without_code_blocks(page).replace("\\\n", " ").splitlines():
        indented = line.startswith("    ") and line.strip()
        if indented and (not before.strip() or before.startswith("    ")):
            found.append(line.strip())
        before = line
    return found


def inline_commands(page: str) -> list[str]:
    """What is typed with `python` in the middle of a sentence or a table."""
    return re.findall(r"`(?:/usr/bin/time -v )?(python [^`]+)`", text(page))
