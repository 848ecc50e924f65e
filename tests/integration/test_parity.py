"""What an export allows, with predictions made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_network import SIZE, random_images, random_model

from hydranet_tf.exporting import exported_models, latency, litert, parity, saved_model
from hydranet_tf.tasks import AGE, GENDER

ONES = np.ones(200)
FEMALE = np.tile([0.1, 0.9], (200, 1))


def sample(labels=None, predictions=None, size=200):
    """Two hundred faces: Keras is 3 years too high and right for all genders."""
    return parity.Sample(
        tasks=(AGE, GENDER),
        images=np.zeros((size, 4, 4, 3), np.uint8),
        encoded=(b"",) * size,
        labels=labels or {"age": 30 * ONES[:size], "gender": ONES[:size].astype(int)},
        predictions=predictions or {"age": 33 * ONES[:size], "gender": FEMALE[:size]},
    )


def comparison(taken, age=0.0, wrong=0):
    """An export that adds `age` years and gets `wrong` genders wrong."""
    gender = taken.predictions["gender"].copy()
    gender[:wrong] = [0.55, 0.45]
    found = {"age": taken.predictions["age"] + age, "gender": gender}
    return parity._compare(found, taken)


def test_what_is_measured():
    taken = sample()
    found = comparison(taken, age=0.2, wrong=3)
    assert found.differences == pytest.approx({"age": 0.2, "gender": 0.45})
    assert found.mean_differences == pytest.approx(
        {"age": 0.2, "gender": 0.45 * 3 / 200}
    )
    assert found.scores == pytest.approx({"age": 3.2, "gender": 197 / 200})
    assert found.losses == pytest.approx({"age": 0.2, "gender": 0.015})
    better = comparison(taken, age=-0.2)
    assert better.losses == pytest.approx({"age": -0.2, "gender": 0})


@pytest.mark.parametrize(
    ("variant", "age", "wrong", "expected"),
    [
        ("float32", 0.009, 0, []),
        ("float32", 0.011, 0, ["age differs by up to 0.011 years, allowed 0.01"]),
        ("float16", 0.49, 0, []),
        ("float16", 0.51, 0, ["age differs by up to 0.51 years, allowed 0.5"]),
        # In eight bits a face may differ; the sum over all may not get worse.
        ("int8", 0.25, 2, []),
        # Three years nearer to the labels, and not what was trained.
        ("int8", -3, 2, ["age differs by 3 years on average, allowed 0.75"]),
        ("dynamic", -0.74, 0, []),
        ("integer", -1.9, 0, []),
        ("integer", -2.1, 0, ["age differs by 2.1 years on average, allowed 2"]),
        ("int8", -40, 2, ["age loses 34 years of MAE, allowed 0.25"]),
        ("int8", 0.26, 0, ["age loses 0.26 years of MAE, allowed 0.25"]),
        ("dynamic", 0, 3, ["gender loses 1.5 points of accuracy, allowed 1"]),
        ("integer", 1, 3, ["age loses", "gender loses"]),
    ],
)
def test_bounds(variant, age, wrong, expected):
    taken = sample()
    found = parity.excess(comparison(taken, age, wrong), variant, taken)
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text


def test_probabilities_are_held_to_their_own_bound():
    taken = sample()
    for variant, bound in (("float32", 1e-4), ("float16", 0.02)):
        for step, count in ((0.9 * bound, 0), (1.1 * bound, 1)):
            found = {**taken.predictions, "gender": FEMALE + [step, -step]}
            compared = parity._compare(found, taken)
            assert len(parity.excess(compared, variant, taken)) == count


@pytest.mark.parametrize("variant", litert.VARIANTS)
def test_nan_is_beyond_every_bound(variant):
    taken = sample()
    found = {"age": taken.predictions["age"].copy(), "gender": FEMALE.copy()}
    found["age"][7] = np.nan
    found["gender"][7] = np.nan
    excess = parity.excess(parity._compare(found, taken), variant, taken)
    assert [text.split()[0] for text in excess] == ["age", "gender"]


def test_of_few_faces_one_may_change():
    few = sample(size=20)
    assert parity.excess(comparison(few, wrong=1), "int8", few) == []
    (text,) = parity.excess(comparison(few, wrong=2), "int8", few)
    assert "10 points of accuracy, allowed 5" in text
    # Of the faces that have the label.
    half = sample({"age": ONES[:20], "gender": np.where(np.arange(20) < 10, 1, -1)}, 20)
    bounds = parity.bounds("int8", half)
    assert (bounds["loss_of_age"], bounds["loss_of_gender"]) == (0.25, 0.1)
    assert bounds["mean_difference_in_years"] == 0.75
    assert bounds["each_difference_in_years"] == 8.0


@pytest.mark.parametrize("variant", ["dynamic", "int8"])
def test_a_single_prediction_is_held_to_a_bound_in_8_bits(variant):
    """Among 200 faces one that is off hardly moves a score or a mean."""
    taken = sample()
    for years, expected in ((7.9, []), (8.1, ["age differs by up to 8.1 years"])):
        found = {**taken.predictions, "age": taken.predictions["age"].copy()}
        found["age"][7] -= years
        excess = parity.excess(parity._compare(found, taken), variant, taken)
        assert [text.partition(",")[0] for text in excess] == expected


def test_few_faces_are_said_to_be_few():
    def table(size, variant):
        taken = sample(size=size)
        one = exported_models.ExportedModel(
            Path("a.tflite"), "litert", variant, 1, {"pixels": comparison(taken)}
        )
        return exported_models.table([one], taken)

    assert "20 faces are too few to vouch for 8 bits" in table(20, "int8")
    for size, variant in ((200, "int8"), (20, "float32")):
        assert "too few" not in table(size, variant)


def test_missing_labels_are_left_out():
    labels = {"age": np.where(np.arange(200) < 100, 30, -1), "gender": -ONES}
    taken = sample(labels)
    found = {"age": taken.predictions["age"].copy(), "gender": FEMALE.copy()}
    found["age"][100:] = 90
    compared = parity._compare(found, taken)
    # Nobody knows those ages, so they cost nothing.
    assert compared.scores == {"age": 3.0, "gender": None}
    assert compared.losses["age"] == 0


def test_without_any_label_keras_predictions_stand_for_them():
    taken = sample({"age": -ONES, "gender": -ONES})
    compared = comparison(taken, age=0.3, wrong=4)
    assert compared.scores == {"age": None, "gender": None}
    assert compared.losses == pytest.approx({"age": 0.3, "gender": 0.02})
    assert len(parity.excess(compared, "int8", taken)) == 2


def test_one_prediction_for_all_is_refused():
    taken = sample()
    with pytest.raises(parity.ParityError, match=r"shape \[200\].*gives \[1\]"):
        parity._compare({"age": ONES[:1], "gender": FEMALE}, taken)


def test_the_sample_is_spread_evenly():
    assert parity.spread(5, 500).tolist() == [0, 1, 2, 3, 4]
    assert parity.spread(1001, 3).tolist() == [0, 500, 1000]
    assert len(parity.spread(0, 3)) == 0


def test_times_of_every_file_and_number_of_threads(tmp_path):
    network = random_model().inference_model()
    description = saved_model.describe(random_model().tasks, SIZE)
    paths = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    litert.write(network, description, paths[0])
    litert.write(
        network, description, paths[1], "integer", representative_faces=random_images(3)
    )
    found = latency.milliseconds(paths, random_images(1)[0], seconds=0.0)
    assert list(found) == paths
    for times in found.values():
        assert sorted(times) == [1, 2]
        assert all(0 < ms < 1000 for ms in times.values())
