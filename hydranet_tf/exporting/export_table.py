"""An export as a table: what each artefact costs and how well it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hydranet_tf.exporting import latency, litert, parity
from hydranet_tf.exporting.artefacts import Artefact
from hydranet_tf.exporting.parity import IMAGE_BYTES, Sample
from hydranet_tf.tasks import Task

_NOTHING = "-"


def table(artefacts: Iterable[Artefact], sample: Sample) -> str:
    """Lines of text, the Keras model first.

    Args:
        artefacts: a row for each way into each.
        sample: that they were compared on.

    Returns:
        Columns of size in megabytes, largest difference from Keras by task
        (years, probability), mean absolute error or accuracy by task, and
        milliseconds for one image by number of threads.
    """
    tasks = sample.tasks
    above = ["", ""]
    above += ["difference"] + [""] * (len(tasks) - 1)
    above += ["error, accuracy"] + [""] * (len(tasks) - 1)
    above += ["ms by threads"] + [""] * (len(latency.THREADS) - 1)
    header = ["", "MB"]
    header += [task.name for task in tasks] * 2
    header += [str(n) for n in latency.THREADS]
    rows = [["keras", _NOTHING, *[_NOTHING] * len(tasks)]]
    rows[0] += _scores(tasks, sample.scores(sample.predictions))
    rows[0] += [_NOTHING] * len(latency.THREADS)
    shown = list(artefacts)
    for artefact in shown:
        for way, comparison in artefact.comparisons.items():
            name = f"{artefact.format} {artefact.variant}"
            if way == IMAGE_BYTES:
                name += ", image bytes"
            times = artefact.milliseconds or {}
            rows.append(
                [
                    name,
                    f"{artefact.size / 1e6:.2f}",
                    *(f"{comparison.differences[t.name]:.1e}" for t in tasks),
                    *_scores(tasks, comparison.scores),
                    *(
                        f"{times[n]:.2f}" if n in times else _NOTHING
                        for n in latency.THREADS
                    ),
                ]
            )
    lines = [f"{len(sample)} faces; differences from Keras in years and probability"]
    if len(sample) < parity.FEW and any(a.variant in litert.IN_8_BITS for a in shown):
        lines.append(
            f"{len(sample)} faces are too few to vouch for 8 bits: what they bound is "
            f"these faces alone. Give --data with {parity.FEW} faces or more"
        )
    return "\n".join(lines + _aligned([header, *rows], above))


def _scores(tasks: Sequence[Task], scores: Mapping[str, float | None]) -> list[str]:
    return [_score(task, scores[task.name]) for task in tasks]


def _score(task: Task, score: float | None) -> str:
    return _NOTHING if score is None else task.format_score(score, digits=3)


def _aligned(rows: Sequence[Sequence[str]], above: Sequence[str]) -> list[str]:
    """Names to the left, numbers to the right; `above` over its columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    title = ""
    for i, text in enumerate(above):
        begin = sum(widths[:i]) + 2 * i
        if text:
            title = title.ljust(begin) + text
    return [title.rstrip(), *lines]
