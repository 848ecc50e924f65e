"""The picture of how scores change with the crop."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from hydranet_tf.evaluation import scores
from hydranet_tf.evaluation.plots import (
    BLUE,
    INK,
    PALE,
    SOFT_INK,
    new_figure,
    write_title,
)


def draw(measured: Mapping[str, Any], path: pathlib.Path) -> bool:
    """One panel a task: its score against the factor of the crop.

    Args:
        measured: what `crop_sensitivity.measure` returned.

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
            _panel(axes, name, found, factors)
    return True


def _panel(axes, name: str, found: Mapping[str, Any], factors: list[float]) -> None:
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
        "labelled faces answered wrongly (%)"
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
