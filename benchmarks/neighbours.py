"""Neighbours and support vectors on a network's features, against its own heads.

    python benchmarks/neighbours.py --model=runs/utkface_resnet18 --data=UTKFace \
        --split_lists=datasets/utkface/splits --json=bench_output/neighbours.json

takes the pooled features of a trained network as they are and predicts age, gender and
race of the validation part in three ways: the network's heads, the nearest
neighbours of the training part, and a support vector machine on it (scikit-learn;
features standardised, RBF kernel). The number of neighbours and C are chosen by
three-fold cross-validation within the training part, so the validation part is
asked once. The network saw the training part when it learned these features, which
flatters neighbours within it: their errors between folds are too small, and so the
choice is only roughly right.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags, logging

_MODEL = flags.DEFINE_string("model", None, "A workdir or a preset.", required=True)
_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_CACHE = flags.DEFINE_string("cache", "memory", "As in train.py.")
_LARGEST = flags.DEFINE_integer(
    "largest", 8_000, "Training faces that the support vectors learn from; drawn."
)
_JSON = flags.DEFINE_string("json", None, "File for the raw numbers.")

_FOLDS = 3
_NEIGHBOURS = (1, 5, 15, 45)
_C = (0.3, 3.0)
_SEED = 0


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    from hydranet_tf.data import pipeline, sources
    from hydranet_tf.inference import loading

    model = loading.load(Path(_MODEL.value).expanduser())
    if not model:
        raise app.UsageError(
            f"--model={_MODEL.value} is neither a workdir nor a preset"
        )
    predictions, features = model.inference_model(), model.feature_extractor()
    parts = {}
    for split in ("train", "validation"):
        opened = sources.open_source(
            _DATA.value, split, data_dir=_DATA_DIR.value, split_lists=_SPLIT_LISTS.value
        )
        faces = pipeline.load_faces(opened, model.image_size, _CACHE.value)
        images = pipeline.evaluation_batches(faces, 128).map(lambda image, _: image)
        parts[split] = (features.predict(images, verbose=0), faces.examples.labels)
    # Those of the validation part, the last.
    own = predictions.predict(images, verbose=0)
    (seen, known), (asked, labels) = parts["train"], parts["validation"]
    found = []
    for task in model.tasks:
        row = scored(task, labels[task.name], own[task.name])
        found.append({"task": task.name, "way": "heads of the network", **row})
        for way, fit in (("neighbours", neighbours), ("support vectors", vectors)):
            start = time.monotonic()
            prediction, chosen = fit(task, *present(seen, known[task.name]))
            row = scored(task, labels[task.name], prediction(asked))
            row |= {"chosen": chosen, "seconds": time.monotonic() - start}
            found.append({"task": task.name, "way": way, **row})
            logging.info("%s", found[-1])
    print("| task | predicted by | score | 95 % interval |")
    print("|---|---|---:|---:|")
    for row in found:
        values = [shown(row, row[k]) for k in ("value", "low", "high")]
        print(f"| {row['task']} | {row['way']} | {values[0]} | {values[1]} to "
              f"{values[2]} |")  # fmt: skip
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(found, indent=2) + "\n")


def present(features, labels):
    from hydranet_tf.evaluation import scores

    kept = scores.present(labels)
    return features[kept], labels[kept]


def neighbours(task, features, labels):
    """What predicts by the nearest training faces; see `searched`."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    kind = KNeighborsRegressor if task.is_regression else KNeighborsClassifier
    return searched(task, kind(), {"n_neighbors": _NEIGHBOURS}, features, labels)


def vectors(task, features, labels):
    """What predicts by a support vector machine; see `searched`."""
    from sklearn.svm import SVC, SVR

    # Its time grows with the square of the faces.
    drawn = np.random.default_rng(_SEED).permutation(len(labels))[: _LARGEST.value]
    features, labels = features[drawn], labels[drawn]
    if task.is_regression:
        # C is in the unit of the labels here: years.
        grid = {"C": [c * task.spread for c in _C]}
        return searched(task, SVR(epsilon=1.0), grid, features, labels)
    return searched(task, SVC(), {"C": _C}, features, labels)


def searched(task, kind, grid, features, labels):
    """A function from features [n, f] to predictions, and the settings that it has."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    step = type(kind).__name__.lower()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), kind),
        {f"{step}__{name}": values for name, values in grid.items()},
        cv=_FOLDS,
        scoring="neg_mean_absolute_error" if task.is_regression else "accuracy",
    ).fit(features, labels)
    if task.is_regression:
        return search.predict, search.best_params_
    # One column a class, as the heads give.
    columns = np.eye(len(task.classes))
    return lambda asked: columns[search.predict(asked).astype(int)], search.best_params_


def scored(task, labels, predictions):
    from hydranet_tf.evaluation import scores

    name = "mae" if task.is_regression else "accuracy"
    found = scores.score(task, labels, predictions)[name]
    return {"score": name, "value": found.value, "low": found.low, "high": found.high}


def shown(row, value):
    return f"{value:.2f}" if row["score"] == "mae" else f"{100 * value:.1f} %"


if __name__ == "__main__":
    app.run(main)
