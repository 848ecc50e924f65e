"""What the tests of reports look at: the files, and the numbers in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

PICTURES = {
    "confusion_gender.png", "confusion_race.png", "age_scatter.png",
    "error_by_group.png", "age_error_by_decade.png", "reliability.png",
}  # fmt: skip
FILES = PICTURES | {"report.json", "report.md", "report.html", "predictions.csv"}


def read_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def names_in(folder):
    return {path.name for path in Path(folder).iterdir()}


def read_rows(folder):
    with open(Path(folder) / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))
