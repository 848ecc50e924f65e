"""Optimisers that see the gradient of the whole batch under replicas.

On the TensorFlow backend Keras 3 sums the gradients of the replicas as the last
thing before a step. What stands before it looks at one replica's share alone:
clipping by the norm, and the search for infinite values of loss scaling, where
replicas that do not agree would wait for each other for ever.
"""

from __future__ import annotations

import keras

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
