"""The proof: the same JPEG bytes get the same predictions on every way.

A tiny network is trained until its predictions mean something, exported in every
variant, and asked about the same files: through the training pipeline, through
`runtimes.load` of the workdir, through the served SavedModel that takes bytes,
and through each .tflite file. Every pair of ways is held to the wider of their
two bounds.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import synthetic
import tensorflow as tf
from PIL import Image

from hydranet_tf import checkpoints, config
from hydranet_tf.data import graph_decoding, pipeline, sources
from hydranet_tf.evaluation import evaluate
from hydranet_tf.exporting import export, litert, parity
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import TASKS
from hydranet_tf.training import train

SIZE = 32

# What a way may be off from the Keras network fed by the pipeline: years and
# probability at most (floating point), or years of MAE and points of accuracy
# (eight bits).
EXACT = {"pipeline": (1e-3, 1e-5), "workdir": (1e-3, 1e-5), "served": (0.01, 1e-4)}
EXACT |= {"float32": (0.01, 1e-4), "float16": (0.5, 0.02)}
EIGHT_BITS = ("dynamic", "int8", "integer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run and its export in every format and variant."""
    folder = tmp_path_factory.mktemp("same_bytes")
    faces = synthetic.write_folder(folder / "faces", count=600, side=40)
    settings = config.TrainingConfig(
        data=str(faces), split_lists=str(faces / "splits"), backbone="tiny",
        image_size=SIZE, epochs=12, batch_size=24, augmentation="none",
        optimizer="adamw", learning_rate=1e-3,
    )  # fmt: skip
    train.train(settings, folder / "run")
    request = export.Request(litert_variants=litert.VARIANTS)
    export.export_run(folder / "run", folder / "exports", request)
    return folder


@pytest.fixture(scope="module")
def unseen(folder):
    """Files that neither training nor the export has seen, some of them odd."""
    faces = folder / "faces"
    examples = sources.open_source(
        str(faces), "test", split_lists=str(faces / "splits")
    )
    odd = folder / "odd"
    odd.mkdir()
    for i in range(len(examples)):
        name = str(examples.ids[i])
        (odd / name).write_bytes(examples.read(i))
        if i < 4:
            # Oblong, with the face in the middle: cut to a square by all.
            picture = Image.open(odd / name)
            wide = Image.new("RGB", (64, 40), (90, 30, 200))
            wide.paste(picture, (12, 0))
            wide = wide.transpose(Image.Transpose.ROTATE_90) if i % 2 else wide
            exif = Image.Exif()
            # 6: to be turned by a quarter clockwise, which undoes the above.
            exif[0x0112] = 6 if i % 2 else 1
            wide.save(odd / name, "JPEG", exif=exif, quality=95)
    return sources.open_source(str(odd), "all")


