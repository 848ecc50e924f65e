"""Dockerfile and compose file: linted, and of one mind with the service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from hydranet_tf.commands import main

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def test_the_dockerfile_has_no_fault_that_a_linter_finds():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_all_that_the_wheel_is_made_of_goes_into_the_image():
    """The context leaves out everything that is not named."""
    first, *others = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert first == "*"
    kept = {line.removeprefix("!") for line in others if line.startswith("!")}
    assert kept == {
        "hydranet_tf",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "setup.cfg",
    }
    assert all((REPOSITORY / name).exists() for name in kept)


def test_ports_commands_and_health_agree():
    (command,) = re.findall(r'^CMD \["(\w+)", "--host=0\.0\.0\.0"\]$', DOCKERFILE, re.M)
    assert command in main.COMMANDS
    service = (REPOSITORY / "hydranet_tf" / "commands" / "serve.py").read_text()
    (port,) = re.findall(r'"port", (\d+)', service)
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"http://127.0.0.1:{port}/readyz" in DOCKERFILE
    composed = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    (service,) = composed["services"].values()
    # This machine alone.
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_workflows_name_what_is_there():
    folder = REPOSITORY / ".github" / "workflows"
    for path in folder.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        # YAML 1.1 reads `on` as a truth value.
        assert {"name", True, "jobs"} <= set(workflow)
        for name, job in workflow["jobs"].items():
            needed = job.get("needs", [])
            needed = [needed] if isinstance(needed, str) else needed
            assert set(needed) <= set(workflow["jobs"]), name
            for step in job["steps"]:
                for target in re.findall(r"^make (\w+)", step.get("run", ""), re.M):
                    makefile = (REPOSITORY / "Makefile").read_text()
                    assert re.search(rf"^{target}:", makefile, re.M), target
