"""What a camera does to training images: against values by hand, Pillow and SciPy."""

import io
import math

import keras
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from PIL import Image

from hydranet_tf import capture
from hydranet_tf.augmentation import fused
from hydranet_tf.capture import Capture

QUIET = dict(
    blur=0, unsharp=0, resolution=1, noise=0, jpeg=100, light=0, shine=0, balance=0
)


def images(count=16, side=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, (count, side, side, 3)).astype("float32")


def picture(side, seed=0):
    """Smooth shapes of all sizes, as a photograph has them, uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (side, side, 3))
    layers = [scipy.ndimage.gaussian_filter(noise, (s, s, 0)) * s for s in (1, 3, 9)]
    return np.clip(128 + 60 * sum(layers), 0, 255).astype("uint8")


def column(*values):
    return np.array(values, "float32")


def changed(layer, batch):
    return np.asarray(layer(batch, training=True))


def test_outside_of_training_nothing_happens():
    batch = images()
    layer = Capture.of_strength("strong")
    np.testing.assert_array_equal(layer(batch, training=False), batch)
    np.testing.assert_array_equal(layer(batch), batch)


def test_with_everything_off_the_images_come_back():
    batch = images()
    np.testing.assert_allclose(changed(Capture(**QUIET), batch), batch, atol=1e-3)


@pytest.mark.parametrize(
    "name, value",
    [
        ("blur", 0.05), ("unsharp", 2.0), ("resolution", 0.2), ("noise", 10.0),
        ("jpeg", 10.0), ("light", 0.5), ("shine", 1.0), ("balance", 0.3),
    ],
)  # fmt: skip
def test_each_setting_alone_changes_some_images_and_not_all(name, value):
    batch = images(64, 48)
    found = changed(Capture(**{**QUIET, name: value}), batch)
    moved = np.abs(found - batch).max((1, 2, 3)) > 0.5
    assert 5 < moved.sum() < 60


def test_a_blur_is_scipys():
    sigma = column(0.7, 2.0)
    batch = images(2, 40)
    found = np.asarray(capture.separable(batch, capture.gaussian(sigma, 40)))
    for image, expected, deviation in zip(found, batch, sigma, strict=True):
        expected = scipy.ndimage.gaussian_filter(
            expected, (deviation, deviation, 0), truncate=8
        )
        # Edges are cut off here and reflected there.
        inside = slice(12, -12)
        np.testing.assert_allclose(
            image[inside, inside], expected[inside, inside], atol=0.05
        )


def test_a_blur_of_two_pixels_worked_by_hand():
    # exp(-1/2) = 0.6065 beside 1, and their sum 1.6065.
    found = np.asarray(capture.gaussian(column(1.0), 2))[0]
    np.testing.assert_allclose(found, [[0.6225, 0.3775], [0.3775, 0.6225]], atol=1e-4)


@pytest.mark.parametrize("amount", [1.0, 0.5, 0.0, -1.0, -2.0])
def test_refocusing_goes_its_way_from_the_image_to_the_soft_one(amount):
    batch = images(2, 24)
    one = column(1.0, 1.0)
    never = np.zeros(2, bool)
    soft = np.asarray(capture.separable(batch, capture.gaussian(one, 24)))
    found = capture.refocused(batch, amount * one, one, never, 24 * one, never)
    np.testing.assert_allclose(found, batch + amount * (soft - batch), atol=0.01)


def test_down_and_up_are_pillows_bilinear():
    side, small = 48, 18
    image = picture(side)
    pillow = Image.fromarray(image).resize((small,) * 2, Image.Resampling.BILINEAR)
    expected = np.asarray(pillow.resize((side,) * 2, Image.Resampling.BILINEAR))
    matrix = capture.resampling(column(small), side, np.array([True]))
    found = np.asarray(capture.separable(image[None].astype("float32"), matrix))[0]
    # Pillow rounds to whole levels three times.
    np.testing.assert_allclose(found, expected, atol=2)


def test_down_by_the_mean_and_up_by_cubics_worked_by_hand():
    # Four pixels, two new ones: each the mean of two. Up again at 0.25 of a new pixel
    # from the nearer: cubic weights -0.0703125, 0.8671875, 0.2265625 of the neighbours
    # at distances 1.25, 0.25 and 0.75, of which the edge has only the latter two.
    matrix = np.asarray(capture.resampling(column(2), 4, np.array([False])))[0]
    near, far = 0.8671875, 0.2265625
    total = near + far
    first = [near / total / 2] * 2 + [far / total / 2] * 2
    np.testing.assert_allclose(matrix[1], first, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_resampling_to_the_same_size_changes_nothing():
    for soft in (True, False):
        matrix = capture.resampling(column(20), 20, np.array([soft]))
        np.testing.assert_allclose(matrix[0], np.eye(20), atol=1e-5)


@pytest.mark.parametrize("quality", [10, 35, 75, 95])
def test_compression_is_libjpegs(quality):
    colour = skimage.data.astronaut()[60:156, 180:276]
    grey = np.repeat(picture(48, seed=quality)[..., :1], 3, -1)
    for image, tolerance in ((colour, 1.2), (grey, 0.9)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        expected = np.asarray(Image.open(file)).astype("float32")
        found = capture.compressed(image[None].astype("float32"), column(quality))
        found = np.asarray(found)[0]
        # libjpeg rounds to whole levels between its steps, which tips coefficients that
        # lie in the middle; what is lost is the same.
        assert np.abs(found - expected).mean() < tolerance
        lost = np.abs(expected - image).mean()
        np.testing.assert_allclose(np.abs(found - image).mean(), lost, rtol=0.04)


def test_compression_keeps_a_size_that_is_no_multiple_of_a_block():
    batch = images(2, 21)
    found = np.asarray(capture.compressed(batch, column(100, 30)))
    assert found.shape == batch.shape
    np.testing.assert_array_equal(found[0], batch[0])
    assert np.abs(found[1] - batch[1]).mean() > 1


def test_a_grey_block_survives_compression_to_its_step():
    # A constant block has one coefficient, 8 times its level minus 128; at quality 50
    # its step is 16, so levels come back in twos: 131 is 24, which rounds to 32 or 16.
    batch = np.full((1, 8, 8, 3), 130.0, "float32")
    found = np.asarray(capture.compressed(batch, column(50)))
    np.testing.assert_allclose(found, 130.0, atol=1e-3)


def test_light_worked_by_hand():
    # Light from the right (angle 0), so steep that it is a step: the gain is e^0.5 to
    # the right and e^-0.5 to the left; red is doubled everywhere.
    batch = np.full((1, 4, 4, 3), 60.0, "float32")
    zero = column(0.0)
    found = np.asarray(
        capture.relit(
            batch,
            zero,
            zero,
            column(100.0),
            column(0.5),
            column(math.log(2)),
            zero,
            zero,
        )
    )
    gain = np.array([math.exp(-0.5)] * 2 + [math.exp(0.5)] * 2)
    expected = 60 * gain[None, None, :, None] * np.array([2, 1, 1])
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-3)


def test_shine_draws_what_is_light_towards_white_and_leaves_the_rest():
    batch = np.zeros((1, 2, 2, 3), "float32")
    batch[0, 0] = 200.0
    zero = column(0.0)
    # Mean luma 100, so the light half lies 100 above it: 0.5 * 100 / 128 of the way.
    found = np.asarray(
        capture.relit(batch, zero, zero, column(1.0), zero, zero, zero, column(0.5))
    )
    np.testing.assert_allclose(found[0, 0], 200 + 55 * 0.5 * 100 / 128, rtol=1e-5)
    np.testing.assert_array_equal(found[0, 1], batch[0, 1])


def test_noise_has_the_strength_that_was_drawn():
    batch = np.full((400, 16, 16, 3), 128.0, "float32")
    found = changed(Capture(**{**QUIET, "noise": 10.0}), batch)
    sigma = (found - 128.0).std((1, 2, 3))
    noisy = sigma > 1e-3
    assert 0.4 < noisy.mean() < 0.6
    # Even between 0 and 10.
    assert 4.3 < sigma[noisy].mean() < 5.7 and sigma.max() < 11.5
    # Some noise has colours and some has none.
    spread = (found - found.mean(-1, keepdims=True)).std((1, 2, 3))[noisy] > 1e-3
    assert 0.3 < spread.mean() < 0.7


def test_pixels_stay_in_range_and_finite():
    found = changed(Capture.of_strength("strong"), images(64))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 255


def test_standard_changes_less_than_strong():
    batch = np.stack([picture(48, seed) for seed in range(64)]).astype("float32")
    moved = {
        strength: np.abs(changed(Capture.of_strength(strength), batch) - batch).mean()
        for strength in ("standard", "strong")
    }
    assert 1 < moved["standard"] < 0.8 * moved["strong"]
    assert Capture.of_strength("none") is None


def test_same_seed_same_changes_and_never_twice_the_same():
    batch = images()
    one, other = (Capture.of_strength("strong", seed=3) for _ in "ab")
    first = changed(one, batch)
    np.testing.assert_array_equal(first, changed(other, batch))
    assert np.abs(first - changed(one, batch)).max() > 1


def test_config_builds_the_same_layer():
    layer = Capture.of_strength("strong", seed=5)
    again = Capture.from_config(layer.get_config())
    batch = images()
    np.testing.assert_array_equal(changed(layer, batch), changed(again, batch))


@pytest.mark.parametrize("wrong", [{"resolution": 0.0}, {"jpeg": 0.0}, {"jpeg": 101.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="resolution must be above 0"):
        Capture(**wrong)


def test_it_traces_with_an_unknown_batch_size_and_takes_bytes():
    layer = Capture.of_strength("strong")
    tensor = keras.Input((24, 24, 3))
    model = keras.Model(tensor, layer(tensor, training=True))
    batch = images(5).astype("uint8")
    assert model.predict(batch, verbose=0).shape == (5, 24, 24, 3)


def test_fused_functions_give_what_they_give_unfused():
    @fused
    def add(batch, values):
        return batch * 2 + keras.ops.reshape(values, (-1, 1, 1, 1))

    values = column(1.0, 2.0)
    for side in (8, 96):
        batch = images(2, side)
        expected = batch * 2 + values[:, None, None, None]
        np.testing.assert_allclose(add(batch, values), expected, rtol=1e-6)
