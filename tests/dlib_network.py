"""dlib's face recogniser by NumPy, and files as dlib writes them: for tests.

Worked from dlib's C++ and independent of the network in hydranet_tf: axes are
[channels, height, width], and every layer is a loop over its window.
"""

from __future__ import annotations

import numpy as np

# Outputs, inputs, side and stride of every convolution, from the input on.
_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


def convolutions() -> list[tuple[int, int, int, int]]:
    found = [(32, 3, 7, 2)]
    inputs = 32
    for stage, (outputs, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            found.append((outputs, inputs, 3, 2 if stage and not block else 1))
            found.append((outputs, outputs, 3, 1))
            inputs = outputs
    return found


def random_layers(seed: int) -> list[tuple[np.ndarray, ...]]:
    """Kernel [out, in, height, width], bias, scale and shift of each convolution.

    Kernels are small and scales large, as in dlib's own.
    """
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(0, 0.003, (outputs, inputs, side, side)).astype(np.float32),
            rng.normal(0, 0.001, outputs).astype(np.float32),
            rng.uniform(3, 9, outputs).astype(np.float32),
            rng.normal(0, 0.3, outputs).astype(np.float32),
        )
        for outputs, inputs, side, _ in convolutions()
    ]


def features(layers, image: np.ndarray) -> np.ndarray:
    """What the layer before the last gives: [256] for levels 0..255 [3, h, w]."""
    x = (image - np.array([122.782, 117.001, 104.298])[:, None, None]) / 256
    steps = iter(zip(layers, convolutions(), strict=True))

    def next_convolution(x):
        (kernel, bias, scale, shift), (*_, stride) = next(steps)
        x = _convolved(x, kernel, stride) + bias[:, None, None]
        return x * scale[:, None, None] + shift[:, None, None]

    x = _pooled(np.maximum(next_convolution(x), 0), 3, np.max)
    for stage, (_, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            branch = next_convolution(np.maximum(next_convolution(x), 0))
            if stage and not block:
                x = _pooled(x, 2, np.mean)
            both = np.zeros(np.maximum(x.shape, branch.shape))
            for part in (x, branch):
                both[tuple(slice(n) for n in part.shape)] += part
            x = np.maximum(both, 0)
    assert next(steps, None) is None
    return x.mean((1, 2))


def _convolved(x, kernel, stride: int):
    side = kernel.shape[-1]
    # Strided convolutions of dlib do not pad.
    around = 0 if stride > 1 else side // 2
    x = np.pad(x, ((0, 0), (around, around), (around, around)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], kernel)


def _pooled(x, side: int, by):
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return by(windows[:, ::2, ::2], axis=(-2, -1))


def file(layers) -> bytes:
    """The bytes of a network file, as far as its convolutions go."""
    parts = [_string("loss_metric_2"), b"\x03\x9a\x99\x99\x81\x18"]
    for kernel, bias, scale, shift in layers:
        parts += [_string("con_4"), _tensor(kernel, bias), b"\x01\x02" * 9]
        parts += [_string("affine_"), _tensor(scale, shift), _string("relu_110")]
    return b"".join([*parts, _string("fc_2")])


def _tensor(*arrays) -> bytes:
    values = np.concatenate([np.ravel(a) for a in arrays]).astype("<f4")
    sizes = (values.size, 1, 1, 1)
    return b"".join(map(_whole, (2, *sizes))) + values.tobytes()


def _string(text: str) -> bytes:
    return _whole(len(text)) + text.encode()


def _whole(number: int) -> bytes:
    content = number.to_bytes((number.bit_length() + 7) // 8 or 1, "little")
    return bytes([len(content)]) + content
