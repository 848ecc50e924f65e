"""Do learned loss weights earn their place: against fixed ones, and single tasks.

    python benchmarks/weighting.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --workdir=runs/weighting \
        --json=results/weighting.json

trains the same small network with the same budget (ResNet18 of quarter width at 32
pixels, the published loss of MAE, BCE and CE) several times: with learned weights; with
the fixed weights 1, 1, 1; with two sets of fixed weights, of which the better is what
hand-tuning finds; and with two of the three weights at 0, which makes a network of one
task. Each with every seed. Every run is a workdir of train.py: what is interrupted goes
on, what is finished is only read.

Scores are of the last epoch, not of the best: nothing is chosen on the faces that
score. "Hand-tuned" is chosen on them, which favours it against the learned weights.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from absl import app, flags

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", "", "As in train.py.")
_CACHE = flags.DEFINE_string("cache", "memory", "As in train.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs of each kind.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Of each run.", lower_bound=2)
_JSON = flags.DEFINE_string("json", None, "File for the raw numbers.")

_ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = (
    "--backbone=resnet18", "--width=16", "--image_size=32", "--batch_size=64",
    "--optimizer=adamw", "--learning_rate=2e-3", "--weight_decay=0.05",
    "--schedule=cosine", "--warmup_epochs=1", "--xla",
)  # fmt: skip

LEARNED, EQUAL = "learned", "1,1,1"
TUNED = ("0.1,1,1", "0.03,1,1")
SINGLE = {"age": "1,0,0", "gender": "0,1,0", "race": "0,0,1"}
SCORES = {
    "age": "val_age_mae",
    "gender": "val_gender_accuracy",
    "race": "val_race_accuracy",
}


def main(argv):
    # What is not known here is for train.py: a smaller network, say.
    found = {}
    for weights in (LEARNED, EQUAL, *TUNED, *SINGLE.values()):
        found[weights] = [trained(weights, s, argv[1:]) for s in range(_SEEDS.value)]
        for run in found[weights]:
            print(weights, *(f"{SCORES[t]} {run[t]:.4f}" for t in SCORES), flush=True)
    print()
    print("\n".join(table(found)))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


def trained(weights, seed, more):
    """Scores of the last epoch by task."""
    workdir = Path(_WORKDIR.value) / f"{weights.replace(',', '_')}-seed{seed}"
    subprocess.run(
        [
            sys.executable, _ROOT / "train.py", *_SETTINGS, f"--data={_DATA.value}",
            f"--data_dir={_DATA_DIR.value}", f"--split_lists={_SPLIT_LISTS.value}",
            f"--cache={_CACHE.value}", f"--epochs={_EPOCHS.value}", f"--seed={seed}",
            f"--loss_weights={weights}", f"--workdir={workdir}", *more,
        ],
        check=True,
    )  # fmt: skip
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return {task: last[name] for task, name in SCORES.items()}


def table(found):
    """Lines of Markdown: mean over seeds, and the range from seed to seed."""
    rows = {
        "learned weights": found[LEARNED],
        "1, 1, 1": found[EQUAL],
        **{f"fixed {weights.replace(',', ', ')}": found[weights] for weights in TUNED},
    }
    singles = [found[weights] for weights in SINGLE.values()]
    # Of each network its own task.
    rows["three networks of one task"] = [
        {task: run[task] for task, run in zip(SINGLE, runs, strict=True)}
        for runs in zip(*singles, strict=True)
    ]
    yield "| loss weights of age, gender, race | age MAE | gender | race |"
    yield "|---|---:|---:|---:|"
    for name, runs in rows.items():
        cells = [cell(task, [run[task] for run in runs]) for task in SCORES]
        yield f"| {name} | {' | '.join(cells)} |"


def cell(task, values):
    scale, unit = (1, " years") if task == "age" else (100, " %")
    mean, half = statistics.mean(values), (max(values) - min(values)) / 2
    return f"{scale * mean:.2f} ± {scale * half:.2f}{unit}"


if __name__ == "__main__":
    app.run(main)
