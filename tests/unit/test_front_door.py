"""What `import hydranet_tf` gives, and what it costs."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hydranet_tf

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys, time
start = time.process_time()
import hydranet_tf
spent = time.process_time() - start
before = sorted({"keras", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules))
listed = dir(hydranet_tf)
task = hydranet_tf.Task
after = sorted({"keras", "tensorflow", "jax", "torch"} & set(sys.modules))
print(json.dumps([spent, before, after, listed]))
"""


def test_importing_takes_no_time_and_brings_no_framework():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, before, after, listed = json.loads(done.stdout)
    # Of the processor: what else the machine does plays no part.
    assert seconds < 0.2
    assert before == [] and after == []
    assert set(hydranet_tf.__all__) < set(listed)


@pytest.mark.parametrize("name", hydranet_tf.__all__)
def test_each_name_leads_to_its_place(name):
    found = getattr(hydranet_tf, name)
    assert callable(found) and inspect.getdoc(found)
    module, attribute = hydranet_tf._PLACES[name]
    assert found is getattr(importlib.import_module(f"hydranet_tf.{module}"), attribute)


def test_no_module_takes_a_name_of_the_front_door():
    modules = {module.name for module in pkgutil.iter_modules(hydranet_tf.__path__)}
    assert "model" in modules and not modules & set(hydranet_tf.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'hydranet_tf' has no attribute 'fit'"):
        hydranet_tf.fit  # noqa: B018


# They end a loop of ours, and the user never meets them.
INTERNAL = {"EpochEnded", "Preempted"}


def test_every_error_is_of_one_kind():
    """From the source: importing every module would define every flag."""
    seen = set()
    for path in (ROOT / "hydranet_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or node.name in INTERNAL:
                continue
            bases = {ast.unparse(base) for base in node.bases}
            kinds = {base for base in bases if hasattr(builtins, base)}
            if any(issubclass(getattr(builtins, kind), Exception) for kind in kinds):
                if node.name != "HydraNetError":
                    assert "HydraNetError" in bases, f"{path}: {node.name}"
                    seen.add(node.name)
    assert {"ConfigError", "LoadError", "PictureError", "ReportError"} < seen
