"""What the network predicts, as data.

Everything that needs a task's name, unit, class order or kind of loss asks
here; adding a task means adding a row to `TASKS`. Labels are what annotators
saw in a picture, not facts about the person in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tomllib
from collections.abc import Sequence

from hydranet_tf.errors import HydraNetError

# Stands in label arrays where an example has no label for a task. Such rows
# take no part in losses, metrics, learned weights or reports.
MISSING = -1

REGRESSION = "regression"
BINARY = "binary"
CATEGORICAL = "categorical"

# What the head of a regression gives: one value, or a probability for
# each whole unit of its range.
VALUE = "value"
DISTRIBUTION = "distribution"
HEADS = (VALUE, DISTRIBUTION)


class LabelError(HydraNetError, ValueError):
    """A label that its task cannot take; the message says what it can."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One question.

    Attributes:
        name: key of the task in every dict of labels, outputs and scores.
        kind: `"regression"`, `"binary"` or `"categorical"`; decides the loss.
        weight_name: what the task's loss weight is called in logs.
        unit: unit of a regression's prediction.
        classes: class names in the order of their indices.
        low, high: smallest and largest label that a regression accepts.
        centre, spread: a regression head gives `centre + spread * x`, so
            that a fresh network starts with plausible values.
        head: of a regression, one of `HEADS`; see `distributions` for the
            second, which can also say how sure it is.
    """

    name: str
    kind: str
    weight_name: str
    unit: str = ""
    classes: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    centre: float = 0.0
    spread: float = 1.0
    head: str = VALUE

    @property
    def is_regression(self) -> bool:
        return self.kind == REGRESSION

    @property
    def is_distribution(self) -> bool:
        """Whether the head gives probabilities of whole units."""
        return self.is_regression and self.head == DISTRIBUTION

    @property
    def label_dtype(self) -> str:
        """Type of arrays of its labels."""
        return "float32" if self.is_regression else "int32"

    @property
    def label_range(self) -> tuple[float, float]:
        """The smallest and the largest label, in its unit or as index of a class."""
        if self.is_regression:
            return self.low, self.high
        return 0, len(self.classes) - 1

    @property
    def prediction_shape(self) -> tuple[int, ...]:
        """Shape of one prediction: none of a number, else `[classes]`."""
        return () if self.is_regression else (len(self.classes),)

    @property
    def score(self) -> str:
        """Name of what it is judged by: `mae` in its unit, or `accuracy`."""
        return "mae" if self.is_regression else "accuracy"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs: its own, then the ends of an interval it may have."""
        if self.is_distribution:
            return (self.name, f"{self.name}_low", f"{self.name}_high")
        return (self.name,)

    @property
    def soft_name(self) -> str:
        """Where a batch keeps soft labels beside those by the task's own name."""
        return f"{self.name}_soft_labels"

    @property
    def half_width_name(self) -> str:
        """Where a batch keeps half the widths of ranges, whose middles are labels."""
        return f"{self.name}_half_width"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of its predictions in rows of photographs, those of any head."""
        if self.is_regression:
            return (self.name, f"{self.name}_low", f"{self.name}_high")
        return (self.name, *self.probability_columns)

    @property
    def probability_columns(self) -> tuple[str, ...]:
        """Names of its classes' probabilities in tables, in the order of `classes`."""
        return tuple(f"p_{self.name}_{name}" for name in self.classes)

    @property
    def prediction_column(self) -> str:
        """Name of its prediction in tables, where its own name is the label's."""
        return f"predicted_{self.name}"

    @property
    def prediction_columns(self) -> tuple[str, ...]:
        """Columns of tables that hold its prediction in numbers, see the two above."""
        return self.probability_columns or (self.prediction_column,)

    def as_labels(self, predictions):
        """The labels that predictions stand for: numbers, or the likeliest classes.

        Args:
            predictions: `[n]` in the unit, or numpy probabilities `[n, classes]`.
        """
        return predictions if self.is_regression else predictions.argmax(axis=-1)

    def format_label(self, label: float, spec: str = "g") -> str:
        """A label in words: a number by a format of Python's, or the class."""
        return f"{label:{spec}}" if self.is_regression else self.classes[int(label)]

    def format_score(self, value: float, digits: int = 2) -> str:
        """Its score in figures: in its unit with so many decimal places, or per cent.

        `nan` stays what it is.
        """
        return f"{value:.{digits}f}" if self.is_regression else f"{value:.1%}"

    def parse(self, text: str) -> float | int:
        """Reads a label from a file name or a CSV cell.

        Args:
            text: blank for a missing label; a number, or for a class its
                index or its name in any case.

        Returns:
            A float (regression), a class index, or `MISSING`.

        Raises:
            LabelError: naming what was expected.
        """
        text = text.strip()
        if not text:
            return MISSING
        if self.is_regression:
            return self._parse_number(text)
        return self._parse_class(text)

    def _parse_number(self, text: str) -> float:
        try:
            # float() reads 1_0 as ten, and digits of every script.
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        # `not (a <= x <= b)` also catches NaN.
        if not self.low <= value <= self.high:
            raise LabelError(
                f"{self.name} must be a number of {self.unit} from "
                f"{self.low:g} to {self.high:g}; got {text!r}"
            )
        return value

    def _parse_class(self, text: str) -> int:
        if text.lower() in self.classes:
            return self.classes.index(text.lower())
        # Three digits are plenty, and int() refuses thousands in its own way.
        digits = text.isascii() and text.isdecimal() and len(text) <= 3
        if digits and int(text) < len(self.classes):
            return int(text)
        known = ", ".join(f"{i} {name}" for i, name in enumerate(self.classes))
        raise LabelError(
            f"{self.name} must be one of {known}, or blank where it is not "
            f"known; got {text!r}"
        )


