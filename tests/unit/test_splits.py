"""The committed UTKFace lists keep what datasets/utkface/README.md promises."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from hydranet_tf.data import file_names

UTKFACE = Path(__file__).resolve().parents[2] / "datasets" / "utkface"
SPLITS = UTKFACE / "splits"
SIZES = {"train": 17007, "validation": 1888, "test": 4812}
# Pairs of images that the published test part shares with the rest.
TEST_IMAGES_WITH_A_TWIN_ELSEWHERE = 294


@pytest.fixture(scope="module")
def lists() -> dict[str, list[str]]:
    return {
        split: (SPLITS / f"{split}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        for split in SIZES
    }


@pytest.fixture(scope="module")
def groups() -> list[list[str]]:
    text = (SPLITS / "near_duplicate_groups.txt").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.split("\n")[:-1]]


def test_sizes_order_and_disjointness(lists):
    assert {split: len(names) for split, names in lists.items()} == SIZES
    for names in lists.values():
        assert names == sorted(names)
    assert len(set().union(*lists.values())) == 23707
    # What the package reads is what the files say.
    assert file_names.read_split_lists(SPLITS) == lists


def test_the_parts_are_those_of_the_published_protocol(lists):
    """Cao, Mirjalili, Raschka 2020: ages 21 to 60, 13,147 and 3,287 images."""

    def of_protocol(names):
        return sum(21 <= int(name.split("_")[0]) <= 60 for name in names)

    assert of_protocol(lists["test"]) == 3287
    assert of_protocol(lists["train"] + lists["validation"]) == 13147


def test_the_test_list_never_changes():
    """Scores of different versions compare only on the same images."""
    digest = hashlib.sha256((SPLITS / "test.txt").read_bytes()).hexdigest()
    assert digest == "e52ad3752c493206ce9edf7869b991f0a06595030050935939679264f072035c"


def test_no_group_is_split_between_train_and_validation(lists, groups):
    home = {name: split for split, names in lists.items() for name in names}
    assert len(groups) == 887
    assert sum(map(len, groups)) == len(set().union(*groups)) == 1858
    assert min(map(len, groups)) == 2
    parts = [{home[name] for name in group} for group in groups]
    assert not [group for group in parts if {"train", "validation"} <= group]
    # Groups do stand in both, or the test would show nothing.
    assert sum("train" in group for group in parts) > 700
    assert sum("validation" in group for group in parts) > 60
    twins = [
        name
        for group, where in zip(groups, parts, strict=True)
        for name in group
        if home[name] == "test" and where != {"test"}
    ]
    assert len(twins) == TEST_IMAGES_WITH_A_TWIN_ELSEWHERE


def test_validation_follows_its_rule(lists, groups):
    """The rule of the README, written a second time."""
    pool = {*lists["train"], *lists["validation"]}
    key = {name: name for name in pool}
    for group in groups:
        own = [name for name in group if name in pool]
        key |= dict.fromkeys(own, min(own, default=""))
    chosen = [
        name
        for name in pool
        if int(hashlib.sha256(key[name].encode()).hexdigest()[:16], 16) / 16**16 < 0.1
    ]
    assert sorted(chosen) == lists["validation"]


def test_every_listed_name_gives_labels(lists):
    names = [name for part in lists.values() for name in part]
    labels, skipped = file_names.label_names(names)
    assert not skipped
    without_race = [name for name, row in labels.items() if row["race"] == -1]
    assert sorted(without_race) == [
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_1_20170109142408075.jpg.chip.jpg",
        "61_1_20170109150557335.jpg.chip.jpg",
    ]
    for name, row in labels.items():
        age, gender, *rest = name.split("_")
        assert (row["age"], row["gender"]) == (float(age), int(gender))
        if name not in without_race:
            assert row["race"] == int(rest[0])


def test_corrections_exclude_the_two_default_batches_from_train(lists):
    prefixes = ("21_0_4_20161223", "26_0_0_20170113")
    everything = [name for part in lists.values() for name in part]
    assert [sum(n.startswith(p) for n in everything) for p in prefixes] == [21, 56]

    corrections = file_names.read_corrections(SPLITS)

    expected = [name for name in lists["train"] if name.startswith(prefixes)]
    assert sorted(corrections.excluded) == expected
    assert len(expected) == 16 + 42
    assert not corrections.labels
    with open(UTKFACE / "corrections.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == expected
    assert all(row["reason"].startswith("default label") for row in rows)
