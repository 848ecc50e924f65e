"""The pictures of the worst predictions that a run shows in TensorBoard."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_network import SIZE, encode, random_images, random_model
from tensorboard.backend.event_processing import event_accumulator

from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.sources import Examples
from hydranet_tf.tasks import MISSING
from hydranet_tf.training import trackers, train

pytestmark = pytest.mark.slow

SIDE, HEAD = trackers._SIDE, 42


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run of five epochs over ten faces: faces, predictions, pictures by task."""
    workdir = tmp_path_factory.mktemp("worst_faces")
    model, images = random_model(), random_images(10)
    model.compile(optimizer="adam")
    labels = {
        "age": np.array([5.0, 95, 30, 31, 32, MISSING, 33, 34, 35, 36], np.float32),
        "gender": np.arange(10, dtype=np.int32) % 2,
        "race": np.full(10, MISSING, np.int32),
    }
    files = [encode(image) for image in images]
    examples = Examples(np.arange(10).astype(str), labels, read=files.__getitem__)
    # Not kept in memory, as with --cache=none. A batch that does not divide them.
    faces = Faces(examples, SIZE, None, ())
    hook = trackers.WorstFaces(workdir, faces, batch_size=4)
    hook.set_model(model)
    for epoch in range(5):
        assert not (workdir / "tensorboard").exists()
        hook.on_epoch_end(epoch)
    events = event_accumulator.EventAccumulator(
        str(workdir / "tensorboard/largest_errors"), size_guidance={"tensors": 0}
    )
    events.Reload()
    pictures = {}
    for tag in events.Tags()["tensors"]:
        (event,) = events.Tensors(tag)
        assert event.step == 4
        data = event.tensor_proto.string_val[2]
        pictures[tag] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    predictions = model.inference_model().predict(images, verbose=0)
    return images, labels, predictions, pictures


def tile(picture, i):
    across = trackers._ACROSS
    x, y = 6 + i % across * (SIDE + 6), HEAD + i // across * (SIDE + 42)
    return picture[y : y + SIDE, x : x + SIDE]


def test_the_worst_age_stands_first(shown):
    images, labels, predictions, pictures = shown
    errors = np.where(
        labels["age"] == MISSING, -1, np.abs(labels["age"] - predictions["age"])
    )
    order = np.argsort(-errors)[:9]
    for place, row in enumerate(order):
        # The means of a face before and after it was drawn larger.
        np.testing.assert_allclose(
            tile(pictures["age"], place).mean((0, 1)), images[row].mean((0, 1)), atol=2
        )
    # The tenth has no label.
    assert (tile(pictures["age"], 9) == 255).all()


def test_only_wrong_classes_are_shown(shown):
    _, labels, predictions, pictures = shown
    wrong = int((predictions["gender"].argmax(1) != labels["gender"]).sum())
    assert 0 < wrong < 10
    assert (tile(pictures["gender"], wrong - 1) < 255).any()
    if wrong < trackers._ACROSS:
        across = wrong * (SIDE + 6) + 6
        assert pictures["gender"].shape[1] <= max(across, 300)


def test_a_task_without_labels_has_no_picture(shown):
    assert set(shown[-1]) == {"age", "gender"}


def test_label_and_prediction_are_written_below():
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)

    def drawn(label, prediction):
        picture = trackers.grid([image], [(label, prediction)], "age")
        return np.asarray(picture)[HEAD + SIDE : HEAD + SIDE + 36]

    first = drawn("8 years", "44 years")
    assert (first < 128).any()
    # Each in its own line: a label changes the upper, a prediction the lower.
    for label, prediction, changed in (
        ("9 years", "44 years", 0),
        ("8 years", "41 years", 1),
    ):
        differs = (drawn(label, prediction) != first).any((1, 2))
        assert differs[:18].any() == (changed == 0)
        assert differs[18:].any() == (changed == 1)


@pytest.mark.parametrize(("workers", "callbacks"), [(None, 2), (object(), 1)])
def test_a_worker_among_several_draws_none(tmp_path, workers, callbacks):
    devices = SimpleNamespace(workers=workers)
    assert len(train._tensorboard(tmp_path, devices, None, 4)) == callbacks
