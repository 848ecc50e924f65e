"""Every page: its commands exist, its code compiles, its links lead somewhere."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import shlex
import subprocess
import textwrap
from pathlib import Path, PurePosixPath

import documents
import forks
import pytest
from sample_pictures import astronaut

from hydranet_tf import config
from hydranet_tf.commands import main

ROOT = documents.REPOSITORY
COMMAND_MODULES = ROOT / "hydranet_tf" / "commands"
PAGES = documents.pages()
# Run as it stands, in a repository that has what it adds.
EXTENDING = "docs/extending.md"

# Indented and no command: the rest of one, a file's content, headers of HTTP.
NO_COMMANDS = ("path,age,", "faces/", "TF_CONFIG=", '"task": ', "Cross-Origin-")
# Programs that come from elsewhere; what of ours they are given is looked at.
PROGRAMS = {"cp", "curl", "docker", "export", "printf", "ray", "source"}


def all_commands() -> list[tuple[str, str]]:
    """Page and command; comments and settings of the environment taken away."""
    found = []
    for page in PAGES:
        for line in documents.commands(page) + documents.inline_commands(page):
            if not line.startswith(NO_COMMANDS):
                line = re.sub(r"^([A-Z_]+=\S+ )+", "", line)
                found.append((page, re.sub(r"\s+# .*", "", line)))
    return found


COMMANDS = all_commands()


def python_commands() -> list[tuple[str, str, list[str]]]:
    """Page, script, arguments of `python SCRIPT.py ...` and `hydranet SCRIPT ...`."""
    found = []
    for page, command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "hydranet" and words[1].isalpha():
            words = ["python", f"{words[1]}.py", *words[2:]]
        if words[0] == "python" and words[1].endswith(".py"):
            found.append((page, words[1], words[2:]))
    return found


def place_of(page: str, script: str) -> Path:
    """A page beside its scripts may name them without a folder."""
    beside = ROOT / PurePosixPath(page).parent / script
    return beside if beside.is_file() else ROOT / script


def flag_names(script: Path) -> set[str]:
    """Flags that a script and modules beside it define, read from their source."""
    source = script.read_text()
    # What absl gives every script.
    names = {"flagfile", "help", "verbosity"}
    if script.parent == COMMAND_MODULES and script.stem != "running":
        names |= flag_names(COMMAND_MODULES / "running.py")
    for command in re.findall(r'running\.script\("(\w+)"\)', source):
        names |= flag_names(COMMAND_MODULES / f"{command}.py")
    if script.parent == COMMAND_MODULES and script.name != "running.py":
        # Flags of every command.
        names |= flag_names(COMMAND_MODULES / "running.py")
    if "config.define_flags()" in source:
        names |= set(config.TrainingConfig.__dataclass_fields__) | set(config.RENAMED)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            beside = (script.with_name(f"{alias.name}.py") for alias in node.names)
            names.update(*(flag_names(path) for path in beside if path.is_file()))
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called.startswith("flags.DEFINE_") and isinstance(first, ast.Constant):
                names.add(first.value)
            if called.endswith(".add_argument") and isinstance(first, ast.Constant):
                names.add(first.value.removeprefix("--"))
    return names


def named_flags(words: list[str]) -> set[str]:
    return {w[2:].partition("=")[0] for w in words if w.startswith("--")}


def test_the_pages_are_found():
    assert {"README.md", "docs/data.md", "docs/exports.md", "docs/crop.md"} < set(PAGES)
    assert not any(page.endswith("/report.md") for page in PAGES)
    scripts = {script for _, script, _ in python_commands()}
    assert {"train.py", "evaluate.py", "export.py", "predict.py"} < scripts


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_is_one(page, command):
    """The shell can read it, and what it calls is there."""
    subprocess.run(["bash", "-n", "-c", command], check=True)
    program, *words = shlex.split(command)
    if program == "hydranet":
        assert words[0] in {*main.COMMANDS, "--help"}
        module = COMMAND_MODULES / f"{words[0]}.py"
        assert named_flags(words[1:]) <= flag_names(module)
    elif program == "make":
        assert re.search(rf"^{words[0]}:", documents.text("Makefile"), re.M)
    elif program == "npm":
        package = json.loads(documents.text("web/package.json"))
        assert words[0] == "run" and words[1] in package["scripts"]
    elif program == "pip":
        extras = configparser.ConfigParser(interpolation=None)
        extras.read(ROOT / "setup.cfg")
        assert words[0] == "install"
        (asked,) = re.findall(r"^\.(?:\[([\w,]+)\])?$", words[1])
        known = set(extras["options.extras_require"])
        assert set(asked.split(",")) <= {*known, ""}
    elif program == "python" and words[0] == "-m":
        importlib.import_module(words[1])
    elif program == "python":
        script = place_of(page, words[0])
        assert script.is_file()
        # Behind a bare -- stand flags that a script hands to train.py.
        end = words.index("--") if "--" in words else len(words)
        assert named_flags(words[end + 1 :]) <= flag_names(ROOT / "train.py")
        named = named_flags(words[:end])
        named = {name.removeprefix("no") if name[:2] == "no" and name not in
                 flag_names(script) else name for name in named}  # fmt: skip
        assert named <= flag_names(script)
    else:
        assert program in PROGRAMS
    for word in words:
        name, _, value = word.partition("=")
        if name in ("--flagfile", "--split_lists") or word.endswith((".yml", ".yaml")):
            assert (ROOT / (value or word)).exists(), word


def test_flags_in_a_sentence_are_those_of_a_script():
    scripts = [
        ROOT / name
        for name in documents.tracked()
        if name.endswith(".py") and not name.startswith(("tests/", "hydranet_tf/"))
    ]
    scripts += [COMMAND_MODULES / f"{name}.py" for name in main.COMMANDS]
    known = set.union(*map(flag_names, scripts))
    named = {
        (page, flag)
        for page in PAGES
        # A dash inside: of another program.
        for flag in re.findall(r"`--(\w+)(?!-)\b", documents.without_code_blocks(page))
    }
    assert ("README.md", "strategy") in named and "strategy" in known
    known |= {f"no{name}" for name in known}
    assert {(page, flag) for page, flag in named if flag not in known} == set()


# In a process of its own, as scripts define flags of the same name. Each command gets
# a copy of them: what one sets, another shall not find set.
PARSE = """
import copy, importlib, json, sys
from absl import flags
name, commands = sys.argv[1], json.loads(sys.argv[2])
importlib.import_module(f"hydranet_tf.commands.{name}")
for arguments in commands:
    values = copy.deepcopy(flags.FLAGS)
    values([name, *arguments], known_only=False)
