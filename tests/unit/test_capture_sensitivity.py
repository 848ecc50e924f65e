"""Changes of capture against other libraries, and reports of them by hand."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import scipy.ndimage
from matplotlib.figure import Figure
from PIL import Image
from sample_pictures import astronaut, readable_runtime
from small_network import encode

from hydranet_tf.data import decoding, sources
from hydranet_tf.evaluation import plots, report_text, sensitivity
from hydranet_tf.evaluation.sensitivity import CHANGES, Change
from hydranet_tf.inference import runtimes
from hydranet_tf.tasks import AGE, DISTRIBUTION, MISSING


@pytest.fixture(scope="module")
def face():
    return np.asarray(astronaut().crop((140, 30, 340, 230)))


def smoothed(image, sigma):
    return np.stack(
        [
            scipy.ndimage.gaussian_filter(
                image[..., c].astype(float), sigma, mode="nearest", truncate=6
            )
            for c in range(3)
        ],
        axis=-1,
    )


@pytest.mark.parametrize("sigma", [0.8, 3])
def test_blur_is_scipys(face, sigma):
    found = sensitivity.blur(face, sigma)
    assert found.dtype == np.uint8
    assert np.abs(found - smoothed(face, sigma)).max() < 1


def test_amounts_grow_with_the_side(face):
    large = cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC)
    found = sensitivity.blur(large, 2)
    assert np.abs(found - smoothed(large, 4)).max() < 1
    # To 40 of 200 pixels is to 80 of 400.
    found = sensitivity.resize_and_back(large, 40)
    expected = decoding.resize(decoding.resize(large, 80), 400)
    np.testing.assert_array_equal(found, expected)


def test_an_unsharp_mask_is_what_scipys_blur_makes_it(face):
    found = sensitivity.unsharp_mask(face, 2)
    expected = np.clip(face + 2 * (face - smoothed(face, 1.5)), 0, 255)
    assert np.abs(found - expected).max() < 1
    # It went beyond both ends of the range.
    assert found.min() == 0 and found.max() == 255


def test_down_and_up_again_is_pillows(face):
    small = Image.fromarray(face).resize((64, 64), Image.Resampling.BILINEAR)
    expected = np.asarray(small.resize((200, 200), Image.Resampling.BILINEAR))
    found = sensitivity.resize_and_back(face, 64)
    off = np.abs(found.astype(int) - expected)
    # Pillow rounds after each axis.
    assert off.max() <= 2 and (off > 1).mean() < 0.005


def test_jpeg_is_opencvs(face):
    _, content = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 20])
    expected = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
    found = sensitivity.jpeg(face, 20)
    assert np.abs(found.astype(int) - face).mean() > 2
    assert np.abs(found.astype(int) - expected).mean() < 0.5


def test_noise_has_its_deviation_and_is_the_same_again():
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = sensitivity.noise(grey, 12, 7)
    drawn = found.astype(float) - 128
    # Of 120,000 numbers; each channel its own.
    assert drawn.std() == pytest.approx(12, rel=0.01)
    assert abs(drawn.mean()) < 0.15
    assert abs(np.corrcoef(drawn.reshape(-1, 3).T)[0, 1]) < 0.02
    np.testing.assert_array_equal(found, sensitivity.noise(grey, 12, 7))
    assert (found != sensitivity.noise(grey, 12, 8)).any()


def test_the_rows_of_the_table(face):
    assert [change.name for change in CHANGES] == [
        "blur 0.8 px", "blur 1.3 px", "blur 2 px", "blur 3 px",
        "down to 100 px", "down to 64 px", "down to 40 px",
        "unsharp mask 0.5", "unsharp mask 1", "unsharp mask 2",
        "JPEG quality 50", "JPEG quality 20", "noise 5 levels", "noise 12 levels",
    ]  # fmt: skip
    results = [change.apply(face, 0) for change in CHANGES]
    assert {(r.shape, r.dtype.name) for r in results} == {((200, 200, 3), "uint8")}
    assert len({r.tobytes() for r in results}) == len(CHANGES)
    np.testing.assert_array_equal(results[2], sensitivity.blur(face, 2))
    # Of each kind the amounts go from weak to strong.
    far = [np.abs(result - face.astype(int)).mean() for result in results]
    for kind in {change.kind for change in CHANGES}:
        steps = [d for d, c in zip(far, CHANGES, strict=True) if c.kind == kind]
        assert steps == sorted(steps)


def examples_of(reds, ages, genders):
    files = [encode(np.full((30, 40, 3), [red, 0, 0], np.uint8)) for red in reds]
    return sources.Examples(
        ids=np.array([f"{i}.png" for i in range(len(files))]),
        labels={
            "age": np.array(ages, np.float32),
            "gender": np.array(genders, np.int32),
        },
        read=lambda i: files[i],
        paths=None,
        skipped=(),
    )


def redder(face, number):
    """51 levels more, one of five; the second face stays."""
    return np.clip(face + np.array([51 * (number != 1), 0, 0]), 0, 255).astype(np.uint8)


def greener(face, number):
    return np.maximum(face, np.array([0, 255, 0], np.uint8))


MADE = (
    Change("redder", "a lot", redder),
    Change("greener", "", greener),
)


def test_scores_under_each_change_as_worked_out_by_hand(monkeypatch):
    """The runtime predicts 100 times the mean of red as age, of green as gender."""
    monkeypatch.setattr(sensitivity, "CHANGES", MADE)
    # 20, 40 and 60 years predicted.
    examples = examples_of([51, 102, 153], [22, 35, MISSING], [0, 1, 0])
    found = sensitivity.of_captures(readable_runtime(), examples)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["faces"] == 3 and found["side"] == 200
    assert found["changes"] == [
        {"kind": "none", "amount": ""},
        {"kind": "redder", "amount": "a lot"},
        {"kind": "greener", "amount": ""},
    ]

    def values(task, key):
        return [score["value"] for score in found["tasks"][task][key]]

    # 20 and 40 for 22 and 35; then 40 and 40.
    assert values("age", "values") == pytest.approx([3.5, 11.5, 3.5], abs=1e-3)
    assert values("age", "bias") == pytest.approx([1.5, 11.5, 1.5], abs=1e-3)
    # Two of three move by 20 years, the one without a label, too.
    assert values("age", "moved") == pytest.approx([0, 40 / 3, 0], abs=1e-3)
    assert [one["n"] for one in found["tasks"]["age"]["moved"]] == [3, 3, 3]
    assert [one["n"] for one in found["tasks"]["age"]["values"]] == [2, 2, 2]
    assert values("gender", "values") == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert "moved" not in found["tasks"]["gender"]
    assert "coverage" not in found["tasks"]["age"]
    assert values("race", "values") == [None] * 3
    assert sensitivity.notable(found) == [
        "1 of 2 changes of capture move age by more than 1 year on average, most of "
        "all redder a lot: by +13.3 years."
    ]


def with_interval():
    """Predicts 5 years around 100 times the mean of red, 80 % of the time."""
    task = dataclasses.replace(AGE, head=DISTRIBUTION)

    def run(images):
        age = 100 * images[..., 0].mean((1, 2), dtype=np.float32) / 255
        return {"age": age, "age_low": age - 5, "age_high": age + 5}

    return runtimes.Runtime((task,), 24, 8, run)


def test_coverage_under_each_change_as_worked_out_by_hand(monkeypatch):
    monkeypatch.setattr(sensitivity, "CHANGES", MADE)
    # Predicted 20, 40, 60 and 80; redder 40, 40, 80 and 100.
    examples = examples_of([51, 102, 153, 204], [16, 44, 76, 84], [0] * 4)
    found = sensitivity.of_captures(with_interval(), examples)
    values = [score["value"] for score in found["tasks"]["age"]["coverage"]]
    assert values == [0.75, 0.5, 0.75]


def test_what_is_changed_is_the_square_and_before_the_resize(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    found = sensitivity.changed(image, CHANGES[2], 0, 24)
    square = image[:, 10:70]
    expected = decoding.resize(sensitivity.blur(square, 2), 24)
    np.testing.assert_array_equal(found, expected)


def measured(moves=(0.0, -2.5, 0.5), n=40):
    def one(value, width=0.5):
        low, high = value - width, value + width
        return {"n": n, "value": value, "low": low, "high": high, "status": "ok"}

    return {
        "faces": n,
        "side": 200,
        "changes": [
            {"kind": "none", "amount": ""},
            {"kind": "blur", "amount": "3 px"},
            {"kind": "JPEG", "amount": "quality 20"},
        ],
        "tasks": {
            "age": {
                "score": "mae", "unit": "years",
                "values": [one(4.0), one(6.0), one(5.0)],
                "bias": [one(0.5), one(-2.0), one(1.0)],
                "moved": [one(move) for move in moves],
                "coverage": [one(v, 0.05) for v in (0.8, 0.65, 0.75)],
            },
            "gender": {
                "score": "accuracy", "unit": "",
                "values": [one(v, 0.05) for v in (0.9, 0.8, 0.85)],
            },
        },
    }  # fmt: skip


def test_small_moves_are_no_news():
    assert sensitivity.notable(measured((0.0, -1.0, 1.0))) == []


def test_the_table_and_the_sentence():
    report = {"capture_sensitivity": measured(), "pictures": {}}
    assert report_text.capture_sentences(report) == [
        "1 of 2 changes of capture move age by more than 1 year on average, most of "
        "all blur 3 px: by -2.5 years."
    ]
    text = "\n\n".join(report_text._capture(report))
    (row,) = [line for line in text.splitlines() if line.startswith("| blur 3 px")]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "blur 3 px", "6.00 years (5.50 to 6.50)", "-2.00 years", "-2.50 years",
        "65.0 %", "80.0 % (75.0 to 85.0)",
    ]  # fmt: skip
    assert report_text.capture_sentences({"capture_sensitivity": None}) == []
    assert report_text._capture({}) == []


def test_the_picture_shows_the_values(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k)
    )
    assert plots.capture_sensitivity(measured(), tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 10
    moved, error, gender = figures[0].axes
    shown = [
        [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        for axes in (moved, error, gender)
    ]
    np.testing.assert_allclose(shown[0], [0, -2.5, 0.5])
    np.testing.assert_allclose(shown[1], [4, 6, 5])
    np.testing.assert_allclose(shown[2], [10, 20, 15])
    assert moved.get_title(loc="left") == "Age moves by up to -2.5"
    assert gender.get_title(loc="left") == "Gender: 10.0 to 20.0 % wrong"
    names = [label.get_text() for label in moved.get_yticklabels()]
    assert names == ["as they are", "blur 3 px", "JPEG quality 20"]


def test_without_labels_of_a_class_there_is_no_picture(tmp_path):
    content = measured()
    nothing = {"n": 0, "value": None, "low": None, "high": None, "status": "no labels"}
    gender = content["tasks"]["gender"] | {"values": [nothing] * 3}
    assert not plots.capture_sensitivity(
        content | {"tasks": {"gender": gender}}, tmp_path / "a.png"
    )
    assert not (tmp_path / "a.png").exists()
