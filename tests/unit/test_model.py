"""The network: golden counts, gradients, outputs, save and load."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hydranet_tf import losses
from hydranet_tf.heads import task_metrics
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import DISTRIBUTION, MISSING, TASKS, with_head

SIDE = 32


def batch(count=8, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = {
        "age": rng.integers(1, 90, count).astype("float32"),
        "gender": rng.integers(0, 2, count).astype("int32"),
        "race": rng.integers(0, 5, count).astype("int32"),
    }
    return images, labels


def learned_weights():
    return losses.UncertaintyWeights([t.kind for t in TASKS], [12.0, 0.7, 1.4])


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(ValueError, match="resnet34, resnet18, resnet50"):
        HydraNet("resnet99", 64)


def test_every_trainable_weight_gets_a_gradient():
    keras.utils.set_random_seed(1)
    model = HydraNet("tiny", SIDE, weighting=learned_weights())
    images, labels = batch()
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = model.compute_loss(y=labels, y_pred=logits)
    gradients = tape.gradient(loss, model.trainable_weights)
    assert len(gradients) == len(model.trainable_weights)
    assert any("log_variance" in w.path for w in model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_a_task_without_labels_gets_no_gradient():
    model = HydraNet("tiny", SIDE, weighting=learned_weights())
    images, labels = batch()
    labels["race"][:] = MISSING
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=labels, y_pred=model(images, training=True))
    gradients = tape.gradient(loss, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        if "race_" in weight.path:
            assert np.abs(gradient).max() == 0, weight.path
        if "log_variance" in weight.path:
            assert gradient[2] == 0 and gradient[0] != 0 and gradient[1] != 0


def test_missing_labels_give_the_gradient_of_the_present_rows():
    model = HydraNet("tiny", SIDE, augmentation="none")
    images, labels = batch()
    labels["age"][4:] = MISSING

    def age_gradient(rows):
        # Not in training mode: batch statistics would tie the rows together.
        with tf.GradientTape() as tape:
            logits = model(images[rows], training=False)
            means, *_ = losses.task_losses(
                TASKS, {k: v[rows] for k, v in labels.items()}, logits
            )
        return tape.gradient(
            means["age"], model.get_layer("network").get_layer("age_hidden").kernel
        )

    np.testing.assert_allclose(
        age_gradient(slice(0, 8)), age_gradient(slice(0, 4)), rtol=1e-4, atol=1e-6
    )


def test_logits_and_predictions_have_the_documented_shapes():
    model = HydraNet("tiny", SIDE)
    images, _ = batch(3)
    logits = model.predict(images, verbose=0)
    assert {k: v.shape for k, v in logits.items()} == {
        "age": (3,), "gender": (3, 1), "race": (3, 5),
    }  # fmt: skip
    predictions = model.inference_model().predict(images, verbose=0)
    assert {k: v.shape for k, v in predictions.items()} == {
        "age": (3,), "gender": (3, 2), "race": (3, 5),
    }  # fmt: skip
    np.testing.assert_allclose(predictions["race"].sum(-1), 1, rtol=1e-5)
    female = 1 / (1 + np.exp(-logits["gender"][:, 0]))
    np.testing.assert_allclose(predictions["gender"][:, 1], female, rtol=1e-5)
    exps = np.exp(logits["race"])
    np.testing.assert_allclose(
        predictions["race"], exps / exps.sum(-1, keepdims=True), rtol=1e-5
    )


def test_predictions_stay_in_the_tasks_range():
    model = HydraNet("tiny", SIDE)
    bias = model.network.get_layer("age_logits").bias
    images, _ = batch(2)
    for shift, bound in ((-1e3, 0.0), (1e3, 120.0)):
        bias.assign([shift])
        age = model.inference_model().predict(images, verbose=0)["age"]
        np.testing.assert_array_equal(age, bound)


def test_inference_model_holds_nothing_of_training():
    model = HydraNet("tiny", SIDE, augmentation="strong", weighting=learned_weights())
    paths = [w.path for w in model.inference_model().variables]
    assert not [p for p in paths if "log_variance" in p or "augment" in p]
    assert len(model.inference_model().weights) == len(model.network.weights)


def test_uint8_and_float_pixels_are_the_same():
    model = HydraNet("tiny", SIDE).inference_model()
    images, _ = batch(2)
    a = model.predict(images, verbose=0)
    b = model.predict(images.astype("float32"), verbose=0)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_normalisation_by_hand():
    model = HydraNet("tiny", SIDE)
    pixel = np.full((1, SIDE, SIDE, 3), (200.0, 100.0, 50.0), "float32")
    found = model.network.get_layer("normalisation")(pixel)[0, 0, 0]
    expected = [
        (200 / 255 - 0.485) / 0.229,
        (100 / 255 - 0.456) / 0.224,
        (50 / 255 - 0.406) / 0.225,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_keras_file_gives_the_same_predictions_and_goes_on_training(tmp_path):
    model = HydraNet(
        "tiny", SIDE, weighting=learned_weights(), augmentation="strong", dropout=0.2
    )
    model.compile("adam", metrics=task_metrics(TASKS), jit_compile=False)
    images, labels = batch()
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    a, b = (m.predict(images, verbose=0) for m in (model, again))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)
    assert again.task_weights() == model.task_weights()
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    again.fit(images, labels, verbose=0)
    assert again.task_weights() != model.task_weights()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_heads_and_loss_stay_float32_under_mixed_precision(precision):
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        model = HydraNet("tiny", SIDE, weighting=learned_weights())
        images, labels = batch()
        logits = model(images, training=True)
        dtypes = {keras.backend.standardize_dtype(v.dtype) for v in logits.values()}
        assert dtypes == {"float32"}
        loss = model.compute_loss(y=labels, y_pred=logits)
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
        conv = model.network.get_layer("stem_conv")
        assert conv.compute_dtype == precision.removeprefix("mixed_")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def test_predictions_are_divided_by_the_temperature_of_their_head():
    images, _ = batch(3)
    keras.utils.set_random_seed(0)
    plain = HydraNet("tiny", SIDE)
    logits = plain.predict(images, verbose=0)
    config = plain.get_config()
    cooled = HydraNet.from_config({**config, "temperatures": {"race": 2.5}})
    cooled.set_weights(plain.get_weights())
    found = cooled.inference_model().predict(images, verbose=0)
    exps = np.exp(logits["race"] / 2.5)
    expected = exps / exps.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["race"], expected, rtol=1e-4)
    before = plain.inference_model().predict(images, verbose=0)
    np.testing.assert_allclose(found["gender"], before["gender"], rtol=1e-5)


@pytest.mark.parametrize("tasks", [TASKS, with_head(TASKS, DISTRIBUTION)])
def test_a_mirrored_network_predicts_the_mean_of_both_faces(tasks):
    images, _ = batch(3)
    plain = HydraNet("tiny", SIDE, tasks=tasks)
    config = plain.get_config()
    assert config["flip_tta"] is False
    both = HydraNet.from_config({**config, "flip_tta": True})
    both.set_weights(plain.get_weights())
    one = plain.predict(images, verbose=0)
    other = plain.predict(np.ascontiguousarray(images[:, :, ::-1]), verbose=0)
    assert np.abs(one["race"] - other["race"]).max() > 1e-3
    # Training and validation see each face once.
    np.testing.assert_array_equal(both.predict(images, verbose=0)["race"], one["race"])
    found = both.inference_model().predict(images, verbose=0)
    exps = np.exp((one["race"] + other["race"]) / 2)
    np.testing.assert_allclose(
        found["race"], exps / exps.sum(-1, keepdims=True), rtol=1e-4
    )
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    np.testing.assert_allclose(
        both.logits_model().predict(images, verbose=0)["age"], mean["age"], rtol=1e-4
    )
    # A face and its mirror image get one prediction.
    turned = both.inference_model().predict(images[:, :, ::-1], verbose=0)
    for name, predictions in found.items():
        np.testing.assert_allclose(turned[name], predictions, rtol=1e-4, err_msg=name)
