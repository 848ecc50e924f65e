"""What compile, fit, save and load take is honoured or refused, never ignored."""

import keras
import numpy as np
import pytest
import synthetic
import tensorflow as tf

from hydranet_tf import losses
from hydranet_tf.heads import task_metrics
from hydranet_tf.model import HydraNet
from hydranet_tf.tasks import AGE, DISTRIBUTION, MISSING, TASKS, with_head

SIDE = 32
NAMES = [task.name for task in TASKS]


def faces(count=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = {
        "age": rng.uniform(1, 90, count).astype("float32"),
        "gender": rng.integers(0, 2, count),
        "race": rng.integers(0, 5, count),
    }
    return images, labels


def network(**options):
    keras.utils.set_random_seed(0)
    return HydraNet(synthetic.stem(), SIDE, augmentation="none", **options)


def still(**options):
    """Compiled so that it learns nothing: what it logs is of the first weights."""
    model = network(**options)
    compiled(model, keras.optimizers.SGD(0.0), weighted_metrics=True)
    return model


def compiled(model, optimizer, weighted_metrics=False):
    """Step by step, for a test takes one step and need not wait for a compiler."""
    scores = task_metrics(model.tasks) if weighted_metrics else None
    model.compile(optimizer, weighted_metrics=scores, run_eagerly=True)


def logged(model, labels, **options):
    images, _ = faces(len(next(iter(labels.values()))))
    # It changes nothing of the model, where a step of `fit` moves statistics.
    return model.evaluate(images, labels, verbose=0, return_dict=True, **options)


@pytest.fixture(scope="module")
def scored():
    return still()


def test_sample_weights_of_all_tasks_weigh_loss_and_scores(scored):
    images, labels = faces()
    logits = scored(images, training=False)
    errors = np.abs(logits["age"].numpy() - labels["age"])
    weights = np.arange(8.0)
    found = logged(scored, labels, sample_weight=weights)
    assert found["age_mae"] == pytest.approx((weights * errors).sum() / 28, rel=1e-4)
    assert found["age_loss"] == pytest.approx(found["age_mae"], rel=1e-4)
    plain = logged(scored, labels)
    assert plain["age_mae"] == pytest.approx(errors.mean(), rel=1e-4)
    double = logged(scored, labels, sample_weight=np.full(8, 2.0))
    assert double["loss"] == pytest.approx(2 * plain["loss"], rel=1e-5)
    assert double["age_mae"] == pytest.approx(plain["age_mae"])
    none = logged(scored, labels, sample_weight=np.zeros(8))
    assert none["loss"] == 0 and np.isnan(none["age_mae"])


def test_weights_of_0_are_as_if_the_face_were_not_there():
    """The same gradient as without them: statistics of batches left as they are."""
    images, labels = faces()
    model = network()

    def gradient(rows, weights=None):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(
                y={name: values[rows] for name, values in labels.items()},
                y_pred=model(images[rows], training=False),
                sample_weight=weights,
            )
        return tape.gradient(loss, model.network.get_layer("stem_conv").kernel).numpy()

    half = np.array([1.0] * 4 + [0.0] * 4, "float32")
    # A mean over the eight labels that are there, of which four count.
    np.testing.assert_allclose(
        2 * gradient(slice(0, 8), half), gradient(slice(0, 4)), rtol=1e-3, atol=1e-5
    )


def test_sample_weights_by_task(scored):
    _, labels = faces()
    weights = {name: np.ones(8) for name in labels}
    plain = logged(scored, labels)
    weights["race"] = np.zeros(8)
    found = logged(scored, labels, sample_weight=weights)
    without = logged(scored, {**labels, "race": np.full(8, MISSING)})
    assert found["loss"] == pytest.approx(without["loss"])
    assert found["age_mae"] == plain["age_mae"]
    assert np.isnan(found["race_accuracy"]) and np.isnan(found["race_loss"])


def test_sample_weights_in_a_data_set(scored):
    images, labels = faces()
    weights = np.arange(8, dtype="float32")
    expected = logged(scored, labels, sample_weight=weights)
    for given in (weights, weights[:, None], {"age": weights, "gender": weights}):
        batches = tf.data.Dataset.from_tensors((images, labels, given))
        found = scored.evaluate(batches, verbose=0, return_dict=True)
        assert found["age_mae"] == pytest.approx(expected["age_mae"])
        assert (found["loss"] == pytest.approx(expected["loss"])) == (
            not isinstance(given, dict)
        )


@pytest.mark.parametrize("tasks", [TASKS, with_head(TASKS, DISTRIBUTION)])
def test_nan_and_a_missing_key_are_missing_labels(tasks):
    _, labels = faces()
    marked = {name: values.astype("float32") for name, values in labels.items()}
    for values in marked.values():
        values[::3] = np.nan
    expected = {name: values.copy() for name, values in labels.items()}
    for values in expected.values():
        values[::3] = MISSING
    assert logged(still(tasks=tasks), marked) == logged(still(tasks=tasks), expected)

    del marked["race"]
    expected["race"][:] = MISSING
    found = logged(still(tasks=tasks), marked)
    assert found["loss"] == logged(still(tasks=tasks), expected)["loss"]
    assert np.isnan(found["race_accuracy"])


def test_one_nan_leaves_every_variable_finite():
    images, labels = faces()
    labels["age"][0] = np.nan
    model = network()
    compiled(model, "adam")
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    for weight in model.get_weights():
        assert np.isfinite(weight).all()


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        ({"agee": np.ones(8)}, "got agee, too"),
        ({"age": np.ones(8), "beauty": np.ones(8)}, "got beauty, too"),
        ({"race_soft_labels": np.ones((8, 5))}, "it has none of them"),
        (np.ones(8), "dict of labels by task name"),
        ({"race": np.eye(8, 5)}, "labels of race of the shape"),
    ],
)
def test_labels_that_mean_nothing_are_refused(scored, labels, hint):
    images, _ = faces()
    with pytest.raises(ValueError, match=hint):
        scored.test_on_batch(images, labels)


