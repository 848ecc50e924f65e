"""What each part of a recipe is worth: the recipe against itself with one part changed.

    python tools/convert_weights.py --backbone=dlib_resnet29 --source=faces \
        --output=weights/dlib_resnet29.npz
    python benchmarks/recipes.py --data=UTKFace --split_lists=datasets/utkface/splits \
        --weights=weights/dlib_resnet29.npz --workdir=runs/recipes \
        --json=bench_output/recipes.json

trains a short form of `configs/utkface_dlib29_first.flags` (fewer pixels and epochs),
and the same with one change at a time, each with every seed, see seeds.py. What pays
late, as strong augmentation does, is worth less here than in a long run.

With --teacher, predictions of networks for the training faces, being taught is one of
the changes. Flags of train.py after `--` replace those of the recipe.
"""

import seeds
from absl import app, flags

_WEIGHTS = flags.DEFINE_string("weights", "", "--backbone_weights of the recipe.")
_TEACHER = flags.DEFINE_string("teacher", "", "As in train.py.")

_SETTINGS = (
    "--backbone=dlib_resnet29", "--image_size=104", "--epochs=3", "--batch_size=64",
    "--age_head=distribution", "--augmentation=strong", "--optimizer=adamw",
    "--learning_rate=3e-4", "--weight_decay=0.05", "--schedule=cosine",
    "--warmup_epochs=0.5",
)  # fmt: skip

# By the name of a row, what differs from the recipe.
CHANGES = {
    "the recipe": (),
    "standard augmentation": ("--augmentation=standard",),
    "Adam at one rate, as published": (
        "--optimizer=adam", "--schedule=constant", "--weight_decay=1e-5",
        "--warmup_epochs=0",
    ),
    "random first weights": ("--backbone_weights=",),
    "faces mixed, up to 0.3": ("--mixup=0.3",),
    "loss weights 1, 1, 1": ("--loss_weights=1,1,1",),
    "loss weights 0.1, 1, 1": ("--loss_weights=0.1,1,1",),
}  # fmt: skip
TAUGHT = "taught by an ensemble"


def main(argv):
    weights = f"--backbone_weights={_WEIGHTS.value}"
    # What is not known here is for train.py: fewer epochs, say.
    found = {
        name: seeds.kind(name, [*_SETTINGS, weights, *argv[1:], *change])
        for name, change in changes().items()
    }
    print("\n| what differs | age MAE | gender | race |\n|---|---:|---:|---:|")
    print("\n".join(seeds.rows(found)))
    seeds.keep(found)


def changes() -> dict[str, tuple[str, ...]]:
    """`CHANGES`, and being taught where there is a teacher."""
    if not _TEACHER.value:
        return CHANGES
    return {**CHANGES, TAUGHT: (f"--teacher={_TEACHER.value}",)}


if __name__ == "__main__":
    app.run(main)
