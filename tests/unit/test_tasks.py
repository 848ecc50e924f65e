"""Labels read from text, and tasks through JSON."""

import dataclasses

import pytest

from hydranet_tf import tasks
from hydranet_tf.tasks import AGE, GENDER, MISSING, RACE, LabelError


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (AGE, "26", 26.0),
        (AGE, " 3.5 ", 3.5),
        (AGE, "0", 0.0),
        (AGE, "", MISSING),
        (GENDER, "1", 1),
        (GENDER, "Female", 1),
        (GENDER, "male", 0),
        (GENDER, "  ", MISSING),
        (RACE, "4", 4),
        (RACE, "INDIAN", 3),
        (RACE, "", MISSING),
    ],
)
def test_labels_are_read(task, text, expected):
    assert task.parse(text) == expected


@pytest.mark.parametrize(
    ("task", "text", "hint"),
    [
        (AGE, "999", "from 0 to 120"),
        (AGE, "-1", "from 0 to 120"),
        (AGE, "nan", "from 0 to 120"),
        (AGE, "young", "from 0 to 120"),
        (GENDER, "2", "0 male, 1 female"),
        (GENDER, "-1", "0 male, 1 female"),
        (RACE, "7", "4 others"),
        (RACE, "martian", "4 others"),
        (RACE, "1.0", "4 others"),
        (RACE, "²", "4 others"),
    ],
)
def test_impossible_labels_are_refused(task, text, hint):
    with pytest.raises(LabelError, match=hint) as caught:
        task.parse(text)
    assert repr(text.strip()) in str(caught.value)


def test_class_order_is_that_of_utkface():
    assert GENDER.classes == ("male", "female")
    assert RACE.classes == ("white", "black", "asian", "indian", "others")


def test_tasks_survive_json():
    assert tasks.from_json(tasks.to_json(tasks.TASKS)) == tasks.TASKS


def test_tasks_can_be_told_apart():
    """Columns of predict.py and names in logs are made of these words alone."""
    classes = [name for task in tasks.TASKS for name in task.classes]
    outputs = [name for task in tasks.TASKS for name in task.outputs]
    weights = [task.weight_name for task in tasks.TASKS]
    for names in (classes, outputs, weights):
        assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"name": "age"}, "share the name 'age'"),
        ({"weight_name": "beta"}, "share the name of a loss weight 'beta': gender and"),
        ({"classes": ("white", "white")}, "column 'p_looks_white': looks and looks"),
        ({"name": "age_low"}, "output or column 'age_low': age and age_low"),
        ({"name": "predicted_age"}, "output or column 'predicted_age'"),
        ({"kind": "ordinal"}, "task looks: expected a kind out of regression, binary"),
        ({"kind": "binary"}, "task looks: a binary task has not 3 classes"),
        ({"classes": ()}, "a categorical task has not 0 classes"),
    ],
)
def test_a_clash_is_refused_with_its_name(changed, hint):
    # Shares two classes with race, whose columns have another name.
    looks = tasks.Task("looks", "categorical", "delta", classes=("white", "black", "x"))
    assert tasks.told_apart((*tasks.TASKS, looks))[-1] == looks
    clash = dataclasses.replace(looks, **changed)
    with pytest.raises(ValueError, match=hint):
        tasks.told_apart((*tasks.TASKS, clash))


def test_tasks_of_another_version_are_told():
    assert tasks.foreign(tasks.with_head(tasks.TASKS, "distribution")) == []
    fewer = dataclasses.replace(RACE, classes=RACE.classes[:4])
    beauty = dataclasses.replace(GENDER, name="beauty")
    assert tasks.foreign((AGE, fewer, beauty)) == ["race", "beauty"]
