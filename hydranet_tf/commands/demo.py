"""The whole path on drawn faces: data, training, report, exports, predictions.

    hydranet demo --output=demo_output

Runs the same commands that a user types, one after the other, and shows each.
A second run goes on from what the first one left in the folder. The faces are drawn by
datasets/drawn_faces, which is part of the repository and not of the wheel.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from absl import app, flags

from hydranet_tf import notices
from hydranet_tf.commands import running

ROOT = Path(__file__).resolve().parents[2]
_BUILDER = "datasets/drawn_faces/drawn_faces_dataset_builder.py"
_OUTPUT = flags.DEFINE_string("output", "demo_output", "Folder to write into.")
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "Train for so many instead of what the settings say."
)


def run(title: str, script: str, *arguments: str) -> None:
    """Runs one of the project's scripts as a user would, and shows how."""
    if flags.FLAGS["verbosity"].present:
        arguments += (f"--verbosity={flags.FLAGS.verbosity}",)
    print(f"\n== {title}\n$ python {script} {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, ROOT / script, *arguments], check=True)


def draw_predictions(tflite: Path, data_dir: Path, picture: Path) -> None:
    """Shows the exported file's predictions under faces it has never seen."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with notices.held_back():
        from hydranet_tf.data import decoding, pipeline, sources
        from hydranet_tf.inference import runtimes
        from hydranet_tf.worst_predictions import format_prediction

    model = runtimes.load(tflite)
    examples = sources.open_source("drawn_faces", "test", data_dir=str(data_dir))
    faces = pipeline.load_faces(examples.select(range(10)), model.image_size)
    predictions = model.predictions(faces.images)
    figure, axes = plt.subplots(2, 5, figsize=(10, 5.6), layout="constrained")
    for i, axis in enumerate(axes.flat):
        axis.imshow(decoding.decode(faces.examples.read(i)))
        axis.set_axis_off()
        lines = [
            format_prediction(task, predictions[task.name][i]) for task in model.tasks
        ]
        labels = faces.examples.labels
        truth = [task.format_label(labels[task.name][i]) for task in model.tasks]
        axis.set_title(f"{lines[0]}\n{', '.join(lines[1:])}", fontsize=9)
        axis.text(
            0.5, -0.02, f"drawn as {', '.join(truth)}", fontsize=8, color="0.35",
            ha="center", va="top", transform=axis.transAxes,
        )  # fmt: skip
    figure.suptitle(
        f"Predictions of {tflite.name} for drawn test faces: shapes, not people, "
        "carry the labels",
        fontsize=11,
    )
    figure.savefig(picture, dpi=110)


def main(arguments: list[str]) -> None:
    """Goes the whole path, and says where everything lies."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    if not (ROOT / _BUILDER).is_file():
        raise running.CommandError(
            f"the demo needs the repository: {_BUILDER} is not part of the wheel. "
            "Clone it and type `make demo` there"
        )
    out = Path(_OUTPUT.value)
    data, workdir = out / "data", out / "run"
    report, exports = out / "report", out / "exports"
    of_data = ("--data=drawn_faces", f"--data_dir={data}")
    run("Drawing faces", _BUILDER, f"--data_dir={data}")
    flagfile = os.path.relpath(ROOT / "configs" / "drawn_faces_tiny.flags")
    epochs = [] if _EPOCHS.value is None else [f"--epochs={_EPOCHS.value}"]
    run(
        "Training the tiny network", "train.py", f"--flagfile={flagfile}",
        f"--data_dir={data}", f"--workdir={workdir}", *epochs,
    )  # fmt: skip
    run(
        "Evaluating it on test faces", "evaluate.py", f"--model={workdir}",
        *of_data, "--split=test", f"--output={report}",
    )  # fmt: skip
    run(
        "Exporting", "export.py", f"--workdir={workdir}", f"--output={exports}",
        "--overwrite",
    )  # fmt: skip
    picture = out / "predictions.png"
    draw_predictions(exports / "hydranet.tflite", data, picture)
    newest = max((exports / "hydranet").iterdir(), key=lambda p: int(p.name))
    print(
        f"\nDone. Look at\n"
        f"  {report / 'report.md'}  scores, worst groups first\n"
        f"  {report}/*.png  its pictures\n"
        f"  {picture}  faces with the exported file's predictions\n"
        f"  {newest}/  SavedModel for servers\n"
        f"  {exports / 'hydranet.tflite'}  LiteRT for phones and browsers\n"
        f"  {workdir}/  the run: settings, metrics.jsonl, checkpoints"
    )
