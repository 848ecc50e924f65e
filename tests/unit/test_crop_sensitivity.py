"""Scores at tighter and wider crops, against crops made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sample_pictures import readable_runtime
from small_network import encode

from hydranet_tf.data import graph_decoding, sources
from hydranet_tf.evaluation import plots, sensitivity
from hydranet_tf.tasks import MISSING


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("size", [24, 50])
def test_factor_one_is_the_path_of_every_image(size):
    data = encode(noise(60, 80, 3))
    expected = graph_decoding.decode_and_resize(data, size).numpy()
    found = sensitivity.crop_anew(graph_decoding.decode(data).numpy(), 1.0, size)
    np.testing.assert_array_equal(found, expected)


def test_tighter_is_the_middle():
    image = noise(100, 100, 3)
    np.testing.assert_array_equal(
        sensitivity.crop_anew(image, 0.7, 70), image[15:85, 15:85]
    )


def test_wider_repeats_the_edge():
    """Pixel by pixel, by clipping coordinates."""
    image = noise(100, 100, 3)
    rows = np.clip(np.arange(-30, 130), 0, 99)
    found = sensitivity.crop_anew(image, 1.6, 160)
    np.testing.assert_array_equal(found, image[rows[:, None], rows])


def framed(inner, outer):
    """A picture of 100 whose middle 70 have another red than its frame."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0] = outer
    image[15:85, 15:85, 0] = inner
    return encode(image)


def examples_of(files, ages, genders):
    n = len(files)
    return sources.Examples(
        ids=np.array([f"{i}.png" for i in range(n)]),
        labels={
            "age": np.array(ages, np.float32),
            "gender": np.array(genders, np.int32),
            "race": np.full(n, MISSING, np.int32),
        },
        read=lambda i: files[i],
        paths=None,
        skipped=(),
    )


def test_scores_of_each_factor_as_worked_out_by_hand():
    """The runtime predicts 100 times the mean of red as the age."""
    examples = examples_of([framed(255, 0), framed(0, 255)], [100, MISSING], [0, 1])
    found = sensitivity.of_crops(readable_runtime(), examples)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["faces"] == 2
    ages = dict(zip(found["factors"], found["tasks"]["age"]["values"], strict=True))
    assert {score["n"] for score in ages.values()} == {1}
    # At 0.7 all is red; elsewhere the red square of 70 in one of 100 * factor.
    for factor in (0.7, 1.0, 1.6):
        fraction = min(1.0, (0.7 / factor) ** 2)
        assert ages[factor]["value"] == pytest.approx(100 * (1 - fraction), abs=0.6)
    genders = found["tasks"]["gender"]["values"]
    # No green: always male, which one of the two is labelled.
    assert {(score["n"], score["value"]) for score in genders} == {(2, 0.5)}
    races = found["tasks"]["race"]["values"]
    assert {(score["value"], score["status"]) for score in races} == {
        (None, "no labels")
    }


def test_a_large_set_is_sampled(monkeypatch):
    monkeypatch.setattr(sensitivity, "MOST_FACES", 7)
    files = [encode(np.full((30, 30, 3), 10 * i, np.uint8)) for i in range(20)]
    read = []
    examples = examples_of(files, range(20), [0] * 20)
    runtime = readable_runtime()
    object.__setattr__(examples, "read", lambda i: read.append(i) or files[i])
    found = sensitivity.of_crops(runtime, examples, seed=3)
    assert found["faces"] == 7 == len(set(read))
    assert all(s["n"] == 7 for s in found["tasks"]["age"]["values"])
    # Labels stay with their faces: 100 * 10 i / 255 against i.
    expected = np.mean([abs(1000 * i / 255 - i) for i in read])
    values = [score["value"] for score in found["tasks"]["age"]["values"]]
    assert values == pytest.approx([expected] * len(values), abs=1e-3)
    assert sensitivity.of_crops(runtime, examples, seed=4) != found


def measured(n=5):
    def scores(values, width):
        return [
            {"n": n, "value": v, "low": v - width, "high": v + width, "status": "ok"}
            for v in values
        ]

    return {
        "faces": n,
        "factors": [0.7, 1.0, 1.6],
        "tasks": {
            "age": {"score": "mae", "unit": "years", "values": scores([7, 5, 9], 1)},
            "gender": {
                "score": "accuracy", "unit": "", "values": scores([0.8, 0.9, 0.6], 0.05)
            },
            "race": {
                "score": "accuracy", "unit": "",
                "values": [{"n": 0, "value": None, "low": None, "high": None}] * 3,
            },
        },
    }  # fmt: skip


def test_the_picture_shows_the_values(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k)
    )
    assert plots.crop_sensitivity(measured(), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 10
    age, gender = figures[0].axes
    np.testing.assert_allclose(age.lines[0].get_xydata(), [[0.7, 7], [1, 5], [1.6, 9]])
    np.testing.assert_allclose(
        gender.lines[0].get_xydata(), [[0.7, 20], [1, 10], [1.6, 40]]
    )
    assert age.get_title(loc="left") == "Age: 5.0 as cut, up to 9.0 years"
    assert gender.get_title(loc="left") == "Gender: 10.0 as cut, up to 40.0 % wrong"


def test_without_labels_there_is_no_picture(tmp_path):
    content = measured()
    content["tasks"] = {"race": content["tasks"]["race"]}
    assert not plots.crop_sensitivity(content, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_the_factors_go_from_tight_to_wide():
    assert (sensitivity.FACTORS[0], sensitivity.FACTORS[-1]) == (0.7, 1.6)
    assert 1.0 in sensitivity.FACTORS and sensitivity.MOST_FACES == 500
