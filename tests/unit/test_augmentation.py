"""Random changes: where they act, what they do, that they repeat."""

import keras
import numpy as np
import pytest

from hydranet_tf import augmentation
from hydranet_tf.augmentation import STRENGTHS, Augmentation

QUIET = dict(flip=False, zoom=0, shift=0, rotation=0, brightness=0, colour=0, grey=0)


def images(count=16, side=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (count, side, side, 3)).astype("float32")


def changed(layer, batch):
    return np.asarray(layer(batch, training=True))


def test_outside_of_training_nothing_happens():
    batch = images()
    layer = Augmentation.of_strength("strong")
    np.testing.assert_array_equal(layer(batch, training=False), batch)
    np.testing.assert_array_equal(layer(batch), batch)


def test_with_everything_off_the_images_come_back():
    batch = images()
    np.testing.assert_allclose(changed(Augmentation(**QUIET), batch), batch, atol=0.01)


def test_flip_alone_gives_the_image_or_its_mirror():
    batch = images(64)
    found = changed(Augmentation(**{**QUIET, "flip": True}), batch)
    same = np.abs(found - batch).max((1, 2, 3)) < 0.01
    mirrored = np.abs(found - batch[:, :, ::-1]).max((1, 2, 3)) < 0.01
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_shift_alone_moves_the_picture_by_at_most_its_share():
    side = 40
    batch = np.zeros((32, side, side, 3), "float32")
    batch[:, 19:21, 19:21] = 255
    found = changed(Augmentation(**{**QUIET, "shift": 0.2}), batch)[..., 0]
    at = np.arange(side)
    weight = found.sum((1, 2))
    rows = (found.sum(2) * at).sum(1) / weight
    columns = (found.sum(1) * at).sum(1) / weight
    moved = np.abs(np.stack([rows, columns]) - 19.5)
    assert moved.max() <= 0.2 * side + 0.01
    assert moved.max() > 0.1 * side


def test_turn_alone_turns_about_the_centre():
    side = 41
    batch = np.zeros((32, side, side, 3), "float32")
    batch[:, 20, 28:33] = 255
    found = changed(Augmentation(**{**QUIET, "rotation": 30.0}), batch)[..., 0]
    at = np.arange(side) - 20
    weight = found.sum((1, 2))
    y = (found.sum(2) * at).sum(1) / weight
    x = (found.sum(1) * at).sum(1) / weight
    np.testing.assert_allclose(np.hypot(x, y), 10, atol=0.3)
    angles = np.degrees(np.arctan2(y, x))
    assert np.abs(angles).max() <= 30.5 and np.abs(angles).max() > 15


def test_grey_takes_the_colour_and_keeps_the_luma():
    batch = images(8)
    found = changed(Augmentation(**{**QUIET, "grey": 1.0}), batch)
    luma = batch @ np.array([0.299, 0.587, 0.114], "float32")
    np.testing.assert_allclose(found, luma[..., None].repeat(3, -1), atol=0.05)


def test_cover_lays_one_rectangle_on_its_share():
    batch = np.zeros((400, 20, 20, 3), "float32")
    found = changed(Augmentation(**QUIET, erasing=0.5), batch)[..., 0]
    erased = found == 127.5
    assert set(np.unique(found)) <= {0, 127.5}
    assert 0.4 < erased.any((1, 2)).mean() < 0.6
    for mask in erased[erased.any((1, 2))]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert rows.sum() <= 8 and columns.sum() <= 8


def test_pixels_stay_in_range_and_finite():
    found = changed(Augmentation.of_strength("strong"), images(64))
    assert found.min() >= 0 and found.max() <= 255


def test_same_seed_same_changes_and_never_twice_the_same():
    batch = images()
    one, other = (Augmentation.of_strength("strong", seed=3) for _ in "ab")
    first = changed(one, batch)
    np.testing.assert_array_equal(first, changed(other, batch))
    assert np.abs(first - changed(one, batch)).max() > 1


def test_images_of_a_batch_are_changed_independently():
    batch = np.repeat(images(1), 8, axis=0)
    found = changed(Augmentation.of_strength("standard"), batch)
    assert len(np.unique(found.reshape(8, -1), axis=0)) == 8


def test_config_builds_the_same_layer():
    layer = Augmentation.of_strength("strong", seed=5)
    again = Augmentation.from_config(layer.get_config())
    batch = images()
    np.testing.assert_array_equal(changed(layer, batch), changed(again, batch))


def test_unknown_strength_names_the_known():
    with pytest.raises(ValueError, match=", ".join(STRENGTHS)):
        Augmentation.of_strength("wild")


def test_it_traces_with_an_unknown_batch_size():
    layer = Augmentation.of_strength("strong")
    tensor = keras.Input((24, 24, 3))
    model = keras.Model(tensor, layer(tensor, training=True))
    assert model.predict(images(5), verbose=0).shape == (5, 24, 24, 3)


def test_samples_are_those_of_keras_own_transform():
    rng = np.random.default_rng(0)
    batch = images(8)
    # Scales, turns and shifts, some of which reach beyond the edges.
    a, b, d, e = (rng.normal(base, 0.2, 8) for base in (1, 0, 0, 1))
    c, f = rng.uniform(-6, 6, (2, 8))
    values = [v.astype("float32") for v in (a, b, c, d, e, f)]
    zero = np.zeros(8, "float32")
    expected = keras.ops.image.affine_transform(
        batch, np.stack([*values, zero, zero], -1), "bilinear", "nearest"
    )
    found = augmentation._affine(batch, *values)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_step_with_it_can_be_compiled():
    import tensorflow as tf

    layer = Augmentation.of_strength("strong")
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    found = compiled(images()).numpy()
    assert found.shape == (16, 24, 24, 3)
    assert 0 <= found.min() < found.max() <= 255
    assert np.abs(found - images()).mean() > 1