"""


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "predict"])
def test_the_commands_take_the_values_of_their_flags(name):
    """Required flags are there, choices known, numbers numbers."""
    commands = [
        arguments
        for page, named, arguments in python_commands()
        if named == f"{name}.py" and page != EXTENDING
        # One is about the flag --help, the other says "as above".
        if "--help" not in arguments and "..." not in arguments
    ]
    assert commands
    done = forks.run(["-c", PARSE, name, json.dumps(commands)], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def python_blocks():
    return [
        pytest.param(page, block, id=f"{page}-{i}")
        for page in PAGES
        for i, block in enumerate(documents.code_blocks(page, "python"))
    ]


@pytest.mark.parametrize(("page", "block"), python_blocks())
def test_code_compiles_and_its_imports_of_ours_exist(page, block):
    block = textwrap.dedent(block)
    # One block is a row of a dict.
    tree = ast.parse(f"{{{block}}}" if re.match(r'"\w+": ', block) else block)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("hydranet_tf"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_the_code_of_the_data_page(tmp_path, monkeypatch, capsys):
    (table,) = documents.code_blocks("docs/data.md", "csv")
    (block,) = documents.code_blocks("docs/data.md", "python")
    (tmp_path / "faces.csv").write_text(table)
    (tmp_path / "faces").mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        astronaut().resize((120, 100)).save(tmp_path / "faces" / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["examples"].labels["age"].tolist() == [34, -1]
    assert names["images"].shape == (2, 96, 96, 3)
    assert sorted(names["labels"]["gender"].numpy()) == [0, 1]
    assert capsys.readouterr().out.startswith("2 [34. -1.] ()\n")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    known = set(documents.tracked())
    folders = {str(parent) for name in known for parent in PurePosixPath(name).parents}
    links = re.findall(r"\]\(([^()\s]+)\)", documents.without_code_blocks(page))
    for link in links:
        if re.match(r"https?://|mailto:", link):
            continue
        target, _, heading = link.partition("#")
        path = page
        if target:
            absolute = (ROOT / page).parent.joinpath(target).resolve()
            path = absolute.relative_to(ROOT).as_posix()
            # What git does not know is on this machine alone.
            assert path in known or path in folders, link
        if heading:
            assert heading in headings(path), link


def headings(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found = re.findall(r"^#+ (.+)$", documents.without_code_blocks(page), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found
    }
