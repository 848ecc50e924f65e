"""Pictures of a report, as PNG files, drawn with matplotlib.

Figures are made without pyplot: nothing global is opened or changed, so a
notebook keeps its own backend and styles. Matplotlib is imported when the
first picture is drawn, because most users of the package never draw one.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hydranet_tf.evaluation import scores, sensitivity, subgroups
from hydranet_tf.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Two of Okabe and Ito's colours, which stay apart under the common colour
# blindnesses.
BLUE, VERMILLION = "#0072B2", "#D55E00"
INK, SOFT_INK, GRID, PALE = "#222222", "#5A5A5A", "#E3E3E3", "#B9D4E5"

# Room beyond the longest bar or interval that the axes of decades are made for.
_ROOM = 1.05

NOTE = "Labels are what annotators saw in a picture, not facts about a person."

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT_INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


@contextlib.contextmanager
def new_figure(path: pathlib.Path, width: float, height: float):
    """A figure of inches, saved to `path` with the note below it."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        # Room for the note, which constrained layout does not see.
        foot, top, side = 0.34 / height, 0.1 / height, 0.08 / width
        figure.get_layout_engine().set(rect=(side, foot, 1 - 2 * side, 1 - foot - top))
        yield figure
        figure.text(2 * side, foot / 3, NOTE, fontsize=8.5, color=SOFT_INK)
        figure.savefig(path)


def write_title(axes: Axes, title: str, subtitle: str) -> None:
    """What is seen, then on what it rests; both start at the left."""
    axes.annotate(
        subtitle,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=10,
        color=SOFT_INK,
    )
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=25)


def confusion(task: Task, counts: np.ndarray, path: pathlib.Path) -> None:
    """A confusion matrix: shares of each label's row, counts below them.

    Args:
        counts: [label, prediction].
    """
    rows = counts.sum(axis=1)
    fractions = np.divide(
        counts, rows[:, None], out=np.zeros(counts.shape), where=rows[:, None] > 0
    )
    side = len(task.classes)
    total, right = int(counts.sum()), int(np.trace(counts))
    with new_figure(path, 3.2 + side, 2.0 + 0.85 * side) as figure:
        axes = figure.subplots()
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(side, side):
            if not rows[i]:
                continue
            colour = "white" if fractions[i, j] > 0.6 else INK
            axes.text(
                j, i - 0.1, f"{fractions[i, j]:.0%}", ha="center", va="center",
                fontsize=13, color=colour, fontweight="bold" if i == j else "normal",
            )  # fmt: skip
            axes.text(
                j, i + 0.24, f"{counts[i, j]:,}", ha="center", va="center",
                fontsize=9, color=colour,
            )  # fmt: skip
        labels = [
            f"{name}\nn = {n:,}" if n else f"{name}\nno labels"
            for name, n in zip(task.classes, rows, strict=True)
        ]
        axes.set_yticks(range(side), labels)
        axes.set_xticks(range(side), task.classes)
        axes.set_ylabel("label")
        axes.set_xlabel("prediction")
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(1, side) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, side) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        write_title(
            axes,
            f"{task.name.capitalize()}: {right / total:.1%} predicted as labelled",
            f"share of each row, counts below; n = {total:,}",
        )