def test_labels_of_a_column_are_those_of_a_row(scored):
    _, labels = faces()
    columns = {name: values[:, None] for name, values in labels.items()}
    assert logged(scored, columns) == logged(scored, labels)


def test_weights_that_mean_nothing_are_refused(scored):
    images, labels = faces()
    batches = tf.data.Dataset.from_tensors((images, labels, {"beauty": np.ones(8)}))
    with pytest.raises(ValueError, match="got beauty"):
        scored.evaluate(batches, verbose=0)


def test_class_weights_weigh_the_loss(scored):
    _, labels = faces()
    plain = logged(scored, labels)
    by_class = {"race": {name: 2.0 for name in TASKS[2].classes}}
    same = logged(still(class_weights=by_class), labels)
    assert same["race_loss"] == pytest.approx(plain["race_loss"])
    none = logged(
        still(class_weights={"race": dict.fromkeys(by_class["race"], 0)}), labels
    )
    without = logged(scored, {**labels, "race": np.full(8, MISSING)})
    assert none["loss"] == pytest.approx(without["loss"])
    weights = np.where(labels["race"] == 1, 3.0, 1.0)
    expected = logged(
        scored, labels,
        sample_weight={"age": np.ones(8), "gender": np.ones(8), "race": weights},
    )  # fmt: skip
    found = logged(still(class_weights={"race": {"black": 3.0}}), labels)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    config = network(class_weights={"race": {"black": 3.0}}).get_config()
    again = HydraNet.from_config(config)
    assert again.class_weights == {"race": {"black": 3.0}}


def test_regularisers_are_part_of_the_loss(scored):
    _, labels = faces()
    plain = logged(scored, labels)
    model = still()
    kernel = model.network.get_layer("stem_conv").kernel
    kernel.regularizer = keras.regularizers.L2(0.1)
    added = 0.1 * float((kernel.numpy() ** 2).sum())
    assert added > 0.1
    found = logged(model, labels)["loss"]
    assert found - plain["loss"] == pytest.approx(added, rel=1e-3)


