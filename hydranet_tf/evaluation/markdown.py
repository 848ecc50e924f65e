"""What Markdown is made of: tables, pictures, and words from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    cells = [
        [str(cell).replace("|", r"\|").replace("\n", " ") for cell in row]
        for row in [header, *rows]
    ]
    # A line of one or two signs under a header makes no table.
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = widths
    cells.insert(1, [":" + "-" * (first - 1), *("-" * (w - 1) + ":" for w in others)])
    return "\n".join(
        f"| {row[0]:<{first}} | "
        + " | ".join(f"{c:>{w}}" for c, w in zip(row[1:], others, strict=True))
        + " |"
        for row in cells
    )


def code(text: str) -> str:
    """A name from outside as a code span, whatever it is made of."""
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def plain(text: str) -> str:
    """Words from outside, so that nothing in them is read as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>&])", r"\\\1", " ".join(text.split()))


def picture(words: str, name: str) -> str:
    """A picture and what is said where it is not seen."""
    return f"![{words}]({name})"
