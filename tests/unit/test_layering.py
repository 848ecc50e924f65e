"""Imports go one way between the folders of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "hydranet_tf"

# The network: what stands in no folder of the package, model.py and what it is made of.
NETWORK = "network"
# From first to last. A folder imports from folders on the lines above its own, and
# nothing from those beside it.
ORDER = (
    ("errors", "notices"),
    ("tasks",),
    ("io",),
    ("data", "backbones", "presets"),
    (NETWORK,),
    ("inference",),
    ("training", "photos"),
    ("evaluation", "serving"),
    ("exporting",),
    ("commands",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

# Decision 2 of the design: the network runs on any backend of Keras. What may import
# TensorFlow is the reading of data, training's logs and strategies, and exports.
MAY_IMPORT_TENSORFLOW = {"data", "training", "exporting"}
# tf.distribute, and tf.saved_model.load where such a folder is to be run.
MAY_IMPORT_IT_LATE = {
    "augmentation.py",
    "replicas.py",
    "inference/runtimes.py",
    "inference/predictor.py",
}
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}


def room_of(path: Path) -> str:
    below = path.relative_to(PACKAGE)
    if len(below.parts) > 1:
        return below.parts[0]
    return below.stem if below.stem in RANK else NETWORK


def room_named(module: str, name: str) -> str:
    """The room of what `from module import name` brings."""
    parts = [*module.split(".")[1:], name]
    if (PACKAGE / parts[0]).is_dir() or parts[0] in RANK:
        return parts[0]
    # The package itself: its version, or what its front door shows.
    return NETWORK if (PACKAGE / f"{parts[0]}.py").is_file() else ""


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Every import at any depth of the file: (module, name taken from it or "")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: import by the full name"
            yield from ((node.module, alias.name) for alias in node.names)


def packages_imported(source: str) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(source)}


def rooms_imported(source: str) -> set[str]:
    found = {
        room_named(module, name)
        for module, name in imports(source)
        if module.split(".")[0] == PACKAGE.name
    }
    return found - {""}


def forbidden(room: str, source: str) -> set[str]:
    return {
        other for other in rooms_imported(source) - {room} if RANK[other] >= RANK[room]
    }


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]
FILES += [path for path in sorted(PACKAGE.glob("*.py")) if "__" not in path.stem]


def test_every_folder_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(RANK) - {"errors", "notices", "tasks", NETWORK}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    assert not forbidden(room_of(path), path.read_text())


def test_a_forbidden_import_is_seen():
    late = "def f():\n    from hydranet_tf.exporting import parity\n"
    assert forbidden("inference", late) == {"exporting"}
    assert forbidden("evaluation", late) == {"exporting"}
    assert forbidden("photos", "import hydranet_tf.training.train") == {"training"}
    assert forbidden("data", "from hydranet_tf.model import HydraNet") == {NETWORK}
    assert forbidden("data", "from hydranet_tf import model") == {NETWORK}
    assert forbidden("errors", "from hydranet_tf import notices") == {"notices"}
    assert not forbidden("data", "from hydranet_tf.data import sources")
    assert not forbidden("exporting", "from hydranet_tf import __version__, tasks")


def test_the_network_imports_no_tensorflow():
    importers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if room_of(path) not in MAY_IMPORT_TENSORFLOW
        and packages_imported(path.read_text()) & TENSORFLOW
    }
    assert importers <= MAY_IMPORT_IT_LATE


def test_the_package_imports_no_script_and_no_data_set():
    outside = {"datasets", "benchmarks", "tests", "tools", "demo"}
    outside |= {path.stem for path in REPOSITORY.glob("*.py")}
    for path in FILES:
        wrong = packages_imported(path.read_text()) & outside
        assert not wrong, f"{path} imports {wrong}"


def test_importing_the_package_loads_no_framework():
    """A fresh process, so that what other tests loaded does not count."""
    script = (
        "import hydranet_tf, sys\n"
        "print(sorted({'tensorflow', 'keras', 'jax', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_datasets_is_no_package():
    """As one it would shadow Hugging Face's package of the same name."""
    assert (REPOSITORY / "datasets").is_dir()
    assert not (REPOSITORY / "datasets" / "__init__.py").exists()
