"""The sums of `pixels.resize` compiled for this processor, for data sets.

The same numbers, bit for bit, in a fifth of the time, and outside Python's global
lock, so that threads resize side by side. A module of its own, because to import
Numba takes half a second for which a single face need not wait.
"""

from __future__ import annotations

import numba
import numpy as np

from hydranet_tf.data.pixels import Filter


def weighted_rows(image: np.ndarray, rows: Filter) -> np.ndarray:
    """See `pixels.weighted_rows`; `image` is uint8."""
    found = np.empty((rows.taps.shape[1], image.shape[1]), np.float32)
    # A picture that was cut has gaps between its rows; others are not copied.
    _add(np.ascontiguousarray(image), *rows, found)
    return found


def weighted_levels(image: np.ndarray, rows: Filter) -> np.ndarray:
    """See `pixels.weighted_levels`; `image` is float32."""
    found = np.empty((rows.taps.shape[1], image.shape[1]), np.uint8)
    _add_and_round(image, *rows, found)
    return found


SUMS = (weighted_rows, weighted_levels)


def _compiled(image, found):
    """Compiles a loop for arrays `[old, n]` and `[new, n]` of these types."""

    def read_only(dtype):
        # Which takes arrays that may be written, too.
        return numba.types.Array(dtype, 2, "C", readonly=True)

    signature = numba.void(
        read_only(image),
        read_only(numba.int32),
        read_only(numba.float32),
        found[:, ::1],
    )

    def compile_loop(function):
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:
            # No folder for the compiled loop can be written, neither beside this
            # file nor in the home: one second more at each start.
            return numba.njit(signature, nogil=True)(function)

    return compile_loop


@numba.njit
def _add_row(image, taps, weights, new, row):
    # LLVM joins no product with a sum here (Numba's default): that would round once
    # less.
    old, weight = image[taps[0, new]], weights[0, new]
    for i in range(row.size):
        row[i] = weight * np.float32(old[i])
    for tap in range(1, taps.shape[0]):
        weight = weights[tap, new]
        if weight == 0:
            continue
        old = image[taps[tap, new]]
        for i in range(row.size):
            row[i] += weight * np.float32(old[i])


@_compiled(numba.uint8, numba.float32)
def _add(image, taps, weights, found):
    for new in range(found.shape[0]):
        _add_row(image, taps, weights, new, found[new])


@_compiled(numba.float32, numba.uint8)
def _add_and_round(image, taps, weights, found):
    row = np.empty(found.shape[1], np.float32)
    for new in range(found.shape[0]):
        _add_row(image, taps, weights, new, row)
        levels = found[new]
        for i in range(row.size):
            # By way of int32, which vectors of floats turn into.
            levels[i] = np.int32(np.rint(min(row[i], np.float32(255))))