def test_a_step_of_fit_moves_by_weights_and_regularisers():
    """Against the gradient of the documented total, taken by hand."""
    images, labels = faces()
    weights = np.arange(8, dtype="float32")
    model = network()
    kernel = model.network.get_layer("age_logits").kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    before = kernel.numpy()
    with tf.GradientTape() as tape:
        age = model(images, training=True)["age"]
        mean = tf.reduce_sum(weights * tf.abs(age - labels["age"])) / 8
        loss = mean * model.task_weights()["alpha"]
        loss += 0.5 * tf.reduce_sum(kernel**2)
    expected = before - 0.1 * tape.gradient(loss, kernel.value).numpy()
    compiled(model, keras.optimizers.SGD(0.1))
    model.fit(images, labels, sample_weight=weights, batch_size=8, verbose=0)
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"loss": "mse"}, r"without loss=.*keras.Model\(model.input"),
        ({"loss": {"age": "mse"}}, "without loss="),
        ({"loss_weights": {"age": 0.0}}, r"weighting=FixedWeights.*age, gender, race"),
    ],
)
def test_losses_of_compile_are_refused_with_the_way_out(arguments, hint):
    with pytest.raises(ValueError, match=hint):
        network().compile("adam", **arguments)
    with pytest.raises(ValueError, match="without loss="):
        network().compile("adam", "mse")


def test_the_way_out_of_loss_works():
    images, labels = faces()
    model = network()
    plain = keras.Model(model.input, model.output)
    plain.compile(keras.optimizers.SGD(0.0), loss={"age": "mse"}, run_eagerly=True)
    logits = model.predict(images, verbose=0)
    found = plain.evaluate(images, {"age": labels["age"]}, verbose=0)
    assert found == pytest.approx(((logits["age"] - labels["age"]) ** 2).mean(), 1e-4)


def test_weights_are_learned_by_default():
    model = network()
    assert isinstance(model.weighting, losses.UncertaintyWeights)
    assert any("log_variance" in v.path for v in model.trainable_variables)
    alone = network(tasks=[AGE])
    assert list(alone.task_weights()) == ["alpha"]


def frozen(model):
    return [v.path for v in model.variables if not v.trainable]


def test_what_is_frozen_stays_frozen(tmp_path):
    """And the optimiser of what is not goes on where it was."""
    images, labels = faces()
    model = network()
    for layer in model.network.layers:
        layer.trainable = layer.name.startswith(("age", "gender", "race"))
    compiled(model, "adam", weighted_metrics=True)
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables) == 13
    assert frozen(again) == frozen(model)
    assert len(again.optimizer.variables) == len(model.optimizer.variables)
    for one, other in zip(
        again.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for one in (model, again):
        one.fit(images, labels, batch_size=8, verbose=0, shuffle=False)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_each_way_to_freeze_survives():
    def whole(model):
        model.trainable = False

    def within(model):
        model.network.trainable = False

    def all_but_one(model):
        model.network.trainable = False
        model.network.trainable = True
        model.network.get_layer("stem_conv").trainable = False

    def hidden(model):
        # The whole is frozen, one layer in it is not: nothing is trained.
        model.trainable = False
        model.network.get_layer("stem_conv").trainable = True

    def the_weights(model):
        model.weighting.trainable = False

    counts = set()
    for freeze in (whole, within, all_but_one, hidden, the_weights):
        model = network()
        freeze(model)
        again = HydraNet.from_config(model.get_config())
        names = [v.path for v in model.trainable_variables]
        assert [v.path for v in again.trainable_variables] == names, freeze
        assert [layer.trainable for layer in again.network.layers] == [
            layer.trainable for layer in model.network.layers
        ]
        counts.add(len(names))
    assert {0, 1} < counts


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="dtype"):
        HydraNet("tiny", SIDE, dtype="float16")
