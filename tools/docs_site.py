"""Makes a site of the pages that GitHub shows: the hook of mkdocs.yml, for `make docs`.

The pages stay where readers of the repository look for them, and their links stay
relative. On the site README.md is the front page, docs/ comes without its folder, and
other pages that these link to (results, examples, the model card) come along. What is
no page, source code above all, is linked where the repository is known
(GITHUB_REPOSITORY, as GitHub's workflows set it) and stands there as text where it is
not.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FRONT = "README.md"
# Modules that are called from outside, by the room that they stand in; the reference
# is made of their docstrings.
REFERENCE = {
    "Predict": ("inference.predictor", "inference.runtimes", "tasks"),
    "Photographs": (
        "photos.predict",
        "photos.rows",
        "photos.video",
        "data.detection",
        "data.crops",
    ),
    "Network": ("model", "losses", "metrics", "config", "presets"),
    "Train": ("training.train", "data.sources", "data.pipeline"),
    "Evaluate and export": ("evaluation.evaluate", "exporting.export"),
    "Serve": ("serving.app",),
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"^( {4}|```)")


def on_files(files: Files, config) -> Files:
    """Adds the front page, the pages that are linked to, and the reference."""
    for name in sorted(_linked()):
        if not name.startswith("docs/"):
            content = (ROOT / name).read_bytes()
            files.append(File.generated(config, _site_path(name), content=content))
    for title, modules in REFERENCE.items():
        text = f"# {title}\n\n" + "\n".join(
            f"::: hydranet_tf.{module}\n" for module in modules
        )
        name = title.lower().replace(" ", "_")
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Points links to where their targets are on the site."""
    source = _repository_path(page.file.src_uri)
    known = _linked()

    def moved(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        target, _, heading = link.partition("#")
        name = _resolved(source, target)
        if name in known or name.startswith("docs/") and (ROOT / name).is_file():
            path = posixpath.relpath(
                _site_path(name), posixpath.dirname(page.file.src_uri) or "."
            )
            return f"{mark}[{text}]({path}{'#' + heading if heading else ''})"
        repository = os.environ.get("GITHUB_REPOSITORY")
        if repository:
            return f"[{text}](https://github.com/{repository}/blob/main/{name})"
        return text

    lines = []
    fenced = False
    for line in markdown.splitlines(keepends=True):
        if line.startswith("```"):
            fenced = not fenced
        code = fenced or _CODE.match(line)
        lines.append(line if code else _LINK.sub(moved, line))
    return "".join(lines)


def _linked() -> set[str]:
    """The front page, those of docs/, and what they lead to: pages and pictures."""
    found: set[str] = set()
    waiting = [FRONT, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    while waiting:
        name = waiting.pop()
        if name in found or not (ROOT / name).is_file():
            continue
        found.add(name)
        if name.endswith(".md"):
            waiting += [
                target
                for target in _targets(name)
                if target.endswith((".md", ".png", ".svg", ".jpg"))
            ]
    return found


def _targets(name: str) -> Iterator[str]:
    for _, _, link in _LINK.findall((ROOT / name).read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", link):
            target = _resolved(name, link.partition("#")[0])
            # A folder stands for the page that GitHub shows below its files.
            yield target
            yield posixpath.join(target, FRONT)


def _resolved(page: str, link: str) -> str:
    name = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    inside = posixpath.join(name, FRONT)
    return inside if (ROOT / inside).is_file() else name


def _site_path(name: str) -> str:
    return "index.md" if name == FRONT else name.removeprefix("docs/")


def _repository_path(site_path: str) -> str:
    if site_path == "index.md":
        return FRONT
    return f"docs/{site_path}" if (ROOT / "docs" / site_path).is_file() else site_path
