"""The drawings: repeatable, and labelled by their shapes alone."""

from __future__ import annotations

import io
from pathlib import Path

import drawn_faces_dataset_builder
import face_drawing
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image


class DrawnFacesTest(tfds.testing.DatasetBuilderTestCase):
    """What TFDS asks of every builder."""

    DATASET_CLASS = drawn_faces_dataset_builder.Builder
    SPLITS = {"train": 5, "validation": 3, "test": 2}
    # TFDS wants a folder of dummy files; this builder reads none.
    EXAMPLE_DIR = str(Path(__file__).parent)

    def setUp(self):
        super().setUp()
        self.enter_context(pytest.MonkeyPatch.context()).setattr(
            self.DATASET_CLASS, "COUNTS", self.SPLITS
        )

    def test_session(self, *args, **kwargs):
        return super().test_session(*args, **kwargs)

    # A helper of tf.test.TestCase that is called like a test.
    test_session.__test__ = False


def drawing(age: int, gender: int, race: int, size: int = 96) -> np.ndarray:
    """The same drawing but for its labels."""
    random = np.random.default_rng(3)
    image, _ = face_drawing._draw(random, age, gender, race, size)
    return np.asarray(image, np.int32)


def changed(one: np.ndarray, other: np.ndarray) -> int:
    return int((np.abs(one - other).max(axis=-1) > 8).sum())


def test_the_same_numbers_draw_the_same_bytes():
    assert face_drawing.draw_face(1, 7) == face_drawing.draw_face(1, 7)
    faces = {face_drawing.draw_face(seed, n).jpeg for seed in (0, 1) for n in range(5)}
    assert len(faces) == 10


def test_it_is_a_jpeg_of_the_size_asked_for():
    image = Image.open(io.BytesIO(face_drawing.draw_face(0, 0, size=40).jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 40))


def test_eyes_are_where_it_says():
    """The whites are the palest pixels near the middle of a face without colour."""
    for number in range(5):
        face = face_drawing.draw_face(0, number, size=192)
        pixels = np.asarray(Image.open(io.BytesIO(face.jpeg)).convert("HSV"), int)
        for x, y in face.eyes:
            rows, columns = np.mgrid[:192, :192]
            near = np.hypot(columns - x, rows - y) < 16
            # White and ink; the head around them is a colour.
            eye = near & ((pixels[..., 1] < 40) | (pixels[..., 2] < 110))
            found = columns[eye].mean(), rows[eye].mean()
            assert np.hypot(found[0] - x, found[1] - y) < 2.5, (number, found, (x, y))


def test_age_turns_the_dial_and_nothing_else():
    youngest = drawing(0, 0, 0)
    turned = [changed(youngest, drawing(age, 0, 0)) for age in (25, 50, 75, 100)]
    # A quarter of the dial for every 25 years.
    quarters = np.diff([0, *turned])
    assert quarters.min() > 100
    assert quarters.max() < 1.15 * quarters.min()
    # The head, in the middle, stays as it was.
    middle = slice(36, 60)
    np.testing.assert_array_equal(
        youngest[middle, middle], drawing(100, 0, 0)[middle, middle]
    )


def test_a_mirrored_dial_tells_the_same_age():
    for age in (10, 60):
        dial = Image.new("RGB", (96, 96))
        pen = face_drawing.ImageDraw.Draw(dial)
        face_drawing._draw_dial(pen, (47.5, 47.5), 40, age, (200, 0, 0))
        coloured = np.asarray(dial) == (200, 0, 0)
        left, right = (half.all(-1).sum() for half in np.split(coloured, 2, axis=1))
        assert left > 40 * age / 10
        # Pillow rounds the two ends of an arc differently.
        assert abs(left - right) <= 0.15 * left


def test_gender_changes_the_outline_and_not_the_middle():
    one, other = drawing(50, 0, 4), drawing(50, 1, 4)
    assert changed(one, other) > 200
    middle = slice(36, 60)
    np.testing.assert_array_equal(one[middle, middle], other[middle, middle])


def test_every_race_has_a_pattern_of_its_own_on_the_head_alone():
    drawings = [drawing(50, 0, race) for race in range(5)]
    for i in range(5):
        for j in range(i):
            assert changed(drawings[i], drawings[j]) > 300
    corner = slice(0, 16)
    for other in drawings[1:]:
        np.testing.assert_array_equal(
            drawings[0][corner, corner], other[corner, corner]
        )


def test_labels_cover_their_ranges_evenly():
    # Drawing takes most of the time and plays no part in the labels.
    faces = [face_drawing.draw_face(0, number, size=12) for number in range(1000)]
    ages = np.array([face.age for face in faces])
    assert (ages.min(), ages.max()) == (1, 100)
    # Three standard deviations of a uniform mean and of binomial counts.
    assert abs(ages.mean() - 50.5) < 3 * 28.9 / 1000**0.5
    genders = np.bincount([face.gender for face in faces])
    assert np.abs(genders - 500).max() < 3 * 15.8
    races = np.bincount([face.race for face in faces])
    assert len(races) == 5
    assert np.abs(races - 200).max() < 3 * 12.6


if __name__ == "__main__":
    tfds.testing.test_main()
