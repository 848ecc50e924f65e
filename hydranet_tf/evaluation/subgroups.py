"""The same scores for parts of the examples: decades of age, groups of people.

Groups are made from labels, which are what annotators saw in a picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hydranet_tf.evaluation.scores import MEANINGS, Score, present, score
from hydranet_tf.tasks import Task

DECADE = 10
# Below this many labels an interval from resampling is too short to believe
# and a single face moves a share by more than three points.
SMALL = 30


@dataclasses.dataclass(frozen=True)
class Decade:
    """Scores of the examples whose label lies in [low, low + DECADE)."""

    low: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        return f"{self.low}-{self.low + DECADE - 1}"

    @property
    def n(self) -> int:
        return next(iter(self.scores.values())).n


def by_decade(
    task: Task, labels: np.ndarray, predictions: np.ndarray, seed: int = 0
) -> list[Decade]:
    """Scores by decade of label, from the lowest that occurs to the highest.

    A decade in between without any example stays, with no labels; without any
    label at all the list is empty.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    decades = np.floor(labels / DECADE).astype(int)
    seen = decades[present(labels)]
    if not len(seen):
        return []
    rows = []
    for decade in range(seen.min(), seen.max() + 1):
        chosen = present(labels) & (decades == decade)
        scores = score(task, labels[chosen], predictions[chosen], seed)
        rows.append(Decade(int(decade) * DECADE, scores))
    return rows


@dataclasses.dataclass(frozen=True)
class Group:
    """Scores of the examples that share a class in each grouping task.

    Attributes:
        classes: class name by the name of the grouping task.
        n: examples in the group, labelled for a given task or not.
        scores: by `"task.score"`.
    """

    classes: dict[str, str]
    n: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        return ", ".join(self.classes.values())

    def badness(self, key: str) -> float:
        """The score, turned so that more is worse."""
        value = self.scores[key].value
        return -value if MEANINGS[key.split(".")[1]].higher_is_better else value


@dataclasses.dataclass(frozen=True)
class Groups:
    """Scores by group.

    Attributes:
        by: the grouping tasks' names.
        rows: every combination of classes, in class order.
        left_out: examples in no group, for want of a grouping label.
    """

    by: tuple[str, ...]
    rows: tuple[Group, ...]
    left_out: int

    def ranked(self, key: str) -> list[Group]:
        """Groups that have the score, worst first; small ones after the rest.

        A small group would be last by chance, so it does not compete; it is
        still listed, and `suspects` names it where it looks worse. Of equal
        groups the larger one is named first.
        """
        scored = [g for g in self.rows if g.scores[key].n]

        def place(group):
            n = group.scores[key].n
            return n < SMALL, -group.badness(key), -n

        return sorted(scored, key=place)

    def worst(self, key: str) -> Group | None:
        """The worst group of `SMALL` labels or more.

        `None` where there is none of that size, or where several are all as good
        as each other: nobody is worst when everybody is predicted rightly.
        """
        large = self._large(key)
        alike = len(large) > 1 and large[0].badness(key) == large[-1].badness(key)
        return None if alike or not large else large[0]

    def without_worst(self, key: str) -> str:
        """Why `worst` names no group."""
        if self._large(key):
            return "no group is worse than another"
        return "every group is small"

    def suspects(self, key: str) -> list[Group]:
        """Small groups whose score is worse than any larger group's.

        Where every group is small, none can be told from chance, and none is named.
        """
        large = self._large(key)
        if not large:
            return []
        limit = large[0].badness(key)
        small = [g for g in self.ranked(key) if g.scores[key].n < SMALL]
        return [g for g in small if g.badness(key) > limit]

    def _large(self, key: str) -> list[Group]:
        return [g for g in self.ranked(key) if g.scores[key].n >= SMALL]


def by_group(
    tasks: Sequence[Task],
    grouping: Sequence[Task],
    labels: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    seed: int = 0,
) -> Groups:
    """Scores of every task in every combination of the grouping classes.

    Balanced accuracy is left out: inside a group a grouping task has one
    class, and its accuracy is that class's recall.

    Args:
        tasks: to be scored; each has labels and predictions.
        grouping: classification tasks whose labels make the groups.
        labels: [n] by task name.
        predictions: by task name, as in `score`.
    """
    n = len(labels[grouping[0].name])
    known = np.ones(n, bool)
    for task in grouping:
        known &= present(labels[task.name])
    rows = []
    for index in np.ndindex(*(len(task.classes) for task in grouping)):
        chosen = known.copy()
        for task, c in zip(grouping, index, strict=True):
            chosen &= labels[task.name] == c
        scores = {
            f"{task.name}.{name}": value
            for task in tasks
            for name, value in score(
                task, labels[task.name][chosen], predictions[task.name][chosen], seed
            ).items()
            if name != "balanced_accuracy"
        }
        classes = {
            task.name: task.classes[c] for task, c in zip(grouping, index, strict=True)
        }
        rows.append(Group(classes, int(chosen.sum()), scores))
    return Groups(
        by=tuple(task.name for task in grouping),
        rows=tuple(rows),
        left_out=int(n - known.sum()),
    )
