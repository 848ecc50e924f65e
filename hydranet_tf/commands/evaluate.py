"""Evaluates a model: a report with intervals, groups, calibration and pictures.

    hydranet evaluate --model=runs/faces --output=reports/faces

The model is a workdir of a training run, or with --data a SavedModel, a preset or a
.tflite file. Writes report.md and report.html (read one of them first), report.json,
predictions.csv and pictures. Labels are what annotators saw, not facts about a person.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As in train.

from absl import app, flags

from hydranet_tf import notices

flags.DEFINE_string("model", None, "Workdir, SavedModel, preset or .tflite file.")
flags.DEFINE_string(
    "data", None,
    "TFDS name, folder of UTKFace names or .csv file; by default the data that the run "
    "was trained on, with its split lists, columns and classes.",
)  # fmt: skip
flags.DEFINE_string("output", None, "Folder of the report.")
flags.mark_flags_as_required(["model", "output"])
flags.DEFINE_enum(
    "split", "validation", ["train", "validation", "test", "all"], "Part of the data."
)
# What evaluate_sources takes by the same names.
flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets.")
flags.DEFINE_string("split_lists", None, "Split lists of a folder.")
flags.DEFINE_string("columns", None, "Names of a table's columns, as in train.py.")
flags.DEFINE_string("classes", None, "Names of a table's classes, as in train.py.")
flags.DEFINE_integer(
    "batch_size", 64, "Images that are predicted at once.", lower_bound=1
)
flags.DEFINE_integer(
    "max_bad_images", 10, "Most unreadable images to leave out and list.", lower_bound=0
)
flags.DEFINE_bool(
    "fit_temperatures", False, "Fit temperatures first, and keep them in the workdir."
)
# Its name before 0.2, for one version.
flags.DEFINE_alias("calibrate", "fit_temperatures")
flags.DEFINE_bool("crop_faces", False, "Photographs: find and crop their faces first.")
flags.DEFINE_bool("show_faces", False, "Show faces in report.html and the projector.")
flags.DEFINE_string("projector", None, "Folder for TensorBoard: features of faces.")
OPTIONS = ("data_dir", "split_lists", "columns", "classes", "batch_size",
           "max_bad_images", "fit_temperatures", "crop_faces", "show_faces",
           "projector")  # fmt: skip


def main(arguments: list[str]) -> None:
    """Evaluates, and writes the report."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    # Imported here so that --help and a wrong flag answer at once.
    with notices.held_back():
        from hydranet_tf.evaluation import evaluate

    given = flags.FLAGS
    options = {name: given[name].value for name in OPTIONS}
    found = evaluate.evaluate_sources(
        given.model, given.data, given.split, given.output, **options
    )
    print(evaluate.summaries(found, given.output))
