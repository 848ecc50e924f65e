"""The import graph of the package, and the other promises of its layout.

Data flows one way and so do imports. `LAYERS` is the whole order: a module
imports only from layers above its own, so nothing can go round in a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "hydranet_tf"
MAIN_LIMIT = 60

# From first to last. A new module goes where its imports allow and its users need
# it; an edge that this order forbids means that a piece stands in the wrong
# module, or that the order shall change here, with its reason.
LAYERS: tuple[tuple[str, ...], ...] = (
    # What is asked, how text becomes rows, how a file is never left half
    # written, how a signal is heard, what PyTorch wrote: used by all, they use none.
    (
        "tasks",
        "extras",
        "files.tables",
        "files.atomic",
        "files.array_file",
        "runs.preemption",
        "backbones.torch_files",
        "backbones.dlib_files",
        "backbones.onnx_files",
    ),
    # What another network answered, a table.
    ("files.answers",),
    # From the disk to examples to batches. The pixels of one picture, and those of
    # many in TensorFlow, which takes its limits from there.
    ("data.formats",),
    ("data.pixels",),
    (
        "data.preprocessing",
        "data.reading",
        "data.file_names",
        "data.compiled_resize",
    ),
    ("data.examples", "data.strata"),
    ("data.sources",),
    ("data.pipeline",),
    # Faces in a picture, and how they are cut as the training faces were.
    ("photos.detection",),
    ("photos.crops",),
    # The network's parts.
    (
        "backbones.resnet",
        "backbones.efficientnet_lite",
        "backbones.applications",
        "backbones.dlib_resnet",
        "backbones.sface",
        "augmentation",
        "mixup",
    ),
    ("backbones",),
    # Published weights, brought to the names of the backbones.
    ("backbones.published",),
    ("backbones.pretrained",),
    # Flags of a run; it names the backbones and the strengths of augmentation.
    ("config",),
    # Who trains together, and what the model and the optimiser ask of them.
    ("devices.replicas", "devices.cluster", "devices.multi_worker"),
    ("devices.strategies", "runs.gradients", "runs.averaging"),
    # Before the model, because HydraNet.compute_loss calls them.
    ("distributions", "temperatures", "worst_answers"),
    ("losses",),
    ("metrics", "presets"),
    ("model",),
    # A workdir: written by training, read by all that follow.
    ("runs.checkpoints",),
    ("runs.workdir", "runs.networks"),
    (
        "runs.callbacks",
        "runs.curves",
        "runs.worst_faces",
        "runs.starts",
        "runs.soft_labels",
        "runs.proportions",
        "runs.source_scores",
    ),
    ("runs.training",),
    # Files made of a model; the one that answers from any of them, or from a
    # workdir; and the one that makes them and checks their answers.
    ("exports.calibration", "exports.litert_metadata", "exports.serving_warmup"),
    ("exports.saved_model", "exports.litert"),
    ("exports.runtimes",),
    ("exports.parity", "exports.latency"),
    ("exports.artefacts",),
    # Scores of answers, by group, what they say, how that is written and drawn.
    ("reports.scores",),
    ("reports.breakdown", "reports.markdown"),
    ("reports.findings", "reports.report", "reports.report_pictures"),
    ("reports.report_text", "reports.report_html", "reports.worst_examples"),
    # The card quotes the report.
    ("exports.export_table", "exports.model_card"),
    ("exports.exporting",),
    ("reports.parts",),
    # How much the crop matters.
    ("reports.margins",),
    (
        "reports.margin_picture",
        "reports.decade_picture",
        "reports.origins",
        "reports.projector_files",
    ),
    ("reports.evaluation",),
    # Photographs: faces in, answers out; rows on disk; pictures with boxes.
    ("photos.predictor", "photos.face_rows"),
    ("photos.annotation", "photos.face_lines", "photos.sharded"),
    ("photos.photographs",),
    # Photographs and faces over HTTP.
    ("serving.batching", "serving.limits", "serving.pictures", "serving.predict_api"),
    ("serving.app",),
    ("serving.serve",),
    # What a user types.
    ("commands.running",),
    (
        "commands.predict",
        "commands.train",
        "commands.evaluate",
        "commands.export",
        "commands.serve",
        "commands.demo",
    ),
    ("commands.main",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# Decision 2 of the design: these are TensorFlow's subject. All others run on any
# backend of Keras, or on none.
MAY_IMPORT_TENSORFLOW = {
    "data.preprocessing",
    "data.sources",
    "data.pipeline",
    "exports.serving_warmup",
    "exports.saved_model",
    "exports.litert",
    "exports.runtimes",
    "exports.parity",
    "exports.exporting",
    # For tf.summary.
    "runs.curves",
    "runs.worst_faces",
    # For tf.config.enable_op_determinism, on that backend alone.
    "runs.training",
    # For tf.distribute, on that backend alone.
    "devices.replicas",
    "devices.multi_worker",
    "devices.strategies",
}
TENSORFLOW = {"tensorflow", "tensorflow_datasets"}


def module_files() -> dict[str, Path]:
    """Every module of the package by its name below it; `""` is the package."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    return files


