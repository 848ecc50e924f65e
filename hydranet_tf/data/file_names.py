"""What a file name tells: its labels, its split and its corrections.

The rules are those of UTKFace, `age_gender_race_timestamp.jpg`, and of All-Age-Faces,
`00123A45.jpg`. They serve the folder source and the TFDS builders alike, so that both
give the same examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from hydranet_tf.io.tables import SourceError, listing, raise_problems, read_table
from hydranet_tf.tasks import TASKS, LabelError

SPLITS = ("train", "validation", "test")
CORRECTIONS_FILE = "corrections.csv"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

# Upper ends of train and validation on the line from 0 to 1 where the hash of
# a name falls; the rest is test.
_HASH_BOUNDS = (0.8, 0.9)
_NAME = re.compile(r"(?P<age>\d+)_(?P<gender>\d+)_(?P<race>\d+)_.+", re.ASCII)
# Three published names lack the race field. The timestamp that stands in its
# place is too long to be taken for a class index.
_NAME_WITHOUT_RACE = re.compile(r"(?P<age>\d+)_(?P<gender>\d+)_\d{8}[^_]*", re.ASCII)
# All-Age-Faces: a person's number and age.
_NUMBER_AND_AGE = re.compile(r"(?P<number>\d{5})A(?P<age>\d{2})\.jpe?g", re.ASCII)
# Its people are in this order: the last female, the last of all.
_LAST_FEMALE, _LAST = 7380, 13321

Labels = dict[str, float | int]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that was left out, and why."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What `corrections.csv` changes in the training split.

    Attributes:
        excluded: reason by file name.
        labels: new labels by file name and task.
    """

    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, Labels] = dataclasses.field(default_factory=dict)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name.

    Archives from a Mac hold a shadow `._name` of every file.
    """
    return name.lower().endswith(IMAGE_SUFFIXES) and name[0] != "."


def parse_name(name: str) -> Labels:
    """Reads the labels in a file name of UTKFace or All-Age-Faces.

    Args:
        name: a file name without folders: `age_gender_race_timestamp.jpg...`, where
            the race may be absent if a timestamp of at least eight digits follows the
            gender; or `00123A45.jpg`, a number that tells the gender, and the age.

    Returns:
        A label for every task, `MISSING` for an absent race.

    Raises:
        LabelError: if the name has another form or a label is impossible.
    """
    match = _NUMBER_AND_AGE.fullmatch(name)
    if match is not None:
        return _of_all_age_faces(int(match["number"]), match["age"])
    match = _NAME.fullmatch(name) or _NAME_WITHOUT_RACE.fullmatch(name)
    if match is None:
        raise LabelError(
            "the name is not of the form age_gender_race_timestamp.jpg, with "
            "numbers in the first three places"
        )
    fields = match.groupdict()
    return {task.name: task.parse(fields.get(task.name, "")) for task in TASKS}


def _of_all_age_faces(number: int, age: str) -> Labels:
    if number > _LAST:
        raise LabelError(f"All-Age-Faces numbers its people from 00000 to {_LAST}")
    cells = {"age": age, "gender": "female" if number <= _LAST_FEMALE else "male"}
    return {task.name: task.parse(cells.get(task.name, "")) for task in TASKS}


def label_names(
    names: Iterable[str], corrections: Corrections | None = None
) -> tuple[dict[str, Labels], list[Skipped]]:
    """Labels file names and sets aside those that cannot be used.

    Args:
        names: file names.
        corrections: changes to make, for the training split.

    Returns:
        Labels by name in the order given, and what was skipped.
    """
    corrections = corrections or Corrections()
    labelled, skipped = {}, []
    for name in names:
        if name in corrections.excluded:
            skipped.append(Skipped(name, corrections.excluded[name]))
            continue
        try:
            if not name.lower().endswith(IMAGE_SUFFIXES):
                raise LabelError(f"the name ends in none of {IMAGE_SUFFIXES}")
            labels = parse_name(name)
        except LabelError as error:
            skipped.append(Skipped(name, str(error)))
        else:
            labelled[name] = labels | corrections.labels.get(name, {})
    return labelled, skipped


def hash_split(name: str) -> str:
    """Split of a name that is in no list: 80/10/10 by its SHA-256."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[sum(position >= bound for bound in _HASH_BOUNDS)]


def read_split_lists(folder: str | os.PathLike) -> dict[str, list[str]]:
    """Reads `train.txt`, `validation.txt` and `test.txt`, one name a line.

    Raises:
        SourceError: if a list is absent, or a file is listed twice.
    """
    lists: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    for split in SPLITS:
        path = Path(folder) / f"{split}.txt"
        if not path.is_file():
            raise SourceError(
                f"expected the split list {path}, one file name a line (an empty "
                "file for a split without images)"
            )
        # Names may end in a space: only the line's end is taken off.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        lists[split] = [name for line in lines if (name := line.rstrip("\r"))]
        for name in lists[split]:
            if name in home:
                raise SourceError(
                    f"{name!r} is listed in {home[name]}.txt and in {split}.txt "
                    f"of {folder}; every file belongs to one split, once"
                )
            home[name] = split
    return lists


def read_corrections(split_lists: str | os.PathLike) -> Corrections:
    """Reads the `corrections.csv` of a folder of split lists.

    It lies in that folder or one level up (the first that is there counts).
    Columns: `file`; `change`, which is `exclude` or `task=label` (blank after
    the equals sign: no label); `reason`. It concerns the files of `train.txt`
    alone: the other splits are measured on as published.

    Returns:
        The changes; none where there is no such file.

    Raises:
        SourceError: if a row is unreadable or names a file of another split.
    """
    folder = Path(split_lists).absolute()
    candidates = (folder / CORRECTIONS_FILE, folder.parent / CORRECTIONS_FILE)
    path = next((p for p in candidates if p.is_file()), None)
    corrections = Corrections()
    if path is None:
        return corrections
    train = set(read_split_lists(folder)["train"])
    problems = []
    for row, cells in read_table(path, ("file", "change", "reason")):
        try:
            if cells["file"] not in train:
                raise LabelError(f"{cells['file']!r} is not in train.txt")
            if not cells["reason"].strip():
                raise LabelError("give a reason")
            _add_change(corrections, cells["file"], cells["change"], cells["reason"])
        except LabelError as error:
            problems.append(f"row {row}: {error}")
    raise_problems(path, problems)
    return corrections


def _add_change(corrections: Corrections, file: str, change: str, reason: str) -> None:
    if change == "exclude":
        corrections.excluded[file] = reason
        return
    tasks = {f"{task.name}=": task for task in TASKS}
    field, equals, label = change.partition("=")
    if field + equals not in tasks:
        raise LabelError(
            f"change must be exclude, or one of {', '.join(tasks)} followed by a "
            f"label; got {change!r}"
        )
    task = tasks[field + equals]
    corrections.labels.setdefault(file, {})[task.name] = task.parse(label)


def listed_and_present(
    lists: dict[str, list[str]], split: str, present: Iterable[str]
) -> list[str]:
    """The names that a list gives to a split and that are there.

    Returns:
        The whole list, or nothing where not one of its files is there: a split
        may be kept elsewhere.

    Raises:
        SourceError: if a part of them is absent.
    """
    present = set(present)
    absent = [name for name in lists[split] if name not in present]
    if not absent:
        return lists[split]
    if len(absent) < len(lists[split]):
        raise SourceError(
            f"{len(absent)} of the {len(lists[split])} files in {split}.txt are not "
            f"there: {listing(absent)}. Complete the images, or take the names off "
            "the list"
        )
    return []
