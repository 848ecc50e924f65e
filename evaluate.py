"""Evaluates a model: a report with intervals, groups, calibration and pictures.

    python evaluate.py --model=runs/faces --data=drawn_faces --output=reports/faces

The model is a workdir of train.py, or of export.py a SavedModel, a preset or a
.tflite file.
Writes report.md (read this first), report.json, predictions.csv and pictures.
Labels are what annotators saw in a picture, not facts about a person.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

MODEL = flags.DEFINE_string(
    "model", None, "A workdir, SavedModel, preset or .tflite file.", required=True
)
DATA = flags.DEFINE_string(
    "data", None, "TFDS name, folder of UTKFace names or .csv file.", required=True
)
SPLIT = flags.DEFINE_enum(
    "split", "validation", ["train", "validation", "test", "all"], "Part of the data."
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets.")
SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "Split lists of a folder.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.", required=True)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images at once.", lower_bound=1)
MAX_BAD_IMAGES = flags.DEFINE_integer(
    "max_bad_images", 10, "Unreadable images to leave out and list.", lower_bound=0
)
CALIBRATE = flags.DEFINE_bool(
    "calibrate", False, "First fit temperatures on these examples, into the workdir."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags alone; got {argv[1:]}")
    # TFDS and TensorFlow report every file they open.
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.reports import evaluation

    names = ("data_dir", "split_lists", "batch_size", "max_bad_images", "calibrate")
    options = {name: flags.FLAGS[name].value for name in names}
    try:
        found = evaluation.evaluate_model(
            MODEL.value, DATA.value, SPLIT.value, OUTPUT.value, **options
        )
    except evaluation.ERRORS as error:
        sys.exit(f"evaluate.py: {error}")
    print(evaluation.summary(found, OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
