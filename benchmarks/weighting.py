"""Do learned loss weights earn their place: against fixed ones, and single tasks.

    python benchmarks/weighting.py --data=UTKFace \
        --split_lists=datasets/utkface/splits --workdir=runs/weighting \
        --json=bench_output/weighting.json

trains the same small network with the same budget (ResNet18 of quarter width at 32
pixels, the published loss of MAE, BCE and CE) several times: with learned weights; with
the fixed weights 1, 1, 1; with two sets of fixed weights, of which the better is what
hand-tuning finds; and with two of the three weights at 0, which makes a network of one
task. Each with every seed, see seeds.py. "Hand-tuned" is chosen on the faces that
score, which favours it against the learned weights. Flags of train.py after `--`
replace those of the small network.
"""

import seeds
from absl import app, flags

_EPOCHS = flags.DEFINE_integer("epochs", 4, "Of each run.", lower_bound=2)

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
    found = {
        weights: seeds.kind(weights, settings(weights, argv[1:]))
        for weights in (LEARNED, EQUAL, *TUNED, *SINGLE.values())
    }
    print()
    print("\n".join(table(found)))
    seeds.keep(found)


def settings(weights, more):
    epochs = f"--epochs={_EPOCHS.value}"
    return [*_SETTINGS, epochs, f"--loss_weights={weights}", *more]


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
