"""Exports a trained run to SavedModel and LiteRT, checked on real examples.

    python export.py --workdir=runs/faces --output=exports/faces

writes exports/faces/hydranet/1 (SavedModel; 2, 3, ... when repeated),
exports/faces/hydranet.tflite with hydranet.json, and export.json, and prints
how far their answers are from the Keras model's.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", None, "A run of train.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.", required=True)
_FORMAT = flags.DEFINE_list("format", "saved_model,litert", "What to write.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Weights.")
_DATA = flags.DEFINE_string(
    "data", None, "Faces to check the export on, as in train.py; else the run's own."
)
_SPLIT = flags.DEFINE_string("split", "validation", "Part of the data to check on.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "Split lists of a folder.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing .tflite file.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # TensorFlow logs every function and variable that it saves.
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf import exporting

    try:
        artefacts = exporting.export_run(
            _WORKDIR.value,
            _OUTPUT.value,
            _FORMAT.value,
            checkpoint=_CHECKPOINT.value,
            data=_DATA.value,
            split=_SPLIT.value,
            data_dir=_DATA_DIR.value,
            split_lists=_SPLIT_LISTS.value,
            overwrite=_OVERWRITE.value,
        )
    except exporting.ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(exporting.table(artefacts))
    print(*(f"wrote {artefact.path}" for artefact in artefacts), sep="\n")


if __name__ == "__main__":
    app.run(main)
