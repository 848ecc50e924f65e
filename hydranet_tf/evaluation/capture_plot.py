"""The picture of how predictions change with how a face was captured."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from hydranet_tf.evaluation import scores
from hydranet_tf.evaluation.capture_sensitivity import NOTABLE
from hydranet_tf.evaluation.plots import (
    BLUE,
    INK,
    PALE,
    SOFT_INK,
    VERMILLION,
    new_figure,
    write_title,
)


def draw(measured: Mapping[str, Any], path: pathlib.Path) -> bool:
    """One row a change, one panel a task; of a regression two: error and move.

    Args:
        measured: what `capture_sensitivity.measure` returned.

    Returns:
        Whether there was anything to draw: a regression, or labels.
    """
    panels = []
    for name, task in measured["tasks"].items():
        if "moved" in task:
            panels.append((_draw_moves, name, task))
        if task["values"][0]["n"]:
            panels.append((_draw_errors, name, task))
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


def _draw_moves(axes, name: str, task: Mapping[str, Any]) -> None:
    moved = task["moved"]
    axes.axvspan(-NOTABLE, NOTABLE, color=PALE, alpha=0.4, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1.2, linestyle="--", zorder=1)
    _dots(
        axes,
        moved,
        [VERMILLION if abs(one["value"]) > NOTABLE else BLUE for one in moved],
    )
    axes.set_xlabel(f"mean move of the prediction ({task['unit']})")
    furthest = max((one["value"] for one in moved), key=abs)
    write_title(
        axes,
        f"{name.capitalize()} moves by up to {furthest:+.1f}",
        f"pale: {NOTABLE:g} {task['unit'].removesuffix('s')} either way; "
        f"n = {moved[0]['n']:,}",
    )


def _draw_errors(axes, name: str, task: Mapping[str, Any]) -> None:
    is_fraction = scores.MEANINGS[task["score"]].is_fraction
    # Errors in all panels, so that left is better everywhere.
    values = [_error(score, is_fraction) for score in task["values"]]
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


def _error(score: Mapping[str, Any], is_fraction: bool) -> dict[str, Any]:
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
