"""The Markdown of a report as one page that stands alone.

Its pictures are within it; it has no script, no link and loads nothing, which its
content security policy holds a browser to. What comes from outside (names of
files, reasons) may hold anything: HTML in it is shown as text, and a picture that
is not of the report is its description alone.
"""

from __future__ import annotations

import base64
import html
import string
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}

_PAGE = string.Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #222; --soft: #5a5a5a; --paper: #fff; --line: #d5d5d5; --head: #f2f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a8a8a8; --paper: #17191c; --line: #3b3f45;
    --head: #23272c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h1, h2, p, li { overflow-wrap: break-word; }
h1, p, li { max-width: 46rem; }
h1 + p { padding-left: .8rem; border-left: .25rem solid #d55e00; }
ul { padding-left: 1.2rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
.table { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line);
  border-radius: .4rem; }
.table:focus-visible { outline: 2px solid #0072b2; }
table { border-collapse: collapse; min-width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; white-space: nowrap; }
th { background: var(--head); vertical-align: bottom; }
tr + tr > *, tbody > tr > * { border-top: 1px solid var(--line); }
td code { color: var(--soft); }
img { display: block; max-width: min(100%, 62rem); height: auto; border-radius: .4rem; }
td img { width: 4rem; margin-bottom: .2rem; }
@media (max-width: 40rem) {
  td:first-child { white-space: normal; min-width: 8rem; max-width: 11rem; }
}
@media print {
  .table { overflow: visible; border: 0; }
  th, td { padding: .2rem .3rem; white-space: normal; }
}
</style>
</head>
<body>
<main>
$body</main>
</body>
</html>
""")


def page(text: str, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        text: Markdown of `report_text.markdown`; its first line is the title.
        pictures: PNG and JPEG files by the name that the text gives them, which
            ends in .png or .jpg.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    # A report has no links of its own.
    markdown.disable(["link", "autolink", "reference"])
    for name, rule in (
        ("image", _image), ("table_open", _table_open), ("table_close", _table_close)
    ):  # fmt: skip
        markdown.add_render_rule(name, rule)
    tokens = markdown.parse(text)
    _name_tables(tokens)
    return _PAGE.substitute(
        title=html.escape(_words(tokens[1])),
        body=markdown.renderer.render(tokens, markdown.options, {"pictures": pictures}),
    )


def _words(inline: Token) -> str:
    """The text of a heading without its marks."""
    return "".join(child.content for child in inline.children)


def _name_tables(tokens: Sequence[Token]) -> None:
    """Gives each table the text above it, for those who do not see the page."""
    above = ""
    for token in tokens:
        if token.type == "inline" and token.level == 1:
            above = _words(token)
        elif token.type == "table_open":
            token.meta["label"] = above
        elif token.type == "th_open":
            token.attrSet("scope", "col")


def _image(renderer, tokens, index, options, env) -> str:
    token = tokens[index]
    name, words = token.attrs["src"], html.escape(token.content)
    if name not in env["pictures"]:
        return words
    kind = _TYPES[name[name.rindex(".") :]]
    data = base64.b64encode(env["pictures"][name]).decode("ascii")
    return f'<img alt="{words}" src="data:{kind};base64,{data}">'


def _table_open(renderer, tokens, index, options, env) -> str:
    # Wider than a phone: it scrolls by itself, by keyboard too.
    label = html.escape(tokens[index].meta["label"])
    box = f'<div class="table" role="region" tabindex="0" aria-label="{label}">'
    return f"{box}\n<table>\n"


def _table_close(renderer, tokens, index, options, env) -> str:
    return "</table>\n</div>\n"
