"""What fine-tuning on a few faces of one group gains on other faces of that group.

    python benchmarks/fine_tuning.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --race=white --from_age=40 \
        --count=60 --output=runs/white_40 -- \
        --freeze=backbone --learning_rate=1e-3 --epochs=15

takes `--count` faces of the group from the validation part, which the network was not
trained on: four fifths to train, one fifth to choose the epoch. It hands them and the
flags behind -- to train.py, and compares the start and the best epoch on all other
faces of the group, which neither saw.
"""

import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags

from hydranet_tf import notices
from hydranet_tf.data import sources
from hydranet_tf.tasks import MISSING, RACE, TASKS

ROOT = Path(__file__).resolve().parents[1]
_DATA = flags.DEFINE_string("data", None, "Folder of UTKFace names.", required=True)
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_START = flags.DEFINE_string("start_from", "photo_dlib29", "As in train.py.")
_RACE = flags.DEFINE_enum("race", "white", RACE.classes, "Of the group.")
_FROM_AGE = flags.DEFINE_float("from_age", 40, "The youngest of the group.")
_TO_AGE = flags.DEFINE_float("to_age", 130, "Everybody is younger.")
_COUNT = flags.DEFINE_integer("count", 60, "Faces to train and to validate on.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice of faces.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder: faces.csv, run.", required=True)


def write_table(examples: sources.Examples, rows: np.ndarray, path: Path) -> None:
    """Rows in their order: the first `--count` to train and validate, the rest test."""
    folder = Path(_DATA.value).resolve()
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", *(task.name for task in TASKS), "split"])
        for number, row in enumerate(rows):
            split = "train" if number < _COUNT.value * 4 // 5 else "validation"
            labels = [_word(task, examples.labels[task.name][row]) for task in TASKS]
            place = os.path.relpath(folder / examples.ids[row], path.parent.resolve())
            table.writerow(
                [place, *labels, "test" if number >= _COUNT.value else split]
            )


def _word(task, value) -> str:
    if value == MISSING:
        return ""
    return f"{value:g}" if task.is_regression else task.classes[value]


def compare(data: Path, run: Path) -> list[str]:
    """The start and the best epoch on the faces that neither saw."""
    with notices.held_back():
        from hydranet_tf.data import pipeline
        from hydranet_tf.inference import loading
        from hydranet_tf.training import fine_tuning

    scores = []
    for place in (loading.folder_of(_START.value), run):
        model = loading.load(place)
        faces = pipeline.load_faces(
            sources.open_source(str(data), "test"), model.image_size
        )
        scores.append(fine_tuning.example_scores(model, faces, 32))
    return [f"{len(faces)} faces that it has not seen", *fine_tuning.compared(*scores)]


def main(argv: list[str]) -> None:
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    examples = sources.open_source(
        _DATA.value, "validation", split_lists=_SPLIT_LISTS.value
    )
    age, race = examples.labels["age"], examples.labels["race"]
    in_group = (age >= _FROM_AGE.value) & (age < _TO_AGE.value)
    in_group &= race == RACE.classes.index(_RACE.value)
    rows = np.random.default_rng(_SEED.value).permutation(np.flatnonzero(in_group))
    if len(rows) <= _COUNT.value:
        raise app.UsageError(f"the group has {len(rows)} faces in the validation part")
    write_table(examples, rows, output / "faces.csv")
    subprocess.run(
        [sys.executable, ROOT / "train.py", f"--data={output / 'faces.csv'}",
         f"--start_from={_START.value}", f"--workdir={output / 'run'}", *argv[1:]],
        check=True,
    )  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of processor time", flush=True)
    print(*compare(output / "faces.csv", output / "run"), sep="\n")


if __name__ == "__main__":
    notices.begin(sys.argv[1:])
    app.run(main)
