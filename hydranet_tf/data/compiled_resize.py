"""`decoding.resize` compiled for this processor, for data sets.

The same numbers, bit for bit, in a fifth of the time, and in one go outside Python's
global lock, so that threads resize side by side. A module of its own, because to import
Numba takes half a second and 120 MB for which a single face need not wait.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from hydranet_tf.data import decoding

# Unsigned, because Numba has an index that may be negative looked at each time, and
# LLVM then finds no neighbours among them.
_0, _1, _2, _3, _4 = map(np.uint64, range(5))


def resize(image: np.ndarray, into: np.ndarray) -> None:
    """Does what `decoding.resize` does.

    Args:
        image: uint8 `[h, w, 3]`.
        into: C-contiguous uint8 `[size, size, 3]`, which is overwritten.
    """
    height, width = image.shape[:2]
    size = len(into)
    _resize(
        # A picture that was cut has gaps between its rows; others are not copied.
        np.ascontiguousarray(image).reshape(height, -1),
        *decoding.resize_filter(height, size),
        *_column_filter(width, size),
        into,
    )


@functools.lru_cache(maxsize=256)
def _column_filter(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """First taps `[new]` and weights `[new, taps]` of `decoding.resize_filter`.

    The taps follow one another; those that lie outside the picture have no weight.
    """
    taps, weights = decoding.resize_filter(old, new)
    return taps[0].copy(), np.ascontiguousarray(weights.T)


def _compiled(*arguments):
    """Compiles a loop for arguments of these types."""
    signature = numba.void(*arguments)

    def compile_loop(function):
        # Not Numba's default: what is done four times side by side becomes a vector.
        before = numba.config.SLP_VECTORIZE
        numba.config.SLP_VECTORIZE = 1
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:
            # No folder for the compiled loop can be written, neither beside this
            # file nor in the home: one second more at each start.
            return numba.njit(signature, nogil=True)(function)
        finally:
            numba.config.SLP_VECTORIZE = before

    return compile_loop


def _read_only(dtype, dimensions=2):
    # Which takes arrays that may be written, too.
    return numba.types.Array(dtype, dimensions, "C", readonly=True)


@numba.njit
def _add_rows(image, taps, weights, new, row):
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


@numba.njit
def _weighted(row, first, weight):
    """Three channels, and what follows them, as the fourth lane of a vector."""
    return (
        weight * row[first],
        weight * row[first + _1],
        weight * row[first + _2],
        weight * row[first + _3],
    )


@numba.njit
def _add_columns(row, firsts, weights, sums):
    for x in range(np.uint64(firsts.size)):
        at = np.uint64(firsts[x]) * _3
        a, b, c, d = _weighted(row, at, weights[x, _0])
        for tap in range(_1, np.uint64(weights.shape[1])):
            at += _3
            e, f, g, h = _weighted(row, at, weights[x, tap])
            a, b, c, d = a + e, b + f, c + g, d + h
        lane = x * _4
        sums[lane] = a
        sums[lane + _1] = b
        sums[lane + _2] = c
        sums[lane + _3] = d


@_compiled(
    _read_only(numba.uint8),
    _read_only(numba.int32),
    _read_only(numba.float32),
    _read_only(numba.int32, 1),
    _read_only(numba.float32),
    numba.uint8[:, :, ::1],
)
def _resize(image, taps, weights, column_firsts, column_weights, into):
    width, size = image.shape[1], into.shape[0]
    # Zeros behind it for the taps that lie outside, and for the last fourth lane.
    row = np.zeros(width + 3 * column_weights.shape[1] + 1, np.float32)
    sums = np.empty(4 * size, np.float32)
    levels = np.empty(4 * size, np.uint8)
    for y in range(size):
        _add_rows(image, taps, weights, y, row[:width])
        _add_columns(row, column_firsts, column_weights, sums)
        for i in range(sums.size):
            # By way of int32, which vectors of floats turn into.
            levels[i] = np.int32(np.rint(min(sums[i], np.float32(255))))
        for x in range(np.uint64(size)):
            lane = x * _4
            into[y, x, _0] = levels[lane]
            into[y, x, _1] = levels[lane + _1]
            into[y, x, _2] = levels[lane + _2]
