"""Finds faces in pictures and answers for each: age, gender, race, as perceived.

    hydranet predict portrait.jpg holiday/

prints a line a face, predicted by the released network. With --output=faces.csv
(or .jsonl) there is a row a face instead, and the same command again goes on where it
was broken off; --model takes any other network. A picture without a face, and one
that cannot be read, have their line too. The exit code is the number of unreadable
pictures (100: or more); 120: nothing could be run. More: docs/photographs.md. The
answers estimate what annotators saw in pictures. They are not facts about a person.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging

from hydranet_tf.commands import running

# An exit code that is no number of unreadable pictures.
FAILED = 120

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir, SavedModel, preset, .tflite, name; else the released one.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The rows: a .csv or a .jsonl file.")
_ANNOTATE = flags.DEFINE_string("annotate", None, "Folder for drawn pictures.")
_NO_DETECT = flags.DEFINE_bool(
    "no_detect", False, "Search no faces: each picture is one, cut as UTKFace's are."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1)
_RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "ray"], "Who answers: see docs/photographs.md."
)


def main(paths: list[str]) -> int:
    """Answers for the faces of the pictures that some paths name."""
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.photos import predict

    try:
        summary = predict.predict(
            paths,
            _MODEL.value,
            _OUTPUT.value,
            detect=not _NO_DETECT.value,
            annotate=_ANNOTATE.value,
            batch_size=_BATCH_SIZE.value,
            runner=_RUNNER.value,
        )
    except predict.ERRORS as error:
        raise running.CommandError(error) from error
    print(summary)
    return summary.exit_code
