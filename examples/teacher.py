"""A teacher for train.py: gender and race from descriptors of a face recogniser.

    pip install '.[dev,faces,teacher]'
    python examples/teacher.py --data=UTKFace --split_lists=datasets/utkface/splits \
        --descriptors=teacher/descriptors.npz --output=teacher/predictions.csv
    python train.py --teacher=teacher/predictions.csv ...

dlib's network (github.com/davisking/dlib-models, in the public domain) was trained to
tell people apart and not on UTKFace; it turns a face into 128 numbers. A small
classifier (scikit-learn) learns gender and race from them. Each training face is
answered by classifiers that learned from the other folds, so that no answer is a label
learned by heart. What the classifier of all training faces answers for the validation
part is scored. Descriptors take a tenth of a second a face and core; a file keeps them.
"""

import csv
import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags
from tqdm import tqdm

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_DESCRIPTORS = flags.DEFINE_string(
    "descriptors", None, "File that keeps descriptors; made if it is not there.",
    required=True,
)  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "The answers, a CSV file.", required=True)

# What dlib's network looks at.
_SIDE = 150
_BATCH = 32
_FOLDS = 5
# Classifiers whose answers are averaged.
_SEEDS = 3
_MODEL = "models/dlib_face_recognition_resnet_model_v1.dat"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    from hydranet_tf.data import sources
    from hydranet_tf.tasks import MISSING, TASKS

    parts = {
        split: sources.open_source(
            _DATA.value, split, data_dir=_DATA_DIR.value, split_lists=_SPLIT_LISTS.value
        )
        for split in ("train", "validation")
    }
    kept = Path(_DESCRIPTORS.value)
    if not kept.exists():
        found = {split: described(examples) for split, examples in parts.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **found)
    with np.load(kept, allow_pickle=False) as file:
        seen, asked = file["train"], file["validation"]
    for split, values in (("train", seen), ("validation", asked)):
        if len(values) != len(parts[split]):
            raise app.UsageError(
                f"{kept} holds {len(values)} descriptors of the {split} part, which "
                f"has {len(parts[split])} faces: delete it, it is made again"
            )
    columns = {"id": parts["train"].ids}
    for task in TASKS:
        if not task.classes:
            continue
        known, truth = (part.labels[task.name] for part in parts.values())
        labelled = known != MISSING
        answers = unseen(seen, known, labelled, len(task.classes))
        right = (
            classifier().fit(seen[labelled], known[labelled]).predict(asked) == truth
        )
        print(f"{task.name}: {100 * np.mean(right[truth != MISSING]):.1f} % of the "
              "validation labels", flush=True)  # fmt: skip
        for i, name in enumerate(task.probability_columns):
            columns[name] = [f"{p:.6g}" for p in answers[:, i]]
    Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    with open(_OUTPUT.value, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def described(examples) -> np.ndarray:
    """Descriptors of faces that are cut as UTKFace's are, float32 `[n, 128]`."""
    import dlib

    from hydranet_tf.data import graph_decoding

    # The package that carries the file needs an old setuptools to be imported.
    package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
    network = dlib.face_recognition_model_v1(str(package / _MODEL))
    found = []
    for start in tqdm(range(0, len(examples), _BATCH), unit="batch", disable=None):
        rows = range(start, min(start + _BATCH, len(examples)))
        faces = [
            graph_decoding.decode_and_resize(examples.read(i), _SIDE).numpy()
            for i in rows
        ]
        found += network.compute_face_descriptor(faces)
    return np.array(found, np.float32)


def unseen(descriptors, labels, labelled, classes: int) -> np.ndarray:
    """Probabilities `[n, classes]` by classifiers that did not learn from the face."""
    from sklearn.model_selection import KFold

    found = np.zeros((len(labels), classes))
    for seen, asked in KFold(_FOLDS, shuffle=True, random_state=0).split(descriptors):
        seen = seen[labelled[seen]]
        fitted = classifier().fit(descriptors[seen], labels[seen])
        # A class without a training face has no column.
        found[np.ix_(asked, fitted.classes_)] = fitted.predict_proba(descriptors[asked])
    return found


def classifier():
    """One hidden layer; it stops when a tenth that it holds back gets no better."""
    from sklearn.ensemble import VotingClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    networks = [
        (
            str(seed),
            MLPClassifier((128,), alpha=0.01, early_stopping=True, random_state=seed),
        )
        for seed in range(_SEEDS)
    ]
    return make_pipeline(StandardScaler(), VotingClassifier(networks, voting="soft"))


if __name__ == "__main__":
    app.run(main)