@pytest.fixture(scope="module")
def predictions(folder, unseen):
    """By way: what it predicts for the bytes of the same files."""
    faces = pipeline.load_faces(unseen, SIZE, cache="none")
    network = checkpoints.load_model(folder / "run").inference_model()
    batches = [
        network.predict_on_batch(images)
        for images, _ in pipeline.evaluation_batches(faces, 50)
    ]
    found = {
        "pipeline": {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    }
    encoded = [unseen.read(i) for i in range(len(unseen))]
    served = tf.saved_model.load(str(folder / "exports" / "hydranet" / "1"))
    outputs = served.signatures["serving_default"](image_bytes=tf.constant(encoded))
    found["served"] = {task.name: outputs[task.name].numpy() for task in TASKS}
    pixels = np.stack(
        [graph_decoding.decode_and_resize(e, SIZE).numpy() for e in encoded]
    )
    found["workdir"] = runtimes.load(folder / "run").predictions(pixels)
    for variant in litert.VARIANTS:
        path = folder / "exports" / litert.file_name("hydranet", variant)
        found[variant] = runtimes.load(path).predictions(pixels)
    return found


def score(task, labels, predictions):
    """Worked out here and not by the package's own scores."""
    if task == "age":
        return sum(abs(a - b) for a, b in zip(predictions, labels, strict=True)) / len(
            labels
        )
    right = [
        row.argmax() == label for row, label in zip(predictions, labels, strict=True)
    ]
    return sum(right) / len(right)


def test_the_network_has_learned(predictions, unseen):
    labels = unseen.labels
    assert score("age", labels["age"], predictions["pipeline"]["age"]) < 15
    assert score("gender", labels["gender"], predictions["pipeline"]["gender"]) > 0.9
    assert score("race", labels["race"], predictions["pipeline"]["race"]) > 0.8


def test_every_way_is_there(predictions):
    assert set(predictions) == {*EXACT, *EIGHT_BITS}
    assert set(litert.VARIANTS) <= set(predictions)


@pytest.mark.parametrize(
    "pair",
    list(itertools.combinations([*EXACT, *EIGHT_BITS], 2)),
    ids="-".join,
)
def test_each_pair_is_within_its_bound(predictions, unseen, pair):
    one, other = (predictions[way] for way in pair)
    for task in ("age", "gender", "race"):
        assert one[task].shape == other[task].shape
        if set(pair) <= set(EXACT):
            bound = max(EXACT[way][0 if task == "age" else 1] for way in pair)
            np.testing.assert_allclose(one[task], other[task], rtol=0, atol=bound)
            continue
        labels = unseen.labels[task]
        lost = abs(score(task, labels, one[task]) - score(task, labels, other[task]))
        # Two variants may lose on opposite sides of Keras.
        sides = len(set(pair) & set(EIGHT_BITS))
        assert lost <= sides * (0.25 if task == "age" else 0.01) + 1e-9
        # And face by face nothing is scrambled: every prediction is near.
        far = np.max(np.abs(one[task] - other[task]))
        assert far < (12 if task == "age" else 0.5)


def test_another_picture_gets_another_prediction(predictions):
    for way, found in predictions.items():
        for task in ("age", "gender", "race"):
            assert np.ptp(found[task], axis=0).max() > (10 if task == "age" else 0.3), (
                way
            )


def test_the_bounds_are_those_that_an_export_enforces():
    for variant in ("float32", "float16"):
        allowed = parity.MAX_DIFFERENCE[variant]
        assert (allowed["years"], allowed["probability"]) == EXACT[variant]
    assert parity.MAX_LOSS == {"years": 0.25, "accuracy": 0.01}


def test_the_record_holds_every_variant(folder):
    record = json.loads((folder / "exports" / "export.json").read_text())
    assert {entry["variant"] for entry in record.values()} == set(litert.VARIANTS)
    for entry in record.values():
        assert entry["examples"] == 120
        drawn = entry["calibration"]
        assert drawn["faces"] == 200 == sum(drawn["drawn"].values())
        assert max(drawn["drawn"].values()) <= 7


@pytest.mark.real_data
def test_exports_of_real_faces_score_as_the_workdir_does(utkface_dir, tmp_path):
    """evaluate.py's report to the third decimal, on real validation faces."""
    repository = export.__file__.rsplit("/hydranet_tf/", 1)[0]
    committed = f"{repository}/datasets/utkface/splits"
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "test.txt").write_text("")
    for split, count in (("train", 1000), ("validation", 500)):
        with open(f"{committed}/{split}.txt", encoding="utf-8") as file:
            names = [line for line in file if (utkface_dir / line.strip()).exists()]
        (lists / f"{split}.txt").write_text("".join(names[:: len(names) // count]))
    settings = config.TrainingConfig(
        data=str(utkface_dir), split_lists=str(lists), backbone="tiny", image_size=48,
        epochs=3, batch_size=50, augmentation="none", optimizer="adamw",
        learning_rate=2e-3,
    )  # fmt: skip
    train.train(settings, tmp_path / "run")
    export.export_run(tmp_path / "run", tmp_path / "exports")
    models = {
        "workdir": tmp_path / "run",
        "saved_model": tmp_path / "exports" / "hydranet",
        "litert": tmp_path / "exports" / "hydranet.tflite",
    }
    found = {
        kind: evaluate.evaluate_model(
            path, str(utkface_dir), "validation", tmp_path / kind, split_lists=lists
        )
        for kind, path in models.items()
    }
    reference = found.pop("workdir")
    assert reference["data"]["examples"] >= 500
    scores = list(numbers({k: reference[k] for k in ("tasks", "groups")}))
    assert len(scores) > 200
    for kind, content in found.items():
        others = list(numbers({k: content[k] for k in ("tasks", "groups")}))
        assert [path for path, _ in others] == [path for path, _ in scores]
        for (path, value), (_, expected) in zip(others, scores, strict=True):
            assert value == pytest.approx(expected, abs=5e-4, nan_ok=True), (
                f"{kind}: {path}"
            )


def numbers(value, path=""):
    """Every number of a report with its path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{path}.{key}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from numbers(part, f"{path}[{i}]")
    elif isinstance(value, int | float):
        yield path, value
