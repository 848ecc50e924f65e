"""Finds faces in pictures and answers for each: age, gender, race, as perceived.

    python predict.py --model=exports/faces/hydranet.tflite --output=faces.csv \
        holiday/ 'scans/*.png' portrait.jpg

writes one row a face; a picture without one has the status no_face, one that
cannot be read its reason. The same command again goes on where it was broken off.
The exit code is the number of unreadable pictures (100: or more); 120: nothing
could be run. More: docs/photographs.md. The answers estimate what annotators saw
in pictures. They are not facts about a person.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

_MODEL = flags.DEFINE_string(
    "model", None, "A workdir, a SavedModel folder or a .tflite file.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The rows: a .csv or a .jsonl file.", required=True
)
_ANNOTATE = flags.DEFINE_string("annotate", None, "Folder for drawn pictures.")
_NO_DETECT = flags.DEFINE_bool(
    "no_detect", False, "Search no faces: each picture is one, cut as UTKFace's are."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1)
_RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "ray"], "Who answers: see docs/photographs.md."
)


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf import photographs, runtimes

    try:
        summary = photographs.predict(
            argv[1:],
            _MODEL.value,
            _OUTPUT.value,
            detect=not _NO_DETECT.value,
            annotate=_ANNOTATE.value,
            batch_size=_BATCH_SIZE.value,
            runner=_RUNNER.value,
        )
    except (*photographs.ERRORS, runtimes.LoadError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 120
    print(summary)
    return summary.exit_code


if __name__ == "__main__":
    app.run(main)
