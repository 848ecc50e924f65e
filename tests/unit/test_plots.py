"""What the pictures show, read from the figures before they become pixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from matplotlib.figure import Figure
from PIL import Image

from hydranet_tf.evaluation import plots, scores, subgroups
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that were saved, in order."""
    saved = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        saved.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def texts(figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [axes.get_title("left") for axes in figure.axes]
    return found + [text.get_text() for text in figure.texts]


def assert_is_picture(path: Path, figure: Figure) -> None:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        # Wide enough for a page.
        assert image.width >= 700
        pixels = np.asarray(image.convert("RGB"))
    border = [pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]]
    assert all((part == 255).all() for part in border), "something is cut off"
    assert (pixels < 128).any()
    assert plots.NOTE in texts(figure)


def test_confusion_shows_counts_and_shares(tmp_path, figures):
    counts = np.array([[60, 40], [0, 0]])
    plots.confusion(GENDER, counts, tmp_path / "c.png")
    (figure,) = figures
    assert_is_picture(tmp_path / "c.png", figure)
    shown = texts(figure)
    assert {"60%", "60", "40%", "40"} <= set(shown)
    assert "Gender: 60.0% predicted as labelled" in shown
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["male\nn = 100", "female\nno labels"]
    # Dark is much: the cell of 60 % is darker than that of 40 %.
    image = figure.axes[0].images[0]
    first, second = image.cmap(image.norm([0.6, 0.4]))[:, :3].sum(axis=1)
    assert first < second


def test_five_classes_fit(tmp_path, figures):
    plots.confusion(RACE, np.full((5, 5), 12_345), tmp_path / "c.png")
    assert_is_picture(tmp_path / "c.png", figures[0])
    assert texts(figures[0]).count("12,345") == 25


def test_scatter_shows_density_diagonal_and_decade_means(tmp_path, figures):
    labels = np.array([20, 22, 24, 26, 28, 69, MISSING], np.float32)
    predictions = np.array([30, 30, 30, 30, 40, 50, 99], np.float32)
    mae = scores.score(AGE, labels, predictions)["mae"]
    plots.scatter(AGE, labels, predictions, mae, tmp_path / "s.png")
    (figure,) = figures
    assert_is_picture(tmp_path / "s.png", figure)
    axes = figure.axes[0]
    diagonal, means = axes.lines
    assert diagonal.get_xdata().tolist() == diagonal.get_ydata().tolist()
    # The twenties have five faces, the sixties one, which is not a mean.
    assert means.get_xdata() == pytest.approx([24])
    assert means.get_ydata() == pytest.approx([32])
    drawn = axes.collections[0].get_array().sum()
    assert drawn == 6, "every labelled face is in one square"
    assert axes.get_xlabel() == "labelled age (years)"
    assert axes.get_ylabel() == "predicted age (years)"
    assert f"Age: off by {mae.value:.1f} years on average" in texts(figure)


def test_scatter_of_one_face(tmp_path, figures):
    labels, predictions = np.array([30.0]), np.array([-3.0])
    mae = scores.score(AGE, labels, predictions)["mae"]
    plots.scatter(AGE, labels, predictions, mae, tmp_path / "s.png")
    assert_is_picture(tmp_path / "s.png", figures[0])
    assert "no interval from one label; n = 1" in texts(figures[0])
    assert figures[0].axes[0].get_ylim()[0] <= -3


def test_decades_mark_the_small_ones(tmp_path, figures):
    labels = np.repeat([5.0, 15.0, 35.0], [40, 50, 3])
    predictions = labels + np.repeat([2.0, -6.0, 20.0], [40, 50, 3])
    rows = subgroups.by_decade(AGE, labels, predictions)
    mae = scores.score(AGE, labels, predictions)["mae"]
    plots.decades(AGE, rows, mae, tmp_path / "d.png")
    (figure,) = figures
    assert_is_picture(tmp_path / "d.png", figure)
    size, lean = figure.axes
    assert [bar.get_height() for bar in size.patches] == pytest.approx([2, 6, 20])
    assert [bar.get_height() for bar in lean.patches] == pytest.approx([2, -6, 20])
    faces = [colors.to_hex(bar.get_facecolor()).upper() for bar in size.patches]
    blue, pale = plots.BLUE, plots.PALE
    assert faces == [blue, blue, pale]
    ticks = [label.get_text() for label in lean.get_xticklabels()]
    assert ticks == ["0-9\nn = 40", "10-19\nn = 50", "20-29\nno labels", "30-39\nn = 3"]
    # Of those with enough faces, for which the axes are made.
    assert "Age error by decade: largest at 10-19 years" in texts(figure)
    assert size.get_ylim() == pytest.approx((0, 6.3))
    assert lean.get_ylim() == pytest.approx((-6.3, 2.1))
    assert "20.0" in [text.get_text() for text in size.texts]
    assert [text.get_text() for text in lean.texts] == ["20.0"]


