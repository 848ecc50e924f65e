"""Exports a trained run to SavedModel and LiteRT, checked on real examples.

    hydranet export --model=runs/faces --output=exports/faces

writes exports/faces/hydranet/1 (SavedModel; 2, 3, ... when repeated),
exports/faces/hydranet.tflite with hydranet.json, and export.json, and prints
how their predictions and their speed compare.
"""

from __future__ import annotations

from absl import app, flags

from hydranet_tf import notices

_MODEL = flags.DEFINE_string(
    "model", None, "Workdir of train.py, a preset, or the name of a released network."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "--model by its earlier name.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.", required=True)
_FORMAT = flags.DEFINE_list(
    "format", "saved_model,litert", "What to write: saved_model, litert, onnx, preset."
)
_VARIANTS = flags.DEFINE_list(
    "litert_variants",
    "float32",
    "LiteRT files: float32, float16, dynamic, int8, integer.",
)
_DYNAMIC = flags.DEFINE_bool(
    "dynamic_batch", False, "LiteRT files take any number of images."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which weights of a run."
)
_DATA = flags.DEFINE_string(
    "data", None, "Faces to check the export on, as in train.py; else the run's own."
)
_SPLIT = flags.DEFINE_string("split", "validation", "Part of the data to check on.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "Split lists of a folder.")
_COLUMNS = flags.DEFINE_string(
    "columns", None, "Names of a table's columns, as in train.py."
)
_CLASSES = flags.DEFINE_string(
    "classes", None, "Names of a table's classes, as in train.py."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace .tflite and .onnx files and a preset."
)
_REPORT = flags.DEFINE_string(
    "report", None, "Folder of a report of evaluate.py, for the model card."
)


def main(arguments: list[str]) -> None:
    """Exports, checks, and says what was written."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    if bool(_MODEL.value) == bool(_WORKDIR.value):
        raise app.UsageError("expected --model=WORKDIR_OR_PRESET (or --workdir)")
    # Imported here so that --help and a wrong flag answer at once.
    with notices.held_back():
        from hydranet_tf.exporting import export

    request = [f.value for f in (_FORMAT, _VARIANTS, _DYNAMIC, _OVERWRITE)]
    others = (_CHECKPOINT, _DATA, _SPLIT, _DATA_DIR, _SPLIT_LISTS, _COLUMNS, _CLASSES,
              _REPORT)  # fmt: skip
    done = export.export_run(
        *(_MODEL.value or _WORKDIR.value, _OUTPUT.value, export.Request(*request)),
        **{flag.name: flag.value for flag in others},
    )
    if done.representative_faces:
        print(done.representative_faces.summary())
    print(done.table)
    print(*(f"wrote {exported.path}" for exported in done.models), sep="\n")
