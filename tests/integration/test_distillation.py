"""A teacher's predictions, blended with labels, against values worked by hand."""

import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic

from hydranet_tf import checkpoints, losses
from hydranet_tf.config import TrainingConfig
from hydranet_tf.data import pipeline, sources
from hydranet_tf.io.tables import SourceError
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS
from hydranet_tf.training import distillation, train
from hydranet_tf.training.workdir import WorkdirError

TEACHER = Path(__file__).resolve().parents[2] / "examples" / "teacher.py"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return synthetic.tiny_run(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def faces(settings):
    examples = sources.open_source(
        settings["data"], "train", split_lists=settings["split_lists"]
    )
    return pipeline.load_faces(examples, 32)


def write(path, ids, female, **others):
    """A teacher that predicts gender alone; columns of others come first."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*others, "id", "p_gender_female", "p_gender_male"])
        for i, p in zip(ids, female, strict=True):
            writer.writerow([*others.values(), i, p, 1 - p])
    return path


def blended(faces, path, fraction=0.5):
    config = TrainingConfig(teacher=str(path), distillation_weight=fraction)
    return distillation.blended(faces, config)


def test_blends_by_hand(faces, tmp_path):
    ids = faces.examples.ids
    # Backwards, with a face more and a column more: found by id and by name.
    path = write(tmp_path / "t.csv", ["?", *ids[::-1]], [0.5, *[0.2] * len(ids)], x="1")
    found = blended(faces, path, fraction=0.25).soft_labels
    assert list(found) == ["gender_soft_labels"]
    labels = faces.examples.labels["gender"]
    expected = np.where(labels == 1, 0.75 * 1 + 0.25 * 0.2, 0.25 * 0.2)
    np.testing.assert_allclose(found[GENDER.soft_name][:, 1], expected, rtol=1e-6)
    np.testing.assert_allclose(found[GENDER.soft_name].sum(1), 1, rtol=1e-6)


def test_teachers_of_age_and_their_mean_by_hand(faces, tmp_path):
    """Each task by the files that have it: age by both, gender by the first alone."""
    ids = faces.examples.ids
    first = write(
        tmp_path / "a.csv", ids, [0.25] * len(ids), predicted_age=30.5, p_gender_other=0
    )
    second = tmp_path / "b.csv"
    second.write_text("id,predicted_age\n" + "".join(f"{i},41.5\n" for i in ids))
    found = blended(faces, f"{first}, {second}", fraction=0.25).soft_labels
    assert set(found) == {"age_soft_labels", "gender_soft_labels"}
    labels = faces.examples.labels
    np.testing.assert_allclose(
        found[AGE.soft_name], 0.75 * labels["age"] + 0.25 * 36, rtol=1e-6
    )
    female = np.where(labels["gender"] == 1, 0.75 + 0.25 * 0.25, 0.25 * 0.25)
    np.testing.assert_allclose(found[GENDER.soft_name][:, 1], female, rtol=1e-6)


def test_a_teacher_of_impossible_ages_is_refused(faces, tmp_path):
    path = write(
        tmp_path / "t.csv", faces.examples.ids, [0.5] * len(faces), predicted_age=-3
    )
    with pytest.raises(SourceError, match="holds -3; expected years from 0 to 120"):
        blended(faces, path)


def test_years_of_a_teacher_by_hand():
    """Missing labels stay missing, and years are those of the blended label."""
    labels = {
        "age": np.array([20.0, MISSING], "float32"),
        AGE.soft_name: np.array([23.5, 40.0], "float32"),
    }
    means, counts, _ = losses.task_losses(
        [AGE], labels, {"age": np.array([30.0, 90.0], "float32")}
    )
    assert float(means["age"]) == pytest.approx(6.5)
    assert float(counts["age"]) == 1


def test_batches_carry_the_row_of_each_face(faces, tmp_path):
    female = np.linspace(0, 1, len(faces)).round(3)
    taught = blended(faces, write(tmp_path / "t.csv", faces.examples.ids, female), 1.0)
    numbered = dataclasses.replace(
        taught.examples,
        labels={**faces.examples.labels, "age": np.arange(len(faces), dtype="float32")},
    )
    taught = dataclasses.replace(taught, examples=numbered)
    for _, batch in pipeline.training_batches(taught, 8, seed=1).take(3):
        number = batch["age"].numpy().astype(int)
        found = batch[GENDER.soft_name].numpy()[:, 1]
        np.testing.assert_allclose(found, female[number], atol=1e-6)


@pytest.mark.parametrize(
    "change,expected",
    [
        (lambda text: text.replace("p_gender_female", "female"), "no task's"),
        (lambda text: "\n".join(text.splitlines()[:-2]) + "\n", "no row for 2 of"),
        (lambda text: text.replace("0.3", "0.4", 1), "add up to 1"),
        (lambda text: text.replace("0.3", "much", 1), "could not convert.*'much'"),
        (lambda text: text.replace("0.3", "nan", 1), "add up to 1"),
        (lambda text: text.replace("id", "face", 1), "id"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(faces, tmp_path, change, expected):
    path = write(tmp_path / "t.csv", faces.examples.ids, [0.3] * len(faces))
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceError, match=expected) as raised:
        blended(faces, path)
    assert re.search(re.escape(str(path)), str(raised.value))


def test_losses_by_hand():
    soft = np.array([[0.9, 0.1], [0.5, 0.5]], "float32")
    logits = np.array([[0.0], [math.log(3)]], "float32")
    hard = np.array([0, 1], "int32")
    found = np.asarray(losses.example_losses(GENDER, hard, logits, soft))
    # Predictions of 1/2 and 1/2, then of 1/4 and 3/4.
    first = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    second = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    np.testing.assert_allclose(found, [first, second], rtol=1e-5)


def test_a_sure_teacher_is_a_label():
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    for task, given in ((RACE, logits), (GENDER, logits[:, :1])):
        labels = np.arange(6).astype("int32") % len(task.classes)
        sure = np.eye(len(task.classes), dtype="float32")[labels]
        np.testing.assert_allclose(
            losses.example_losses(task, labels, given, sure),
            losses.example_losses(task, labels, given),
            rtol=1e-5,
        )


def test_partners_bring_their_soft_labels():
    """What a mixed batch loses is the sum over both faces, each by its share."""
    rng = np.random.default_rng(1)
    logits = {"race": rng.normal(size=(2, 5)).astype("float32")}
    soft = rng.dirichlet(np.ones(5), 2).astype("float32")
    labels = {"race": np.array([1, 2], "int32"), RACE.soft_name: soft}
    means, counts, _ = losses.task_losses([RACE], labels, logits, largest_fraction=0.4)

    def one(face, image):
        row = losses.example_losses(
            RACE, labels["race"][:1], logits["race"][image : image + 1],
            soft[face : face + 1],
        )  # fmt: skip
        return float(row[0])

    # Shares of 0.1 and 0.3, as tests/unit/test_mixup.py has them.
    expected = 0.9 * one(0, 0) + 0.1 * one(1, 0) + 0.7 * one(1, 1) + 0.3 * one(0, 1)
    assert float(counts["race"]) == pytest.approx(2)
    assert float(means["race"]) == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.bench
def test_descriptors_tell_people_apart():
    """dlib takes a distance below 0.6 for the same person."""
    # In a process of its own, because absl knows a flag but once.
    script = """if True:
        import json

        import numpy as np
        import skimage.data
        import teacher
        from hydranet_tf.data import sources
        from small_network import encode

        woman = skimage.data.astronaut()[20:220, 130:330]
        darker = woman[:, ::-1] // 2 + 60
        pictures = [woman, darker, skimage.data.chelsea()[50:250, 120:320]]
        encoded = [encode(np.ascontiguousarray(picture)) for picture in pictures]
        examples = sources.Examples(np.arange(3), {}, encoded.__getitem__)
        print(json.dumps(teacher.described_by_dlib(examples).tolist()))
    """
    folders = (TEACHER.parent, TEACHER.parents[1], Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.array(json.loads(done.stdout))
    assert found.shape == (3, 128)
    assert (
        np.linalg.norm(found[0] - found[1]) < 0.6 < np.linalg.norm(found[0] - found[2])
    )


def test_a_network_learns_what_its_teacher_says(settings, faces, tmp_path):
    """A teacher that finds every face female is believed against the labels."""
    path = write(tmp_path / "t.csv", faces.examples.ids, [1.0] * len(faces))
    config = TrainingConfig(
        **{**settings, "epochs": 12}, teacher=str(path), distillation_weight=1.0,
        learning_rate=3e-3, mixup=0.2,
    )  # fmt: skip
    model = train.train(config, tmp_path / "run").model
    logits = model.predict(faces.images, verbose=0)["gender"]
    assert (faces.examples.labels["gender"] == 0).any()
    assert (logits > 0).all()

    write(path, faces.examples.ids, [0.5] * len(faces))
    longer = dataclasses.replace(config, epochs=13)
    with pytest.raises(WorkdirError, match="train part is not what this run began"):
        train.train(longer, tmp_path / "run")


def test_a_wrong_path_can_be_corrected(settings, faces, tmp_path):
    wrong = TrainingConfig(**settings, teacher=str(tmp_path / "nowhere.csv"))
    with pytest.raises(SourceError, match="nowhere.csv"):
        train.train(wrong, tmp_path / "run")
    path = write(tmp_path / "t.csv", faces.examples.ids, [1.0] * len(faces))
    right = dataclasses.replace(wrong, teacher=str(path))
    train.train(right, tmp_path / "run")
    assert checkpoints.any_saved(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["teacher"] == str(path)


def test_the_digest_knows_the_teacher_and_no_order(faces, tmp_path):
    female = np.linspace(0, 1, len(faces)).round(3)
    taught = blended(faces, write(tmp_path / "t.csv", faces.examples.ids, female))
    backwards = np.arange(len(faces))[::-1]
    turned = dataclasses.replace(
        taught,
        examples=taught.examples.select(backwards),
        soft_labels={k: v[backwards] for k, v in taught.soft_labels.items()},
    )
    assert faces.digest() == faces.examples.digest() != taught.digest()
    assert turned.digest() == taught.digest()


def test_the_teacher_predicts_by_what_other_folds_teach(tmp_path):
    """Descriptors that give race away, and labels of three faces changed.

    A classifier that had seen them would predict the changed label by heart.
    """
    folder = synthetic.write_folder(tmp_path / "faces", 250, side=16)
    training_part, validation = (
        sources.open_source(str(folder), split, split_lists=str(folder / "splits"))
        for split in ("train", "validation")
    )
    rng = np.random.default_rng(0)
    centres = 8 * rng.normal(size=(5, 128))

    def descriptors(examples):
        race = examples.labels["race"]
        return centres[race] + rng.normal(size=(len(race), 128))

    kept = tmp_path / "features"
    kept.mkdir()
    arrays = {
        "train": descriptors(training_part),
        "validation": descriptors(validation),
    }
    # The first of each of three classes gets the descriptor of a fourth.
    race = training_part.labels["race"]
    changed = [int(np.flatnonzero(race == c)[0]) for c in range(3)]
    arrays["train"][changed] = centres[3]
    for split, part in (("train", training_part), ("validation", validation)):
        np.savez(kept / f"dlib_{split}.npz", ids=part.ids, features=arrays[split])
    command = [
        sys.executable, TEACHER, f"--data={folder}",
        f"--split_lists={folder / 'splits'}", f"--features={kept}",
        f"--output={tmp_path / 't.csv'}", "--unbiased",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"race: \d+\.\d % of the validation labels", done.stdout)
    soft = blended(
        pipeline.load_faces(training_part, 16), tmp_path / "t.csv", fraction=1.0
    ).soft_labels
    predicted = soft[RACE.soft_name].argmax(1)
    assert set(soft) == {task.soft_name for task in TASKS}
    # Ages are not in these features: without a mean error they are the labels' own
    # on average.
    ages = training_part.labels["age"]
    assert np.mean(soft[AGE.soft_name] - ages) == pytest.approx(0, abs=1.5)
    assert (predicted[changed] == 3).all()
    others = np.setdiff1d(np.arange(len(race)), changed)
    assert np.mean(predicted[others] == race[others]) > 0.8

    one_less = training_part.ids[:-1]
    np.savez(kept / "dlib_train.npz", ids=one_less, features=arrays["train"][:-1])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "delete it" in done.stderr
