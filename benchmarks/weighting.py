"""Do learned loss weights earn their place: against fixed ones, and single tasks.

    python benchmarks/weighting.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --workdir=runs/weighting \
        --json=results/weighting.json

trains the same small network with the same budget (ResNet18 of quarter width at 32
pixels, the published loss of MAE, BCE and CE) several times: with learned weights; with
the fixed weights 1, 1, 1; with two sets of fixed weights, of which the better is what
hand-tuning finds; and with two of the three weights at 0, which makes a network of one
task. Each with every seed, see seeds.py. "Hand-tuned" is chosen on the faces that
score, which favours it against the learned weights. Flags of train.py after `--`
replace those of the small network.
"""

import json
from pathlib import Path

import seeds
from absl import app, flags

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", "", "As in train.py.")
_CACHE = flags.DEFINE_string("cache", "memory", "As in train.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs of each kind.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Of each run.", lower_bound=2)
_JSON = flags.DEFINE_string("json", None, "File for the raw numbers.")

_SETTINGS = (
    "--backbone=resnet18", "--width=16", "--image_size=32", "--batch_size=64",
    "--optimizer=adamw", "--learning_rate=2e-3", "--weight_decay=0.05",
    "--schedule=cosine", "--warmup_epochs=1", "--xla",
)  # fmt: skip

LEARNED, EQUAL = "learned", "1,1,1"
TUNED = ("0.1,1,1", "0.03,1,1")
SINGLE = {"age": "1,0,0", "gender": "0,1,0", "race": "0,0,1"}


def main(argv):
    # What is not known here is for train.py: a smaller network, say.
    found = {}
    for weights in (LEARNED, EQUAL, *TUNED, *SINGLE.values()):
        found[weights] = [trained(weights, s, argv[1:]) for s in range(_SEEDS.value)]
        for run in found[weights]:
            print(weights, *(f"{task} {run[task]:.4f}" for task in run), flush=True)
    print()
    print("\n".join(table(found)))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


def trained(weights, seed, more):
    workdir = Path(_WORKDIR.value) / f"{weights.replace(',', '_')}-seed{seed}"
    settings = (
        *_SETTINGS, f"--data={_DATA.value}", f"--data_dir={_DATA_DIR.value}",
        f"--split_lists={_SPLIT_LISTS.value}", f"--cache={_CACHE.value}",
        f"--epochs={_EPOCHS.value}", f"--seed={seed}", f"--loss_weights={weights}",
    )  # fmt: skip
    return seeds.trained([*settings, *more], workdir)


def table(found):
    """Lines of Markdown, see `seeds.rows`."""
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
    yield from seeds.rows(rows)


if __name__ == "__main__":
    app.run(main)
