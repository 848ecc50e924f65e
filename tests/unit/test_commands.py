"""The command `hydranet`: what is typed, what is said, how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest

import hydranet_tf
from hydranet_tf import errors
from hydranet_tf.commands import main

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = REPOSITORY / "hydranet_tf" / "commands"


def hydranet(*arguments, cwd=REPOSITORY, before=""):
    """Runs the command in a process, after some lines of Python."""
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
        f"sys.argv[1:] = {list(arguments)!r}\n{before}\n"
        "from hydranet_tf.commands.main import main\nmain()"
    )
    return forks.run(["-c", script], cwd=cwd)


def test_every_command_has_its_module_and_its_line():
    modules = {path.stem for path in COMMANDS.glob("*.py")}
    assert modules - {"__init__", "main", "running"} == set(main.COMMANDS)
    done = hydranet("--help")
    assert done.returncode == 0
    for name, what in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", done.stdout, re.M)


def test_help_imports_nothing_and_is_quick():
    """0.3 s is the promise; a machine at work gets the best of five."""
    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from hydranet_tf.commands.main import main\nmain()\n"
        "heavy = {'absl', 'numpy', 'keras', 'cv2'} & set(sys.modules)\n"
        "sys.exit(bool(heavy))"
    )
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.3


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_the_help_of_a_command_lists_its_flags(name):
    done = hydranet(name, "--help")
    assert done.returncode == 0, done.stderr
    defined = re.findall(
        r'flags\.DEFINE_\w+\(\s*"(\w+)"', (COMMANDS / f"{name}.py").read_text()
    )
    assert defined
    for flag in defined:
        assert re.search(rf"^  --(\[no\])?{flag}: ", done.stdout, re.M), flag
    assert f"hydranet {name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "no command ''"),
        (("predikt",), 2, "did you mean predict?"),
        # 1 would be one unreadable picture.
        (("predict", "--outptu=x.csv", "a.jpg"), 120, "'outptu'"),
        (("predict", "nowhere.jpg"), 120, "no picture at nowhere.jpg"),
        (("predict",), 120, "no picture at no path at all"),
        (("predict", "--frames=f.csv", "a.jpg"), 120, "--frames is a flag of films"),
        (("predict", "--camera=77"), 120, "none with the number 77"),
        (("predict", "--camera=0", "--no_detect"), 120, "--no_detect is a flag of pic"),
        (("evaluate", "--model=m", "--data=d", "--output=o", "x"), 1, "arguments: x"),
        (("export", "--output=o"), 1, "--workdir"),
        (("serve", "--port=70000"), 1, "[0, 65535]"),
        (("serve", "--model=nowhere.tflite"), 1, "nowhere.tflite"),
    ],
)
def test_a_mistake_is_answered_in_a_few_lines(arguments, code, says, tmp_path):
    done = hydranet(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (("train", "--workdir=run"), "keras", "train"),
        (("evaluate", "--model=m", "--data=d", "--output=o"), "tensorflow", "train"),
        (("export", "--workdir=w", "--output=o"), "tensorflow", "train"),
        (("serve",), "fastapi", "serve"),
    ],
)
def test_without_its_extra_a_command_names_it(command, package, extra, tmp_path):
    block = f"sys.modules[{package!r}] = None"
    done = hydranet(*command, cwd=tmp_path, before=block)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"hydranet {command[0]}: the package {package} is needed here and not "
        f"installed: {errors.installation(extra)}"
    )
    assert "Traceback" not in done.stderr


def test_a_film_without_its_extra_names_it(tmp_path):
    (tmp_path / "clip.mp4").touch()
    block = "sys.modules['trackers'] = None"
    done = hydranet("predict", "clip.mp4", cwd=tmp_path, before=block)
    assert done.returncode == 120 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "hydranet predict: the package trackers is needed here and not installed: "
        f"{errors.installation('video')}"
    )


def test_the_module_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "hydranet_tf", "--version"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"hydranet_tf {hydranet_tf.__version__}\n"


@pytest.mark.parametrize("name", ["predict", "train", "evaluate", "export"])
def test_the_script_at_the_root_is_the_same_command(name):
    """By their help, which names all flags: the same but for nothing."""
    script = forks.run([REPOSITORY / f"{name}.py", "--help"])
    assert script.returncode == 0 and script.stdout == hydranet(name, "--help").stdout


def test_the_demo_says_that_it_needs_the_repository(tmp_path):
    before = (
        "from pathlib import Path; import hydranet_tf.commands.demo as demo\n"
        f"demo.ROOT = Path({str(tmp_path)!r})"
    )
    done = hydranet("demo", before=before)
    assert done.returncode == 1 and "needs the repository" in done.stderr
