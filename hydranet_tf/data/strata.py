"""How often an epoch sees which examples, where not each is seen once.

Examples are divided into strata: those of one source, or of one group. An epoch takes
a fixed number of each. A stratum hands out all its examples before one comes again,
across epochs, so that none is favoured and none is forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stratum:
    """Examples that are drawn together.

    Attributes:
        name: for messages.
        numbers: `[n]` int64 numbers of its examples, at least one.
        quota: how many an epoch takes.
    """

    name: str
    numbers: np.ndarray
    quota: int


def quotas(weights: Sequence[float], total: int) -> list[int]:
    """Divides `total` in proportion to `weights`, by largest remainders.

    Returns:
        One integer for each weight; they sum up to `total`, and a weight above 0 gives
        at least 1 where `total` is large enough.
    """
    parts = np.asarray(weights, np.float64)
    exact = parts / parts.sum() * total
    found = np.floor(exact).astype(int)
    # Stable, so that equal remainders go to the first.
    order = np.argsort(found - exact, kind="stable")
    found[order[: total - found.sum()]] += 1
    wanting = np.flatnonzero((found == 0) & (parts > 0))
    if total >= np.count_nonzero(parts):
        for number in wanting:
            found[np.argmax(found)] -= 1
            found[number] = 1
    return found.tolist()


def epoch_order(strata: Sequence[Stratum], seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch in the order in which it takes them.

    A function of its arguments alone: a resumed run goes on with the same examples.

    Returns:
        int64 `[sum of the quotas]`.
    """
    taken = [
        _taken(stratum, number, seed, epoch) for number, stratum in enumerate(strata)
    ]
    together = np.random.default_rng([seed, len(strata), epoch])
    return together.permutation(np.concatenate(taken))


def _taken(stratum: Stratum, number: int, seed: int, epoch: int) -> np.ndarray:
    """Of the stratum's endless row of permutations, the part of this epoch."""
    size = len(stratum.numbers)
    start, end = epoch * stratum.quota, (epoch + 1) * stratum.quota
    rounds = range(start // size, -(-end // size))
    row = [np.random.default_rng([seed, number, r]).permutation(size) for r in rounds]
    first = start - rounds.start * size if rounds else 0
    chosen = np.concatenate([np.empty(0, int), *row])[first : first + stratum.quota]
    return stratum.numbers[chosen].astype(np.int64)