def scatter(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    mae: scores.Score,
    path: pathlib.Path,
) -> None:
    """Predicted against labelled values: density, diagonal, decade means."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.ticker import LogLocator

    kept = scores.present(labels)
    labels, predictions = labels[kept].astype(float), predictions[kept].astype(float)
    top = 10 * np.floor(max(labels.max(), predictions.max()) / 10) + 10
    bottom = 10 * np.floor(min(labels.min(), predictions.min(), 0) / 10)
    # Cells of two units: labels are whole numbers, and cells that do not hold
    # equally many of them would draw stripes.
    edges = np.arange(bottom, top + 3, 2) - 0.5
    shades = LinearSegmentedColormap.from_list(
        "density", ["#DCE9F2", "#6BA6CB", "#0B3C5D"]
    )
    with new_figure(path, 7.2, 7.0) as figure:
        axes = figure.subplots()
        counts, *_, density = axes.hist2d(
            labels, predictions, bins=(edges, edges), cmap=shades, cmin=1
        )
        # A scale needs two ends, also where no square holds two faces.
        density.set_norm(LogNorm(1, max(2, np.nanmax(counts))))
        scale = figure.colorbar(density, ax=axes, shrink=0.55, pad=0.02, aspect=25)
        scale.set_label("faces in a square of 2 x 2 " + task.unit)
        scale.outline.set_visible(False)
        scale.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.ax.yaxis.set_major_formatter("{x:.0f}")
        scale.ax.minorticks_off()
        axes.plot(
            [bottom, top], [bottom, top], color=INK, linewidth=1.2, linestyle="--",
            label="prediction equals label",
        )  # fmt: skip
        decade = np.floor(labels / subgroups.DECADE)
        seen = [d for d in np.unique(decade) if (decade == d).sum() >= 5]
        middle = [labels[decade == d].mean() for d in seen]
        mean = [predictions[decade == d].mean() for d in seen]
        axes.plot(
            middle, mean, "o-", color=VERMILLION, markersize=8, linewidth=1.8,
            markeredgecolor="white", markeredgewidth=1.2,
            label="mean prediction of each decade (5 faces or more)",
        )  # fmt: skip
        axes.set_xlim(bottom, top)
        axes.set_ylim(bottom, top)
        axes.set_aspect("equal")
        axes.set_xlabel(f"labelled {task.name} ({task.unit})")
        axes.set_ylabel(f"predicted {task.name} ({task.unit})")
        axes.grid(True)
        axes.legend(loc="upper left", fontsize=10)
        write_title(
            axes,
            f"{task.name.capitalize()}: off by {mae.value:.1f} {task.unit} on average",
            f"{_interval(mae)}; n = {mae.n:,}",
        )


def _interval(score: scores.Score) -> str:
    if score.low is None:
        return "no interval from one label"
    return f"{scores.LEVEL:.0%} interval {score.low:.1f} to {score.high:.1f}"


def legend(found: Iterable[scores.Score]) -> str:
    """What lines and colours of some bars mean."""
    text = f"lines: {scores.LEVEL:.0%} intervals"
    if any(score.n < subgroups.SMALL for score in found):
        text += f"; pale: under {subgroups.SMALL} faces, not compared"
    return text


def bar_colour(score: scores.Score) -> str:
    return PALE if score.n < subgroups.SMALL else BLUE


def bar(axes, place, score, colour, vertical=False, flip=False, factor=1.0) -> None:
    """One bar with its interval; `flip` shows one minus a share."""
    value, ends = score.value, (score.low, score.high)
    if flip:
        value = 1 - value
        ends = ends if score.low is None else (1 - score.high, 1 - score.low)
    (axes.bar if vertical else axes.barh)(place, factor * value, 0.68, color=colour)
    if ends[0] is None:
        return
    ends = [factor * end for end in ends]
    draw = axes.vlines if vertical else axes.hlines
    draw(place, *ends, color=INK, linewidth=1.5)


def groups(
    tasks: Sequence[Task],
    found: subgroups.Groups,
    overall: Mapping[str, Mapping[str, scores.Score]],
    path: pathlib.Path,
) -> bool:
    """Error of each group, one panel a task, the worst group on top.

    Args:
        overall: scores of all examples by task and score, for the dashed line.

    Returns:
        Whether any group had a label, so that there was something to draw.
    """
    panels = []
    for task in tasks:
        ranked = found.ranked(f"{task.name}.{task.score}")
        if ranked:
            panels.append((task, task.score, ranked))
    if not panels:
        return False
    heights = [0.31 * len(ranked) + 1.25 for *_, ranked in panels]
    with new_figure(path, 8.6, sum(heights) + 0.4 + 0.2 * len(panels)) as figure:
        figure.get_layout_engine().set(h_pad=0.15)
        all_axes = figure.subplots(
            len(panels), 1, height_ratios=heights, squeeze=False
        )[:, 0]
        for axes, (task, name, ranked) in zip(all_axes, panels, strict=True):
            _group_panel(axes, task, name, ranked, found, overall[task.name][name])
    return True


def _group_panel(axes, task, name, ranked, found, whole) -> None:
    key = f"{task.name}.{name}"
    flip = scores.MEANINGS[name].is_fraction
    factor = 100 if flip else 1
    worst = found.worst(key)
    for place, group in enumerate(ranked):
        score = group.scores[key]
        colour = VERMILLION if group is worst else bar_colour(score)
        bar(axes, place, score, colour, flip=flip, factor=factor)
        # The value at the right, where no bar can cover it.
        value = factor * (1 - score.value if flip else score.value)
        axes.annotate(
            f"{value:.1f}", (1, place), (6, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=10,
        )  # fmt: skip
    names = [
        f"{group.name}  (n = {group.scores[key].n:,}"
        + (", small)" if group.scores[key].n < subgroups.SMALL else ")")
        for group in ranked
    ]
    axes.set_yticks(range(len(ranked)), names, fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(True, axis="x")
    everyone = factor * (1 - whole.value if flip else whole.value)
    axes.axvline(everyone, color=INK, linewidth=1.2, linestyle="--")
    unit = "%" if flip else f" {task.unit}"
    axes.set_xlabel(
        "labelled faces predicted wrongly (%)"
        if flip
        else f"mean absolute error ({task.unit})"
    )
    said = f"largest error: {worst.name}" if worst else found.without_worst(key)
    write_title(
        axes,
        f"{task.name.capitalize()}, {said}",
        f"dashed: all faces, {everyone:.1f}{unit}; "
        + legend(group.scores[key] for group in ranked),
    )


def reliability(
    tasks: Sequence[Task],
    found: Mapping[str, scores.ReliabilityCurve],
    path: pathlib.Path,
) -> bool:
    """Fraction of right predictions against their confidence.

    Returns:
        Whether any classification had a label.
    """
    shown = [t for t in tasks if t.name in found and found[t.name].n]
    if not shown:
        return False
    with new_figure(path, 0.9 + 4.4 * len(shown), 6.6) as figure:
        grid = figure.subplots(
            2,
            len(shown),
            squeeze=False,
            sharex=True,
            sharey="row",
            height_ratios=(4, 1),
        )
        for column, task in enumerate(shown):
            _reliability_panel(grid[:, column], task, found[task.name], column == 0)
    return True


def _reliability_panel(pair, task, found, is_first) -> None:
    curve, fraction = pair
    low, high = found.edges[:-1], found.edges[1:]
    used = found.counts > 0
    curve.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle="--")
    curve.vlines(
        found.confidence[used], found.confidence[used], found.accuracy[used],
        color=VERMILLION, linewidth=3, alpha=0.55, label="gap to confidence",
    )  # fmt: skip
    curve.plot(
        found.confidence[used], found.accuracy[used], color=BLUE, linewidth=1.5,
        label="fraction predicted right",
    )  # fmt: skip
    many = found.counts >= subgroups.SMALL
    for chosen, face in ((many, BLUE), (used & ~many, "white")):
        # A line without points has no place, and the layout cannot fit that.
        if chosen.any():
            curve.plot(
                found.confidence[chosen], found.accuracy[chosen], "o", markersize=7,
                markerfacecolor=face, markeredgecolor=BLUE, clip_on=False, zorder=3,
            )  # fmt: skip
    curve.set_xlim(0, 1)
    curve.set_ylim(0, 1)
    curve.grid(True)
    fraction.bar(
        (low + high) / 2, 100 * found.counts / found.n, (high - low) * 0.92, color=BLUE
    )
    fraction.grid(True, axis="y")
    fraction.set_xlabel("confidence of the prediction")
    if is_first:
        curve.set_ylabel("fraction predicted right")
        fraction.set_ylabel("faces (%)")
        curve.legend(loc="upper left", fontsize=10)
    write_title(
        curve,
        f"{task.name.capitalize()}: confidence off by {100 * found.error:.1f} points",
        f"calibration error; n = {found.n:,}; hollow: under {subgroups.SMALL}",
    )


def decades(
    task: Task,
    rows: Sequence[subgroups.Decade],
    mae: scores.Score,
    path: pathlib.Path,
) -> None:
    """Mean absolute error and bias of each decade of label.

    The axes are made for decades with enough faces: one label of 116 years would
    flatten all others. A bar that reaches beyond them ends there, with its value.
    """
    with new_figure(path, max(8.6, 0.9 + 0.84 * len(rows)), 6.2) as figure:
        size, lean = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        places = np.arange(len(rows))
        for axes, name in ((size, "mae"), (lean, "bias")):
            found = [row.scores[name] for row in rows]
            _decade_bars(axes, found, *_axis_ends(found))
            axes.grid(True, axis="y")
            axes.tick_params(axis="x", length=0)
        size.axhline(mae.value, color=INK, linewidth=1.2, linestyle="--")
        lean.axhline(0, color=SOFT_INK, linewidth=0.8)
        lean.spines["bottom"].set_visible(False)
        size.set_ylabel(f"mean absolute\nerror ({task.unit})")
        lean.set_ylabel(f"bias ({task.unit})\npredicted - label")
        names = [
            f"{r.name}\nn = {r.n:,}" if r.n else f"{r.name}\nno labels" for r in rows
        ]
        lean.set_xticks(places, names, fontsize=9.5)
        lean.set_xlabel(f"labelled {task.name} ({task.unit})")
        worst = max(
            (r for r in rows if r.n >= subgroups.SMALL),
            key=lambda r: r.scores["mae"].value,
            default=None,
        )
        write_title(
            size,
            f"{task.name.capitalize()} error by decade"
            + (f": largest at {worst.name} {task.unit}" if worst else ""),
            f"dashed: all faces, {mae.value:.1f} {task.unit}; "
            + legend(row.scores["mae"] for row in rows if row.n),
        )


def _axis_ends(found: Sequence[scores.Score]) -> tuple[float, float]:
    """Where the axis ends: around zero and what rests on enough faces, or on any."""
    labelled = [score for score in found if score.n]
    enough = [s for s in labelled if s.n >= subgroups.SMALL] or labelled
    reached = [0.0]
    for score in enough:
        reached += [e for e in (score.value, score.low, score.high) if e is not None]
    return _ROOM * min(reached), _ROOM * max(reached)


def _decade_bars(axes, found: Sequence[scores.Score], low: float, high: float) -> None:
    if low < high:
        axes.set_ylim(low, high)
    for place, score in enumerate(found):
        if not score.n:
            continue
        bar(axes, place, score, bar_colour(score), vertical=True)
        if not low <= score.value <= high:
            above = score.value > high
            axes.annotate(
                f"{score.value:.1f}",
                xy=(place, high if above else low),
                xytext=(0, -3 if above else 3),
                textcoords="offset points",
                ha="center",
                va="top" if above else "bottom",
                fontsize=9.5,
            )


def crop_sensitivity(measured: Mapping[str, Any], path: pathlib.Path) -> bool:
    """One panel a task: its score against the factor of the crop.

    Args:
        measured: what `sensitivity.of_crops` returned.

    Returns:
        Whether any task had labels.
    """
    shown = {
        name: found
        for name, found in measured["tasks"].items()
        if found["values"][0]["n"]
    }
    if not shown:
        return False
    factors = measured["factors"]
    with new_figure(path, 0.6 + 4.5 * len(shown), 4.4) as figure:
        figure.get_layout_engine().set(w_pad=0.12)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (name, found) in zip(panels, shown.items(), strict=True):
            _crop_panel(axes, name, found, factors)
    return True


def _crop_panel(
    axes, name: str, found: Mapping[str, Any], factors: list[float]
) -> None:
    is_fraction = scores.MEANINGS[found["score"]].is_fraction
    scale = 100 if is_fraction else 1
    # Errors in all panels, so that down is better everywhere.
    values = [
        scale * (1 - score["value"] if is_fraction else score["value"])
        for score in found["values"]
    ]
    if found["values"][0]["low"] is not None:
        ends = [
            [scale * (1 - s[end] if is_fraction else s[end]) for s in found["values"]]
            for end in ("low", "high")
        ]
        axes.fill_between(factors, *ends, color=PALE, alpha=0.6, linewidth=0)
    axes.plot(factors, values, "o-", color=BLUE, markersize=6, linewidth=1.8)
    axes.axvline(1, color=INK, linewidth=1.2, linestyle="--", zorder=1)
    axes.set_ylim(bottom=0)
    axes.set_xticks(factors, [f"{factor:g}" for factor in factors])
    axes.set_xlabel("side of the crop, 1 = as in the data")
    axes.set_ylabel(
        "labelled faces predicted wrongly (%)"
        if is_fraction
        else f"mean absolute error ({found['unit']})"
    )
    axes.grid(True, axis="y")
    as_is, worst = values[factors.index(1.0)], max(values)
    unit = " % wrong" if is_fraction else f" {found['unit']}"
    write_title(
        axes,
        f"{name.capitalize()}: {as_is:.1f} as cut, up to {worst:.1f}{unit}",
        f"pale: {scores.LEVEL:.0%} intervals; n = {found['values'][0]['n']:,}",
    )
    axes.tick_params(colors=SOFT_INK, labelcolor=INK)


def capture_sensitivity(measured: Mapping[str, Any], path: pathlib.Path) -> bool:
    """One row a change, one panel a task; of a regression two: error and move.

    Args:
        measured: what `sensitivity.of_captures` returned.

    Returns:
        Whether there was anything to draw: a regression, or labels.
    """
    panels = []
    for name, task in measured["tasks"].items():
        if "moved" in task:
            panels.append((_moves_panel, name, task))
        if task["values"][0]["n"]:
            panels.append((_errors_panel, name, task))
    if not panels:
        return False
    names = [
        f"{row['kind']} {row['amount']}".strip() if row["amount"] else "as they are"
        for row in measured["changes"]
    ]
    height = 0.29 * len(names) + 1.9
    with new_figure(path, 1.8 + 3.7 * len(panels), height) as figure:
        figure.get_layout_engine().set(w_pad=0.12)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for one, (draw_panel, name, task) in zip(axes, panels, strict=True):
            draw_panel(one, name, task)
            one.grid(True, axis="x")
            one.tick_params(axis="y", length=0)
            one.tick_params(axis="x", colors=SOFT_INK, labelcolor=INK)
        axes[0].set_yticks(range(len(names)), names, fontsize=10)
        axes[0].invert_yaxis()
    return True


def _moves_panel(axes, name: str, task: Mapping[str, Any]) -> None:
    moved, notable = task["moved"], sensitivity.NOTABLE
    axes.axvspan(-notable, notable, color=PALE, alpha=0.4, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1.2, linestyle="--", zorder=1)
    _dots(
        axes,
        moved,
        [VERMILLION if abs(one["value"]) > notable else BLUE for one in moved],
    )
    axes.set_xlabel(f"mean move of the prediction ({task['unit']})")
    furthest = max((one["value"] for one in moved), key=abs)
    write_title(
        axes,
        f"{name.capitalize()} moves by up to {furthest:+.1f}",
        f"pale: {notable:g} {task['unit'].removesuffix('s')} either way; "
        f"n = {moved[0]['n']:,}",
    )


def _errors_panel(axes, name: str, task: Mapping[str, Any]) -> None:
    is_fraction = scores.MEANINGS[task["score"]].is_fraction
    # Errors in all panels, so that left is better everywhere.
    values = [_as_error(score, is_fraction) for score in task["values"]]
    _dots(axes, values, [BLUE] * len(values))
    axes.axvline(values[0]["value"], color=INK, linewidth=1.2, linestyle="--", zorder=1)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "wrong (%)" if is_fraction else f"mean absolute error ({task['unit']})"
    )
    worst = max(one["value"] for one in values)
    unit = " % wrong" if is_fraction else ""
    write_title(
        axes,
        f"{name.capitalize()}: {values[0]['value']:.1f} to {worst:.1f}{unit}",
        f"lines: {scores.LEVEL:.0%} intervals; n = {values[0]['n']:,}",
    )


def _as_error(score: Mapping[str, Any], is_fraction: bool) -> dict[str, Any]:
    if not is_fraction:
        return dict(score)
    turned = {"value": "value", "low": "high", "high": "low"}
    return {"n": score["n"]} | {
        ours: None if score[theirs] is None else 100 * (1 - score[theirs])
        for ours, theirs in turned.items()
    }


def _dots(axes, found, colours) -> None:
    for place, (one, colour) in enumerate(zip(found, colours, strict=True)):
        if one["low"] is not None:
            axes.hlines(place, one["low"], one["high"], color=colour, linewidth=1.5)
        axes.plot(one["value"], place, "o", color=colour, markersize=6)
