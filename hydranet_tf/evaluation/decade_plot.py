"""The picture of how far answers lie from the labels of each decade."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from hydranet_tf.evaluation import scores, subgroups
from hydranet_tf.evaluation.plots import (
    INK,
    SOFT_INK,
    bar,
    bar_colour,
    legend,
    new_figure,
    write_title,
)
from hydranet_tf.tasks import Task

# Room beyond the longest bar or interval that the axes are made for.
_MARGIN = 1.05


def draw(
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
            _bars(axes, found, *_ends(found))
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


def _ends(found: Sequence[scores.Score]) -> tuple[float, float]:
    """Where the axis ends: around zero and what rests on enough faces, or on any."""
    labelled = [score for score in found if score.n]
    enough = [s for s in labelled if s.n >= subgroups.SMALL] or labelled
    reached = [0.0]
    for score in enough:
        reached += [e for e in (score.value, score.low, score.high) if e is not None]
    return _MARGIN * min(reached), _MARGIN * max(reached)


def _bars(axes, found: Sequence[scores.Score], low: float, high: float) -> None:
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