ROOMS = (
    "files", "data", "runs", "devices", "exports", "reports", "photos", "serving",
    "commands",
)  # fmt: skip
MODULES = module_files()


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


def modules_imported(source: str) -> set[str]:
    """The package's own modules that a file imports, by their names below it."""
    found = set()
    for module, name in imports(source):
        if module.split(".")[0] == PACKAGE.name:
            below = ".".join(module.split(".")[1:])
            inner = f"{below}.{name}".strip(".")
            found.add(inner if inner in MODULES else below)
    # The package itself, for its version: it imports nothing.
    return found - {""}


def forbidden_edges(name: str, source: str) -> list[str]:
    return [
        f"{name} (layer {RANK[name]}) imports {other} (layer {RANK.get(other)})"
        for other in sorted(modules_imported(source))
        if RANK.get(other, len(LAYERS)) >= RANK[name]
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_holds_and_does_nothing_more(room):
    (docstring,) = ast.parse(MODULES[room].read_text()).body
    assert isinstance(docstring.value.value, str)


def test_every_module_has_its_layer():
    unranked = sorted(set(MODULES) - {"", *ROOMS} - set(RANK))
    assert not unranked, f"give these a place in LAYERS: {unranked}"


def test_every_layer_is_there():
    gone = sorted(set(RANK) - set(MODULES))
    assert not gone, f"these are in LAYERS and no longer in the package: {gone}"
    assert len(RANK) == sum(map(len, LAYERS)), "a module stands in two layers"


@pytest.mark.parametrize("name", sorted(set(MODULES) & set(RANK)))
def test_imports_point_one_way(name):
    assert not forbidden_edges(name, MODULES[name].read_text())


def test_a_forbidden_edge_is_seen():
    late = "def f():\n    from hydranet_tf.inference import runtimes\n"
    assert modules_imported(late) == {"exports.runtimes"}
    assert forbidden_edges("losses", late)
    assert forbidden_edges("losses", "import hydranet_tf.model")
    assert forbidden_edges("losses", "from hydranet_tf.losses import x")
    assert forbidden_edges("backbones.resnet", "from hydranet_tf import backbones")
    assert not forbidden_edges("backbones", "from hydranet_tf.backbones import resnet")
    assert not forbidden_edges("losses", "from hydranet_tf.tasks import TASKS")


def test_the_package_itself_imports_nothing_of_its_own():
    assert not modules_imported(MODULES[""].read_text())


def test_only_the_modules_named_import_tensorflow():
    importers = {
        name
        for name, path in MODULES.items()
        if packages_imported(path.read_text()) & TENSORFLOW
    }
    assert importers <= MAY_IMPORT_TENSORFLOW


def test_the_package_imports_no_script_and_no_data_set():
    outside = {"datasets", "benchmarks", "tests", "demo"}
    outside |= {path.stem for path in REPOSITORY.glob("*.py")}
    for name, path in MODULES.items():
        wrong = packages_imported(path.read_text()) & outside
        assert not wrong, f"{name} imports {wrong}"


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


def test_mains_stay_thin():
    mains = sorted(REPOSITORY.glob("*.py"))
    assert {"train.py", "evaluate.py", "export.py"} <= {path.name for path in mains}
    for path in mains:
        lines = len(path.read_text().splitlines())
        assert lines < MAIN_LIMIT, f"{path.name} has {lines} lines"


def test_datasets_is_no_package():
    """As one it would shadow Hugging Face's package of the same name."""
    assert (REPOSITORY / "datasets").is_dir()
    assert not (REPOSITORY / "datasets" / "__init__.py").exists()