AGE = Task(
    name="age",
    kind=REGRESSION,
    weight_name="alpha",
    unit="years",
    low=0.0,
    high=120.0,
    centre=33.0,
    spread=20.0,
)
GENDER = Task(
    name="gender",
    kind=BINARY,
    weight_name="beta",
    classes=("male", "female"),
)
RACE = Task(
    name="race",
    kind=CATEGORICAL,
    weight_name="gamma",
    classes=("white", "black", "asian", "indian", "others"),
)


def told_apart(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks, if their names, outputs and columns are all different.

    Raises:
        ValueError: naming what two tasks, or two classes of one, share.
    """
    for task in tasks:
        if task.kind not in (REGRESSION, BINARY, CATEGORICAL) or (
            task.head not in HEADS
        ):
            raise ValueError(
                f"task {task.name}: expected a kind out of {REGRESSION}, {BINARY} and "
                f"{CATEGORICAL} and a head out of {', '.join(HEADS)}; got "
                f"{task.kind} and {task.head}"
            )
        least = {REGRESSION: 0, BINARY: 2, CATEGORICAL: 2}[task.kind]
        most = {REGRESSION: 0, BINARY: 2, CATEGORICAL: math.inf}[task.kind]
        if not least <= len(task.classes) <= most:
            raise ValueError(
                f"task {task.name}: a {task.kind} task has not {len(task.classes)} "
                "classes"
            )
    for what, of in (
        ("name", lambda task: (task.name,)),
        ("name of a loss weight", lambda task: (task.weight_name,)),
        # As if each regression had a distribution: heads are chosen later.
        ("output or column", lambda task: (
            task.prediction_column, task.soft_name, *task.columns,
        )),
    ):  # fmt: skip
        seen: dict[str, str] = {}
        for task in tasks:
            for name in of(task):
                if name in seen:
                    raise ValueError(
                        f"two tasks share the {what} {name!r}: {seen[name]} and "
                        f"{task.name}. Rename one"
                    )
                seen[name] = task.name
    return tuple(tasks)


TASKS: tuple[Task, ...] = told_apart((AGE, GENDER, RACE))


def foreign(tasks: Sequence[Task]) -> list[str]:
    """Names of those that mean something else than this version's tasks of the name.

    Labels are indices of classes, so a network and the labels must mean the same.
    """
    known = {(task.name, task.kind, task.classes) for task in TASKS}
    return [t.name for t in tasks if (t.name, t.kind, t.classes) not in known]


def register(task: Task) -> None:
    """Adds a task to `TASKS`, for this process.

    Call it before other modules of this package are imported, which hold on to the
    tasks that they found. Commands import the modules of `--import` that early.

    Raises:
        ValueError: as `told_apart`, or if other modules have been imported already.
    """
    global TASKS
    if task in TASKS:
        return
    late = [name for name in ("config", "losses", "model") if _imported(name)]
    if late:
        raise ValueError(
            f"{task.name}: register tasks before hydranet_tf.{late[0]} is imported, "
            "which knows those of that moment; put it first"
        )
    TASKS = told_apart((*TASKS, task))


def register_file(path: str | os.PathLike) -> None:
    """Registers the tasks of a TOML file: a table `[[task]]` with `Task`'s attributes.

    Raises:
        ValueError: if it cannot be read or describes no task.
    """
    try:
        with open(path, "rb") as file:
            rows = tomllib.load(file)["task"]
        made = [from_config({"classes": (), **row}) for row in rows]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(
            f"expected {path} to hold tables [[task]] with name, kind, weight_name and "
            f"classes, or unit, low, high, centre and spread; got {error!r}"
        ) from error
    for task in made:
        register(task)


def _imported(name: str) -> bool:
    return f"hydranet_tf.{name}" in sys.modules


def score_name(task: Task) -> str:
    """Name of a task's score in logs, for example `age_mae`."""
    return f"{task.name}_{task.score}"


def with_head(tasks: Sequence[Task], head: str) -> tuple[Task, ...]:
    """The tasks, the regressions among them with another head."""
    return tuple(
        dataclasses.replace(task, head=head) if task.is_regression else task
        for task in tasks
    )


def to_json(tasks: Sequence[Task]) -> str:
    """Writes tasks as the JSON that travels with weights and exports."""
    return json.dumps([dataclasses.asdict(task) for task in tasks], indent=2)


def from_json(text: str) -> tuple[Task, ...]:
    """Reads what `to_json` wrote."""
    return tuple(from_config(row) for row in json.loads(text))


def from_config(values: dict) -> Task:
    """Makes a task of its attributes, lists (of JSON) for tuples allowed."""
    return Task(**{**values, "classes": tuple(values["classes"])})
