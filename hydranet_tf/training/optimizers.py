"""Optimisers that see the gradient of the whole batch under replicas.

On the TensorFlow backend Keras 3 sums the gradients of the replicas as the last
thing before a step. What stands before it looks at one replica's share alone:
clipping by the norm, and the search for infinite values of loss scaling, where
replicas that do not agree would wait for each other for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from hydranet_tf import replicas


def optimizer(kind: type[keras.optimizers.Optimizer], loss_scale: bool, **options):
    """Makes an optimiser that fits the strategy in whose scope this is called.

    Args:
        kind: class of the optimiser.
        loss_scale: whether to wrap it in a `LossScaleOptimizer`.
        options: of its constructor. `global_clipnorm` is the largest norm of the
            whole batch's gradient.
    """
    count = replicas.count_in_scope()
    clip = options.get("global_clipnorm")
    if count == 1 or not (clip or loss_scale):
        made = kind(**options)
        return keras.optimizers.LossScaleOptimizer(made) if loss_scale else made
    if clip:
        # Each replica clips the mean of all, and Keras sums that over them.
        options["global_clipnorm"] = clip / count
    if loss_scale:
        return _of_the_whole_batch(keras.optimizers.LossScaleOptimizer)(kind(**options))
    return _of_the_whole_batch(kind)(**options)


def _of_the_whole_batch(kind):
    class OfTheWholeBatch(kind):
        def apply(self, grads, trainable_variables=None):
            mean = [
                None if g is None else replicas.total(g) / replicas.count()
                for g in grads
            ]
            super().apply(mean, trainable_variables)

    return OfTheWholeBatch


# The moving average of the weights, where a network is judged or kept.
#
# The optimiser keeps the average beside the weights (its `use_ema`); training goes
# on from the weights. The statistics of batch normalisation are those of the
# weights: they are moving averages already.


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Gives a compiled model its averaged weights while the context is open.

    Nothing happens where the optimiser keeps no average. The weights come back
    to the bit, which adding and subtracting in place (keras.callbacks.
    SwapEMAWeights on TensorFlow) would not do.
    """
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        yield
        return
    weights = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    # On JAX each now shares its array with the average, and evaluation hands the
    # arrays of a network over to be reused, which would lose the average.
    for variable in model.trainable_variables:
        variable.assign(np.array(keras.ops.convert_to_numpy(variable)))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


def keep_average(model: keras.Model) -> None:
    """Leaves a compiled model with its averaged weights, if there are any."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


class ValidateAverage(keras.callbacks.Callback):
    """Validates the averaged weights."""

    def on_test_begin(self, logs=None):
        self._open = contextlib.ExitStack()
        self._open.enter_context(averaged(self.model))

    def on_test_end(self, logs=None):
        self._open.close()
