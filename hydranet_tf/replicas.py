"""Sums over the replicas of a model that trains on several devices at once.

Under tf.distribute each replica runs the model on its share of the batch, and
only what is summed here sees the whole. On the JAX backend one program sees
the whole batch already, however many devices and processes share the work.
"""

from __future__ import annotations

import keras


def count() -> int:
    """How many replicas share the batch that the caller works on.

    1 outside of a replica, where a caller has the whole batch.
    """
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def count_in_scope() -> int:
    """How many replicas a model made here will have, outside of any replica."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def total(values):
    """Sums a tensor over the replicas, differentiably.

    The gradient of the result is summed over the replicas too: where each
    replica computes the same loss from such sums and divides it by `count()`,
    the replicas' gradients add up to the gradient of that loss.

    Args:
        values: of the same shape on every replica.

    Returns:
        The sum, the same on every replica; `values` where there is one alone.
    """
    context = _context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce("SUM", values)


def number(scalar) -> float:
    """The value of a scalar that may be mirrored, which `float` does not read."""
    return keras.ops.convert_to_numpy(scalar).item()


def _context():
    """tf.distribute's context of this replica; None outside, and on JAX."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