def test_a_decade_alone_has_axes_of_its_own(tmp_path, figures):
    labels, predictions = np.full(3, 35.0), np.full(3, 55.0)
    rows = subgroups.by_decade(AGE, labels, predictions)
    mae = scores.score(AGE, labels, predictions)["mae"]
    plots.decades(AGE, rows, mae, tmp_path / "d.png")
    size, lean = figures[0].axes
    assert size.get_ylim() == lean.get_ylim() == pytest.approx((0, 21))
    assert not lean.texts


def some_groups():
    """Male white 40, male black 50, female white 6; known errors."""
    sizes = [40, 50, 6]
    labels = {
        "age": np.full(96, 30.0),
        "gender": np.repeat([0, 0, 1], sizes),
        "race": np.repeat([0, 1, 0], sizes),
    }
    gender = np.repeat([0, 0, 0], sizes)
    gender[:10] = 1
    predictions = {
        "age": 30.0 + np.repeat([3, 5, 9], sizes),
        "gender": np.eye(2)[gender],
        "race": np.eye(5)[np.zeros(96, int)],
    }
    found = subgroups.by_group(TASKS, (GENDER, RACE), labels, predictions)
    overall = {
        t.name: scores.score(t, labels[t.name], predictions[t.name]) for t in TASKS
    }
    return found, overall


def test_groups_stand_worst_first(tmp_path, figures):
    found, overall = some_groups()
    assert plots.groups(TASKS, found, overall, tmp_path / "g.png")
    (figure,) = figures
    assert_is_picture(tmp_path / "g.png", figure)
    age, gender, race = figure.axes
    assert [bar.get_width() for bar in age.patches] == pytest.approx([5, 3, 9])
    assert [label.get_text() for label in age.get_yticklabels()] == [
        "male, black  (n = 50)",
        "male, white  (n = 40)",
        "female, white  (n = 6, small)",
    ]
    faces = [colors.to_hex(bar.get_facecolor()).upper() for bar in age.patches]
    names = plots.VERMILLION, plots.BLUE, plots.PALE
    assert faces == list(names)
    assert age.yaxis_inverted(), "the first bar is on top"
    # Accuracies become errors in per cent.
    assert [bar.get_width() for bar in gender.patches] == pytest.approx([25, 0, 100])
    assert [bar.get_width() for bar in race.patches] == pytest.approx([100, 0, 0])
    dashed = gender.lines[0].get_xdata()[0]
    assert dashed == pytest.approx(100 * 16 / 96)
    # The interval is that of the error, so it surrounds the bar's end.
    ((start, _), (end, _)) = gender.collections[0].get_segments()[0]
    score = found.worst("gender.accuracy").scores["gender.accuracy"]
    assert (start, end) == pytest.approx(
        (100 - 100 * score.high, 100 - 100 * score.low)
    )
    assert start < 25 < end
    assert {"Age, largest error: male, black", "25.0", "5.0"} <= set(texts(figure))


def test_reliability_marks_thin_bins(tmp_path, figures):
    confidence = np.repeat([0.95, 0.65], [50, 10])
    predictions = np.stack([1 - confidence, confidence], axis=1)
    labels = np.repeat([1, 0, 1, 0], [40, 10, 5, 5])
    found = {"gender": scores.reliability(labels, predictions)}
    assert plots.reliability([GENDER, RACE], found, tmp_path / "r.png")
    (figure,) = figures
    assert_is_picture(tmp_path / "r.png", figure)
    curve, fraction = figure.axes
    _, joined, many, few = curve.lines
    assert joined.get_xdata() == pytest.approx([0.65, 0.95])
    assert joined.get_ydata() == pytest.approx([0.5, 0.8])
    assert many.get_xdata() == pytest.approx([0.95])
    assert few.get_xdata() == pytest.approx([0.65])
    assert few.get_markerfacecolor() == "white"
    heights = [bar.get_height() for bar in fraction.patches]
    assert sum(heights) == pytest.approx(100)
    assert max(heights) == pytest.approx(100 * 50 / 60)
    # Every prediction is 0.15 too confident.
    assert "Gender: confidence off by 15.0 points" in texts(figure)


def test_without_labels_nothing_is_drawn(tmp_path, figures):
    none = {"age": np.full(3, MISSING), "gender": np.full(3, MISSING)}
    none["race"] = none["gender"]
    predictions = {"age": np.zeros(3), "gender": np.eye(2)[[0, 0, 1]]}
    predictions["race"] = np.eye(5)[[0, 1, 2]]
    found = subgroups.by_group(TASKS, (GENDER, RACE), none, predictions)
    curves = {"gender": scores.reliability(none["gender"], predictions["gender"])}
    assert not plots.groups(TASKS, found, {}, tmp_path / "g.png")
    assert not plots.reliability(TASKS, curves, tmp_path / "r.png")
    assert not figures and not list(tmp_path.iterdir())


def test_drawing_leaves_a_notebook_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.confusion(GENDER, np.eye(2, dtype=int), tmp_path / "c.png")
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_not_imported_before_it_is_needed():
    script = (
        "import sys, hydranet_tf.evaluation.plots\nprint('matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
