"""A report in words, as Markdown.

It is written from what stands in `report.json` alone, so the two cannot
disagree.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydranet_tf.evaluation import sensitivity
from hydranet_tf.evaluation.report import REPORT_JSON
from hydranet_tf.evaluation.scores import MEANINGS, NO_LABELS

ABOUT_LABELS = (
    "Labels are what annotators saw in a picture, not facts about the person in "
    "it. Every score here says how often, or how closely, the model agrees "
    "with those annotators, and nothing more."
)

_MAX_LISTED = 20

_ABOUT_PARTS = {
    "ages 21 to 60": "Ages 21 to 60 are what the CORAL protocol keeps of UTKFace.",
    "without near-twins": "A near-twin is a near-identical image in the training part.",
}


def show(name: str, score: Mapping[str, Any], unit: str, interval: bool = False) -> str:
    """A score of report.json in words, such as `6.12 years` or `91.3 %`."""
    if score["status"] == NO_LABELS:
        return NO_LABELS
    factor, digits, unit = (100, 1, "%") if MEANINGS[name].is_fraction else (1, 2, unit)
    text = f"{factor * score['value']:.{digits}f} {unit}".rstrip()
    return f"{text} ({_range(name, score)})" if interval else text


def _range(name: str, score: Mapping[str, Any]) -> str:
    if score["low"] is None:
        return "no interval"
    factor, digits = (100, 1) if MEANINGS[name].is_fraction else (1, 2)
    low, high = (f"{factor * score[end]:.{digits}f}" for end in ("low", "high"))
    return f"{low} to {high}"


def headline(report: Mapping[str, Any]) -> str:
    """The table of the scores of all examples."""
    rows = []
    for task, found in report["tasks"].items():
        for name, score in found["scores"].items():
            value = show(name, score, found["unit"])
            rows.append(
                (f"{task}: {MEANINGS[name].title}", value,
                 _range(name, score) if score["n"] else "", f"{score['n']:,}")
            )  # fmt: skip
        if found["calibration"]:
            ece = found["calibration"]["ece"]
            value = NO_LABELS if ece is None else f"{100 * ece:.1f} %"
            n = f"{found['calibration']['n']:,}"
            rows.append((f"{task}: expected calibration error", value, "", n))
    level = f"{report['settings']['level']:.0%} interval"
    return table(("score", "value", level, "labels"), rows)


def markdown(report: Mapping[str, Any], faces: Mapping[str, str] | None = None) -> str:
    """The report for a person, from the content of report.json.

    Args:
        report: that content.
        faces: names of pictures by the id of the example that they show; given,
            the worst examples are shown, otherwise only named.
    """
    parts = [
        f"# {title(report)}",
        ABOUT_LABELS,
        _about(report),
        "## All examples",
        headline(report),
        "Intervals come from drawing the examples again "
        f"{report['settings']['resamples']:,} times. Where all examples of a "
        "row are right, or all wrong, the interval has no width; that is the "
        "limit of the method, not certainty.",
        _intervals(report),
        *capture_sentences(report),
        *_parts(report),
        *_groups(report),
        *(part for item in report["tasks"].items() for part in _task(report, *item)),
        *_worst_examples(report, faces or {}),
        *_reliability(report),
        *_crop_sensitivity(report),
        *_capture(report),
        *_left_out(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(report: Mapping[str, Any]) -> str:
    """What the report is about, as Markdown."""
    source = report["data"]["source"]
    if source.startswith("/"):
        # The page is passed on; folders from the root are those of one machine.
        source = pathlib.PurePath(source).name
    source = plain(source)
    return f"How well the model agrees with the labels of {source}"


def _about(report) -> str:
    model, data = report["model"], report["data"]
    at = f", checkpoint {model['checkpoint']}, epoch {model['epoch']}"
    lines = [
        f"- Model: {code(model['path'])} ({model['kind']}"
        f"{at if model['checkpoint'] else ''}), images of "
        f"{model['image_size']} x {model['image_size']} pixels",
        f"- Data: {code(data['source'])}, split {data['split']}, "
        f"{data['examples']:,} examples, digest `{data['digest'][:16]}`",
        f"- Left out: {len(data['skipped']):,} by the source, "
        f"{len(data['bad_images']):,} whose images cannot be read",
        *_search(data.get("faces")),
        *_trained_on(data),
        "- Made "
        + report["created"]
        + " with "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
    ]
    weights = model["loss_weights"]
    if weights:
        values = ", ".join(f"{k} {v:.4g}" for k, v in weights["values"].items())
        lines.append(f"- Loss weights after epoch {weights['epoch']}: {values}")
    if model.get("temperatures"):
        values = ", ".join(f"{k} {v:.3g}" for k, v in model["temperatures"].items())
        lines.append(
            f"- Temperatures of the heads, fitted by --fit_temperatures: {values} "
            "(above 1: less sure than the network was), to examples as they are and "
            "changed as cameras do it. On the examples that they were fitted on, "
            "calibration looks a little better than it is elsewhere"
        )
    return "\n".join(lines)


def _trained_on(data) -> list[str]:
    count = data.get("trained_on")
    if count is None:
        return []
    if not count:
        return ["- The run was trained on none of these examples"]
    return [
        f"- The run was trained on {count:,} of these examples: for those the scores "
        "say how well it learned them, not how it does on other faces"
    ]


def _search(faces: Mapping[str, Any] | None) -> list[str]:
    if not faces:
        return []
    missing = len(faces["without_face"])
    return [
        f"- Faces: the largest of each of {faces['pictures']:,} photographs, found and "
        f"cropped first (--crop_faces). In {missing:,} none was found, which no score "
        f"counts; {faces['with_several']:,} showed several"
    ]


def _intervals(report) -> str:
    found = [
        task for task, part in report["tasks"].items() if "width" in part["scores"]
    ]
    if not found:
        return ""
    return (
        f"The 80 % interval of {' and '.join(found)} is the model's own, for each "
        "face: it shall hold 80 % of the labels, and be as narrow as it can."
    )


def worst_groups(report: Mapping[str, Any]) -> str:
    """The table of the group with the worst of each score."""
    rows = []
    for key, worst in report["groups"]["worst"].items():
        task, name = key.split(".")
        title = f"{task}: {MEANINGS[name].title}"
        if worst["group"] is None:
            rows.append((title, worst["status"], "", "", ""))
            continue
        score, whole = worst["score"], report["tasks"][task]["scores"][name]
        unit = report["tasks"][task]["unit"]
        rows.append(
            (title, worst["group"], show(name, score, unit, True),
             f"{score['n']:,}", show(name, whole, unit))
        )  # fmt: skip
    return table(("score", "worst group", "there", "n", "all"), rows)


def _parts(report) -> list[str]:
    if not report["parts"]:
        return []
    units = {name: found["unit"] for name, found in report["tasks"].items()}
    keys = list(report["parts"][0]["scores"])
    rows = [
        [row["part"], f"{row['n']:,}"]
        + [
            show(key.split(".")[1], row["scores"][key], units[key.split(".")[0]], True)
            for key in keys
        ]
        for row in report["parts"]
    ]
    return [
        "## Parts of these examples",
        table(["part", "n", *map(_heading, keys)], rows),
        " ".join(_ABOUT_PARTS.get(row["part"], "") for row in report["parts"]),
    ]


def _groups(report) -> list[str]:
    groups = report["groups"]
    by, small = " x ".join(groups["by"]), groups["small_below"]
    parts = [f"## Worst groups first ({by})"]
    if groups["sorted_by"] is None:
        return [*parts, f"No group has labels: {NO_LABELS}."]
    units = {name: found["unit"] for name, found in report["tasks"].items()}
    suspects = []
    for key, worst in groups["worst"].items():
        task, name = key.split(".")
        suspects += [
            f"- {task}: {MEANINGS[name].title}: {row['group']}, "
            f"{show(name, row['score'], units[task])} (n = {row['score']['n']})"
            for row in worst["small_and_worse"]
        ]
    parts.append(worst_groups(report))
    if suspects:
        parts.append(
            f"Groups with fewer than {small} labels do not compete above, "
            "because a few faces decide there. These look worse still and "
            "deserve more data:"
        )
        parts.append("\n".join(suspects))
    if report["pictures"].get("groups"):
        parts.append(picture("Error by group", report["pictures"]["groups"]))
    keys = list(groups["rows"][0]["scores"])
    header = ["group", "n", *map(_heading, keys)]
    body = [
        [row["name"] + (" (small)" if row["small"] else ""), f"{row['n']:,}"]
        + [
            show(key.split(".")[1], score, units[key.split(".")[0]], True)
            for key, score in row["scores"].items()
        ]
        for row in groups["rows"]
    ]
    parts.append(table(header, body))
    parts.append(
        f"Sorted by {_heading(groups['sorted_by'])}, worst first; groups of "
        f"fewer than {small} (small) stand last. Inside a group the accuracy of a "
        f"grouping question is the recall of that class. {groups['left_out']:,} "
        "examples lack one of the grouping labels and are in no group."
    )
    return parts


def _task(report, task: str, found) -> list[str]:
    parts = [f"## {task.capitalize()}"]
    if found["status"] == NO_LABELS:
        return [*parts, f"No scores: {NO_LABELS}."]
    titles = {
        "scatter": "Predicted against labelled",
        "decades": "Error by decade",
        "confusion": "Confusion matrix",
    }
    pictures = report["pictures"].get(task, {})
    parts += [picture(titles[kind], name) for kind, name in pictures.items()]
    unit = found["unit"]
    if found["by_decade"] is not None:
        rows = [
            (f"{row['from']} to {row['to']}", f"{row['n']:,}")
            + tuple(show(k, s, unit, True) for k, s in row["scores"].items())
            for row in found["by_decade"]
        ]
        header = (f"{unit} (label)", "n", *found["by_decade"][0]["scores"])
        parts.append(table(header, rows))
    # Reports of earlier versions know no ranges.
    if found.get("ranges"):
        parts += _ranges(found["ranges"])
    if found["confusion"]:
        matrix = found["confusion"]
        for title, key in (("Counts", "counts"), ("Shares of each row", "row_shares")):
            rows = [
                (name, *(_cell(value) for value in row))
                for name, row in zip(found["classes"], matrix[key], strict=True)
            ]
            header = ("label \\ prediction", *found["classes"])
            parts += [f"{title}:", table(header, rows)]
    return parts


def _ranges(found) -> list[str]:
    shown = {
        name: f"{100 * score['value']:.1f} % ({100 * score['low']:.1f} to "
        f"{100 * score['high']:.1f})"
        for name, score in found["scores"].items()
    }
    rows = [
        (name, *row) for name, row in zip(found["names"], found["counts"], strict=True)
    ]
    return [
        "Labels that are ranges: an error is the distance from the range, and an "
        f"prediction inside it is right. {shown['accuracy']} of the predictions lie in "
        f"the label's range, {shown['within_one']} in it or in the next. Counts, each "
        "prediction in the range that it is nearest to:",
        table(("label \\ prediction", *found["names"]), rows),
    ]


def _worst_examples(report, faces: Mapping[str, str]) -> list[str]:
    found = {task: rows for task, rows in report["worst_examples"].items() if rows}
    if not found:
        return []
    parts = [
        "## Worst examples",
        "The predictions furthest from their labels. Each may be an error of the "
        "model, a slip of an annotator or a poor picture: look before you judge.",
    ]
    if faces:
        parts.append(
            "This page holds pictures of people: show it to those who may see them."
        )
    for task, rows in found.items():
        is_number = "error" in rows[0]
        header = ["example", "label", "prediction"]
        if is_number:
            header += [f"off by ({report['tasks'][task]['unit']})"]
            header += ["80 % interval"] if "low" in rows[0] else []
            intro = "largest errors"
        else:
            header += ["its probability", "of the label"]
            intro = "wrong predictions that gave the label the least probability"
        body = []
        for row in rows:
            name = code(row["id"])
            if row["id"] in faces:
                seen = f"A face labelled {row['label']}, predicted {row['answer']}"
                name = f"{picture(seen, faces[row['id']])} {name}"
            numbers = (
                [f"{row['error']:+.1f}"]
                + ([f"{row['low']:.0f} to {row['high']:.0f}"] if "low" in row else [])
                if is_number
                else [
                    f"{100 * row[key]:.1f} %"
                    for key in ("probability", "label_probability")
                ]
            )
            body.append((name, row["label"], row["answer"], *numbers))
        parts += [f"{task.capitalize()}, {intro}:", table(header, body)]
    return parts


def _heading(key: str) -> str:
    """`task.score` in words that are short enough for a column."""
    return key.replace(".", " ").replace("_", " ")


def _cell(value) -> str:
    if value is None:
        return NO_LABELS
    return f"{value:,}" if isinstance(value, int) else f"{100 * value:.1f} %"


def _reliability(report) -> list[str]:
    found = {
        task: part["calibration"]
        for task, part in report["tasks"].items()
        if part["calibration"] and part["calibration"]["n"]
    }
    if not found:
        return []
    parts = ["## Calibration"]
    if report["pictures"].get("reliability"):
        parts.append(picture("Reliability", report["pictures"]["reliability"]))
    for task, curve in found.items():
        rows = [
            (f"{b['from']:.3f} to {b['to']:.3f}", f"{b['n']:,}")
            + tuple(f"{100 * b[key]:.1f} %" for key in ("confidence", "accuracy"))
            for b in curve["bins"]
            if b["n"]
        ]
        parts += [
            f"{task.capitalize()}: confidence and fraction of right predictions differ "
            f"by {100 * curve['ece']:.1f} points on average (expected calibration "
            f"error, {len(curve['bins'])} bins of equal width).",
            table(("confidence", "n", "mean confidence", "right"), rows),
        ]
    return parts


def _crop_sensitivity(report) -> list[str]:
    found = report["margin_sensitivity"]
    if not found:
        return []
    parts = [
        "## How much the crop matters",
        f"{found['faces']:,} of the faces, cut anew at each factor of the side: below "
        "1 tighter than in the data, above 1 wider, where the edge is repeated.",
    ]
    if report["pictures"].get("margin_sensitivity"):
        name = report["pictures"]["margin_sensitivity"]
        parts.append(picture("Scores at each factor", name))
    header = ["factor", *(f"{k} {v['score']}" for k, v in found["tasks"].items())]
    rows = [
        (f"{factor:g}",)
        + tuple(
            show(task["score"], task["values"][i], task["unit"], True)
            for task in found["tasks"].values()
        )
        for i, factor in enumerate(found["factors"])
    ]
    return [*parts, table(header, rows)]


def capture_sentences(report: Mapping[str, Any]) -> list[str]:
    """What a reader shall know first about sharpness, size, noise and compression."""
    found = report.get("capture_sensitivity")
    return sensitivity.notable(found) if found else []


def _capture(report) -> list[str]:
    found = report.get("capture_sensitivity")
    if not found:
        return []
    parts = [
        "## How much the capture matters",
        f"{found['faces']:,} of the faces, changed as cameras, lenses and codecs do it "
        "before they are resized for the network. Pixels are of a face of "
        f"{found['side']} pixels a side. `moved` is how far predictions moved on "
        "average from those of the same faces as they are.",
    ]
    if report["pictures"].get("capture_sensitivity"):
        name = report["pictures"]["capture_sensitivity"]
        parts.append(picture("Predictions under each change", name))
    columns = [
        (name, task, key)
        for name, task in found["tasks"].items()
        for key in ("values", "bias", "moved", "coverage")
        if key in task
    ]
    titles = {"bias": "bias", "moved": "moved", "coverage": "in the 80 % interval"}
    header = ["change"] + [
        f"{name} {titles.get(key, task['score'])}" for name, task, key in columns
    ]
    rows = []
    for i, change in enumerate(found["changes"]):
        cells = [
            _signed(task[key][i], task["unit"])
            if key in ("bias", "moved")
            else show(
                task["score"] if key == "values" else key,
                task[key][i],
                task["unit"],
                key == "values",
            )
            for _, task, key in columns
        ]
        rows.append((f"{change['kind']} {change['amount']}".strip(), *cells))
    return [*parts, table(header, rows)]


def _signed(score: Mapping[str, Any], unit: str) -> str:
    if not score["n"]:
        return NO_LABELS
    return f"{score['value']:+.2f} {unit}"


def _left_out(report) -> list[str]:
    data = report["data"]
    rows = [*data["skipped"], *data["bad_images"]]
    rows += [
        {"id": name, "reason": "no face was found"}
        for name in (data.get("faces") or {}).get("without_face", ())
    ]
    if not rows:
        return []
    shown = [
        f"- {code(row['id'])}: {plain(row['reason'])}" for row in rows[:_MAX_LISTED]
    ]
    parts = ["## Left out", "\n".join(shown)]
    if len(rows) > len(shown):
        parts.append(f"{len(rows) - len(shown):,} more are listed in {REPORT_JSON}.")
    return parts


# What Markdown is made of: tables, pictures, and words from outside.


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    cells = [
        [str(cell).replace("|", r"\|").replace("\n", " ") for cell in row]
        for row in [header, *rows]
    ]
    # A line of one or two signs under a header makes no table.
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = widths
    cells.insert(1, [":" + "-" * (first - 1), *("-" * (w - 1) + ":" for w in others)])
    return "\n".join(
        f"| {row[0]:<{first}} | "
        + " | ".join(f"{c:>{w}}" for c, w in zip(row[1:], others, strict=True))
        + " |"
        for row in cells
    )


def code(text: str) -> str:
    """A name from outside as a code span, whatever it is made of."""
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def plain(text: str) -> str:
    """Words from outside, so that nothing in them is read as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>&])", r"\\\1", " ".join(text.split()))


def picture(words: str, name: str) -> str:
    """A picture and what is said where it is not seen."""
    return f"![{words}]({name})"
