"""The draw of training faces for the quantiser."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from hydranet_tf.exporting import quantization
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, TASKS


def labels_of(rows):
    columns = np.array(rows, np.float32).T
    return dict(zip(("age", "gender", "race"), columns, strict=True))


def lopsided(count=20_000):
    """Nine in ten are men of 25 of one group, as lists of the famous are."""
    rng = np.random.default_rng(0)
    labels = {
        "age": rng.integers(1, 100, count).astype(np.float32),
        "gender": rng.integers(0, 2, count),
        "race": rng.integers(0, 5, count),
    }
    often = rng.random(count) < 0.9
    for name, value in (("age", 25), ("gender", 0), ("race", 0)):
        labels[name][often] = value
    return labels


def test_every_kind_gets_the_same_number():
    labels = lopsided()
    drawn = quantization.draw_representative(TASKS, labels)
    assert len(set(drawn.rows.tolist())) == 200 == sum(drawn.cells.values())
    # Counted again from the labels of the chosen rows.
    decades = np.minimum(labels["age"][drawn.rows] // 10, 7)
    kinds = zip(
        decades, labels["gender"][drawn.rows], labels["race"][drawn.rows], strict=True
    )
    counts = collections.Counter(kinds)
    assert sorted(counts.values()) == sorted(drawn.cells.values())
    # 80 kinds: a full round of 80, another, and half of a third.
    assert collections.Counter(counts.values()) == {2: 40, 3: 40}
    fraction = np.mean(labels["age"][drawn.rows] == 25)
    assert fraction < 0.05
    assert drawn.summary().startswith("calibrated on 200 training faces of 80 kinds")


def test_a_rare_kind_gives_all_it_has():
    rows = [(25, 0, 0)] * 50 + [(75, 1, 3), (99, 1, 3)] + [(9, 1, MISSING)]
    drawn = quantization.draw_representative(TASKS, labels_of(rows), count=10)
    assert drawn.cells == {
        "age 20-29, gender male, race white": 7,
        "age 70 or more, gender female, race indian": 2,
        "age 0-9, gender female, race unknown": 1,
    }
    assert {50, 51, 52} <= set(drawn.rows.tolist())


def test_borders_of_decades():
    rows = [(9.9, 0, 0), (10, 0, 0), (69, 0, 0), (70, 0, 0), (116, 0, 0)]
    drawn = quantization.draw_representative((AGE,), {"age": labels_of(rows)["age"]})
    assert drawn.cells == {
        "age 0-9": 1, "age 10-19": 1, "age 60-69": 1, "age 70 or more": 2,
    }  # fmt: skip


def test_the_same_labels_give_the_same_draw():
    one, other = (quantization.draw_representative(TASKS, lopsided()) for _ in range(2))
    np.testing.assert_array_equal(one.rows, other.rows)
    assert one.cells == other.cells
    another = quantization.draw_representative(TASKS, lopsided(), seed=1)
    assert not np.array_equal(one.rows, another.rows)
    assert (np.diff(one.rows) > 0).all()


def test_fewer_than_asked_for_are_all_taken():
    labels = {"gender": np.array([0, 1, 1]), "race": np.array([0, 0, 0])}
    drawn = quantization.draw_representative((GENDER, RACE), labels)
    assert drawn.rows.tolist() == [0, 1, 2]


def test_none_at_all():
    with pytest.raises(ValueError, match="there are none"):
        quantization.draw_representative((GENDER,), {"gender": np.array([], int)})
