"""Labels as people write them in tables, read as anybody would.

`Task.parse` knows one spelling of each label. Here are those that other programs and
people use: `1.0` of a class index, `nan` of a blank cell, `M` and `woman`, `31,5`, and
ranges of ages. What could be meant in two ways is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping

from hydranet_tf.tasks import MISSING, LabelError, Task

# What tables put where nothing is known.
BLANKS = frozenset(
    ("", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "?", "unknown")
)

# Other words for classes, by the task's name and the class. Those of race that are not
# classes of UTKFace go where its authors put them: "Others (like Hispanic, Latino,
# Middle Eastern)".
_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gender": {
        "male": ("m", "man", "men", "boy"),
        "female": ("f", "woman", "women", "girl"),
    },
    "race": {
        "white": ("caucasian",),
        "black": ("african american", "afroamerican", "african"),
        "asian": ("east asian", "southeast asian"),
        "others": (
            "other", "hispanic", "latino", "latina", "latino hispanic",
            "middle eastern",
        ),
    },
}  # fmt: skip
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}

_NUMBER = r"(\d+(?:[.,]\d+)?)"
_RANGE = re.compile(rf"[(\[]?\s*{_NUMBER}\s*(?:-|–|to|,\s)\s*{_NUMBER}\s*[)\]]?", re.A)
_FROM = re.compile(
    rf"(?:more than|over|above|from|>=?|≥)\s*{_NUMBER}"
    rf"|{_NUMBER}\s*(?:\+|and (?:over|older|above))",
    re.A,
)
_UP_TO = re.compile(rf"(?:less than|under|below|up to|<=?|≤)\s*{_NUMBER}", re.A)
_DECIMAL_COMMA = re.compile(r"\d+,\d{1,2}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Names:
    """What the columns and classes of a table are called.

    Attributes:
        columns: the table's name by ours, which is `path`, `split` or a task's.
        classes: by task, our class by the table's word in lower case; a blank one
            means that the word is not a label.
        several: whether they are for several sources, of which each uses those that
            it has.
        used: names of columns that a table had.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    several: bool = False
    used: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    def parse(cls, columns: str, classes: str, tasks, several: bool = False) -> Names:
        """Reads `path=file,age=age_range` and `race:East Asian=asian,gender:1=male`.

        A word without a task before it belongs to the task of the one before.

        Raises:
            LabelError: on another form, or on a task or class that there is not.
        """
        known = {task.name: task for task in tasks}
        ours: dict[str, str] = {}
        for part in _parts(columns):
            name, equals, theirs = (text.strip() for text in part.partition("="))
            if not equals or not theirs or name not in ("path", "split", *known):
                raise LabelError(
                    "--columns: expected NAME=COLUMN, joined by commas, with a NAME "
                    f"out of path, split, {', '.join(known)}; got {part!r}"
                )
            if ours.setdefault(name, theirs) != theirs:
                raise LabelError(f"--columns names {name} twice: {columns!r}")
        words: dict[str, dict[str, str]] = {}
        task = None
        for part in _parts(classes):
            place, equals, meant = (text.strip() for text in part.rpartition("="))
            name, colon, word = (text.strip() for text in place.partition(":"))
            if colon and name in known:
                task = known[name]
            else:
                word = place
            if not equals or not word or task is None or not task.classes:
                raise LabelError(
                    "--classes: expected TASK:WORD=CLASS, joined by commas, with a "
                    "TASK out of "
                    f"{', '.join(t.name for t in tasks if t.classes)}; got {part!r}"
                )
            if meant and meant.lower() not in task.classes:
                raise LabelError(
                    f"--classes: {task.name} has the classes "
                    f"{', '.join(task.classes)}; got {part!r}"
                )
            words.setdefault(task.name, {})[word.lower()] = meant.lower()
        return cls(ours, words, several)


def read(task: Task, text: str, words: Mapping[str, str] | None = None) -> dict:
    """Reads a cell.

    Args:
        task: whose label it is.
        text: the cell.
        words: our class by the table's word, from `Names.classes`.

    Returns:
        By the task's name its label, as of `Task.parse`; of a range its middle, with
        half its width by `task.half_width_name`.

    Raises:
        LabelError: naming what was expected.
    """
    text = text.strip()
    word = _word(text)
    if words and text.lower() in words:
        text = words[text.lower()]
        return {task.name: task.parse(text)}
    if word in task.classes:
        return {task.name: task.classes.index(word)}
    if word in BLANKS:
        return {task.name: MISSING}
    if task.is_regression:
        return _number_or_range(task, text)
    for name, others in _WORDS.get(task.name, {}).items():
        if word in others and name in task.classes:
            return {task.name: task.classes.index(name)}
    # pandas makes floats of a column that has a blank.
    whole = text.removesuffix(".0") if text.replace(".0", "", 1).isdecimal() else text
    return {task.name: task.parse(whole)}


def read_split(text: str) -> str:
    """Reads the name of a split.

    Raises:
        LabelError: naming the splits.
    """
    for split, words in _SPLITS.items():
        if text.strip().lower() in words:
            return split
    raise LabelError(f"split must be one of {', '.join(_SPLITS)}; got {text!r}")


def meant(name: str, known) -> str | None:
    """A name out of `known` that somebody may have misspelt as `name`."""
    found = difflib.get_close_matches(name.lower(), list(known), 1, 0.75)
    return found[0] if found else None


def _number_or_range(task: Task, text: str) -> dict:
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    lower = text.lower()
    if match := _RANGE.fullmatch(lower):
        ends = match[1], match[2]
    elif match := _FROM.fullmatch(lower):
        ends = match[1] or match[2], f"{task.high:g}"
    elif match := _UP_TO.fullmatch(lower):
        ends = f"{task.low:g}", match[1]
    else:
        return {task.name: task.parse(text)}
    low, high = (task.parse(end.replace(",", ".")) for end in ends)
    if low > high:
        raise LabelError(f"{task.name} is a range from more to less: {text!r}")
    found = {task.name: (low + high) / 2}
    if high > low:
        found[task.half_width_name] = (high - low) / 2
    return found


def _word(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
