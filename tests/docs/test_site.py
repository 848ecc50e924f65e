"""The site of `make docs`: what it lists is there, and what is there is listed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = (REPOSITORY / "mkdocs.yml").read_text()


def reference() -> dict[str, tuple[str, ...]]:
    """The table of tools/docs_site.py, without the packages that file needs."""
    tree = ast.parse((REPOSITORY / "tools" / "docs_site.py").read_text())
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REFERENCE"
    ]
    return ast.literal_eval(value)


def test_every_page_has_its_place_in_the_list():
    nav = SETTINGS[SETTINGS.index("\nnav:") : SETTINGS.index("\nnot_in_nav:")]
    named = set(re.findall(r": (\S+\.md)$", nav, re.M))
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    made = {f"api/{title.lower().replace(' ', '_')}.md" for title in reference()}
    assert named == pages | made | {"index.md"}


def test_the_reference_is_of_modules_that_are_there():
    for modules in reference().values():
        for module in modules:
            path = REPOSITORY / "hydranet_tf" / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_nothing_is_fetched_from_elsewhere():
    """Fonts are what the theme would fetch."""
    assert re.search(r"^  font: false$", SETTINGS, re.M)
    assert "strict: true" in SETTINGS


def test_nothing_that_a_build_could_say_is_turned_off():
    """But for types of tensors, which stand in no signature; see there."""
    options = re.findall(r"^ +(\w*warn\w*): (\w+)$", SETTINGS, re.M)
    assert options == [("warn_missing_types", "false")]
    checks = re.search(r"^validation:\n  links:\n((?:    .*\n)+)", SETTINGS, re.M)[1]
    assert set(re.findall(r": (\w+)", checks)) == {"warn"}
