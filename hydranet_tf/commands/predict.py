"""Finds faces in pictures and predicts for each: age, gender, race, as perceived.

    hydranet predict portrait.jpg holiday/

prints a line a face, predicted by the released network. With --output=faces.csv
(or .jsonl) there is a row a face instead, and the same command again goes on where it
was broken off; --model takes any other network. A picture without a face, and one
that cannot be read, have their line too; the next run tries the latter again. A dash
(-) stands for a picture from standard input. Films (clip.mp4) and a --camera give a
row for each face that is followed through their frames: docs/video.md. The exit code
is the number of unreadable files (100: or more); 120: the run could not begin or go
on; 130: Ctrl-C. More: docs/photographs.md. The predictions estimate what annotators
saw in pictures. They are not facts about a person.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from absl import flags

from hydranet_tf.commands import running
from hydranet_tf.errors import HydraNetError

# An exit code that is not a number of unreadable pictures.
FAILED = 120
# As shells have it for a process that Ctrl-C ended.
INTERRUPTED = 130

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir, SavedModel, preset, .tflite, name; else the released one.",
)
_OUTPUT = flags.DEFINE_string("output", None, "The rows: a .csv or a .jsonl file.")
_BOM = flags.DEFINE_bool(
    "bom", False, "Begin a new .csv file so that Excel takes it for UTF-8."
)
_ANNOTATE = flags.DEFINE_string("annotate", None, "Folder for drawn pictures.")
_SAVE_CROPS = flags.DEFINE_string(
    "save_crops", None, "Folder for the faces as the network sees them."
)
_RUNTIME = flags.DEFINE_enum(
    "runtime", "auto", ["auto", "litert", "onnxruntime", "openvino"],
    "What runs a file: LiteRT a .tflite, the others an .onnx.",
)  # fmt: skip
_NO_DETECT = flags.DEFINE_bool(
    "no_detect", False, "Search no faces: each picture is one, cut as UTKFace's are."
)
# The default of hydranet_tf.data.detection, which --help does without.
_MIN_SCORE = flags.DEFINE_float(
    "min_score", 0.88, "Detection score of the least sure face.", 0, 1
)
_MIN_FACE = flags.DEFINE_integer(
    "min_face", None,
    "Width in pixels of the smallest face; by default a fortieth of the picture's "
    "shorter side, or 16.", lower_bound=1,
)  # fmt: skip
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1)
_RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "ray"], "What predicts: see docs/photographs.md."
)
_CAMERA = flags.DEFINE_string(
    "camera", None, "In the place of files: a camera's number or address, until Ctrl-C."
)
_FRAMES = flags.DEFINE_string(
    "frames", None, "Of films: one more .csv or .jsonl, a row a face of each frame."
)
_FRAME_STEP = flags.DEFINE_integer(
    "frame_step", 1, "Of films: every so many frames one is searched.", lower_bound=1
)


def main(paths: list[str]) -> int:
    """Predicts for the faces of the pictures that some paths name."""
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.data import detection
    from hydranet_tf.photos import predict, video

    finder = detection.FaceFinder(_MIN_SCORE.value, _MIN_FACE.value)

    if sys.stdout is None:
        # As `>&-` leaves it.
        if _OUTPUT.value is None:
            raise running.CommandError("standard output is closed: name an --output")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    shared = {
        "model": _MODEL.value,
        "output": _OUTPUT.value,
        "annotate": _ANNOTATE.value,
        "bom": _BOM.value,
        "batch_size": _BATCH_SIZE.value,
        "engine": _RUNTIME.value,
    }
    try:
        films = video.films_of(paths)
        if films or _CAMERA.value is not None:
            _refuse(_NO_DETECT, _SAVE_CROPS, _RUNNER, what="of pictures, not of films")
            summary = video.predict(
                films or paths,
                camera=_CAMERA.value,
                frames=_FRAMES.value,
                frame_step=_FRAME_STEP.value,
                detector=finder,
                **shared,
            )
        else:
            _refuse(_FRAMES, _FRAME_STEP, what="of films, not of pictures")
            summary = predict.predict(
                paths,
                detector=None if _NO_DETECT.value else finder,
                save_crops=_SAVE_CROPS.value,
                runner=_RUNNER.value,
                **shared,
            )
        # File names may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
        print(summary, flush=True)
    except (HydraNetError, OSError) as error:
        # Or Python would fail once more at the end, with what it could not write.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise running.CommandError(error) from error
    except ImportError:
        # An extra that is not installed, of which `running` knows the name.
        raise
    except KeyboardInterrupt:
        print(
            "stopped; what is written stays, and the same command goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    except Exception:
        # Python's own code, 1, would say that one picture is unreadable.
        traceback.print_exc()
        return FAILED
    return summary.exit_code


def _refuse(*asked: flags.FlagHolder, what: str) -> None:
    for one in asked:
        if one.value != one.default:
            raise running.CommandError(f"--{one.name} is a flag {what}")
