"""What Keras 3 does not do itself under MultiWorkerMirroredStrategy.

`Model.fit` fails there, because Keras 3.15 asks the strategy for two
reductions that it does not have: of a whole batch (a structure, where the
strategy takes one value), from which Keras wants shapes alone; and of scalar
logs along their first axis. Both are calls of the public method `reduce`, so a
strategy that has them is enough and the model needs no code of its own.
tests/integration/test_strategies.py fails when a new Keras makes this needless.
"""

from __future__ import annotations

import keras
import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """MultiWorkerMirroredStrategy with the reductions that Keras asks for."""

    def reduce(self, reduce_op, value, axis):
        """See tf.distribute.Strategy.reduce.

        A structure becomes this worker's first part of each of its values. For
        a scalar, which has no axes, `axis` means nothing.
        """
        if keras.tree.is_nested(value):
            return keras.tree.map_structure(
                lambda part: self.experimental_local_results(part)[0], value
            )
        if all(not part.shape.rank for part in self.experimental_local_results(value)):
            axis = None
        return super().reduce(reduce_op, value, axis)
