"""Parts of a split that are scored alone."""

import numpy as np
import pytest

from hydranet_tf.evaluation import findings
from hydranet_tf.tasks import AGE, MISSING

IDS = ["a.jpg", "sub/b.jpg", "c.jpg", "d.jpg"]
LABELS = {"age": np.array([20.0, 21.0, 60.0, MISSING])}


@pytest.fixture
def split_lists(tmp_path):
    lists = {"train": "x.jpg\ny.jpg\n", "validation": "", "test": "a.jpg\nb.jpg\n"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    # b has a twin in train, c and d are twins of each other alone.
    (tmp_path / "near_duplicate_groups.txt").write_text("y.jpg\tb.jpg\nc.jpg\td.jpg\n")
    return tmp_path


def test_parts_by_age_and_by_twin(split_lists):
    found = findings.subset_masks(IDS, LABELS, split_lists)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "ages 21 to 60": [False, True, True, False],
        "without near-twins": [True, False, True, True],
    }


def test_a_part_that_is_everything_or_nothing_is_left_out(split_lists):
    (split_lists / "near_duplicate_groups.txt").write_text("c.jpg\td.jpg\n")
    assert findings.subset_masks(IDS, {"age": np.full(4, 30.0)}, split_lists) == {}
    assert findings.subset_masks(IDS, {"age": np.full(4, 9.0)}, None) == {}


def test_scores_of_a_part_by_hand(split_lists):
    predictions = {"age": np.array([25.0, 22.0, 57.0, 40.0])}
    found = findings.find([AGE], np.array(IDS), LABELS, predictions)
    rows = findings.subset_scores(
        found, findings.subset_masks(IDS, LABELS, split_lists)
    )
    assert [(row["part"], row["n"]) for row in rows] == [
        ("ages 21 to 60", 2), ("without near-twins", 3)
    ]  # fmt: skip
    # |22 - 21| and |57 - 60|; then |25 - 20| and |57 - 60|, d having no age.
    assert rows[0]["scores"]["age.mae"]["value"] == pytest.approx(2.0)
    assert rows[1]["scores"]["age.mae"]["value"] == pytest.approx(4.0)
    assert rows[1]["scores"]["age.mae"]["n"] == 2
    assert "age.bias" not in rows[0]["scores"]
