"""The embedding projector's files, read by TensorBoard's own plugin."""

from __future__ import annotations

import io
import json
import urllib.parse
import wsgiref.util

import numpy as np
import pytest
from PIL import Image
from small_network import SIZE, random_images, random_model
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin

from hydranet_tf.data.pipeline import Faces
from hydranet_tf.data.sources import Examples
from hydranet_tf.evaluation import findings, projector_files
from hydranet_tf.tasks import MISSING

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Seven faces in a folder: the model, its images, what was found, the folder."""
    folder = tmp_path_factory.mktemp("projector")
    model, images = random_model(), random_images(7)
    labels = {
        "age": np.array([20.0, 30, 40, 50, 60, 70, MISSING]),
        "gender": np.array([0, 1, 0, 1, 0, 1, 0]),
        "race": np.array([0, 1, 2, 3, 4, 0, MISSING]),
    }
    ids = np.array(["a.jpg", "b\tb.jpg", "c\nc.jpg", "d", "e", "f", "g"])
    predictions = model.inference_model().predict(images, verbose=0)
    found = findings.find(model.tasks, ids, labels, predictions)
    faces = Faces(Examples(ids, labels, read=None), SIZE, images, ())
    features = model.feature_extractor()
    projector_files.write(features, found, faces, folder, show_faces=True)
    return model, images, found, folder


def served(folder, path, **query):
    """What the plugin answers, as the page of TensorBoard asks it."""
    plugin = ProjectorPlugin(TBContext(logdir=str(folder)))
    environ = {"QUERY_STRING": urllib.parse.urlencode(query)}
    wsgiref.util.setup_testing_defaults(environ)
    status = []
    body = plugin.get_plugin_apps()[path](environ, lambda s, h: status.append(s))
    data = b"".join(body)
    assert status == ["200 OK"], data
    return data


def test_the_plugin_finds_the_features(written):
    model, images, _, folder = written
    (run,) = json.loads(served(folder, "/runs"))
    info = json.loads(served(folder, "/info", run=run))
    (embedding,) = info["embeddings"]
    assert embedding["metadataPath"] == "metadata.tsv"
    data = served(folder, "/tensor", run=run, name=embedding["tensorName"])
    found = np.frombuffer(data, np.float32).reshape(len(images), -1)
    # By the other way round: a head's hidden layer on these features gives the logit.
    network = model.network
    hidden = network.get_layer("gender_hidden")(found)
    logits = network.get_layer("gender_logits")(hidden).numpy()
    expected = network.predict(images, verbose=0)["gender"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_plugin_finds_labels_and_predictions(written):
    _, _, found, folder = written
    lines = served(folder, "/metadata", run=".", name="features").decode().splitlines()
    header, *rows = [line.split("\t") for line in lines]
    assert header[:4] == ["id", "age label", "age prediction", "age error"]
    assert [row[0] for row in rows] == ["a.jpg", "b b.jpg", "c c.jpg", *"defg"]
    assert [row[1] for row in rows[:2]] == ["20.0", "30.0"] and rows[6][1] == ""
    predicted = found.predictions["age"][1]
    assert float(rows[1][2]) == pytest.approx(predicted, abs=0.051)
    assert float(rows[1][3]) == pytest.approx(predicted - 30, abs=0.051)
    genders = found.predictions["gender"].argmax(1) == found.labels["gender"]
    said = [row[header.index("gender error")] for row in rows]
    assert said == ["right" if right else "wrong" for right in genders]
    assert rows[6][header.index("race error")] == ""


def test_the_plugin_finds_each_face_in_its_place(written):
    _, images, _, folder = written
    data = served(folder, "/sprite_image", run=".", name="features")
    sprite = np.asarray(Image.open(io.BytesIO(data)))
    assert sprite.shape == (3 * 48, 3 * 48, 3)
    for i, image in enumerate(images):
        y, x = i // 3 * 48, i % 3 * 48
        middle = sprite[y + 23 : y + 25, x + 23 : x + 25].mean((0, 1))
        expected = image[SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1]
        np.testing.assert_allclose(middle, expected.mean((0, 1)), atol=4)
    assert (folder / ".gitignore").read_text() == "*\n"


def test_without_leave_no_face_is_there(written, monkeypatch):
    model, images, found, folder = written
    monkeypatch.setattr(projector_files, "MOST_POINTS", 4)
    faces = Faces(Examples(found.ids, found.labels, read=None), SIZE, images, ())
    # Over the files of before, which had them.
    projector_files.write(model.feature_extractor(), found, faces, folder)
    assert not (folder / "sprite.png").exists()
    assert "sprite" not in (folder / "projector_config.pbtxt").read_text()
    assert len((folder / "metadata.tsv").read_text().splitlines()) == 1 + 4


def test_a_model_without_an_inside_is_refused(tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"")
    with pytest.raises(findings.EvaluationError, match="expected a workdir .* preset"):
        projector_files.features_of(model)
