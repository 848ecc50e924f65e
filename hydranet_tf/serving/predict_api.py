"""TensorFlow Serving's predict requests over HTTP, for faces that are cropped already.

    {"instances": [{"b64": "..."}]}            rows: {"predictions": [{"age": ...}]}
    {"inputs": [{"b64": "..."}]}               columns: {"outputs": {"age": [...]}}
    {"signature_name": "pixels", "instances": [[[[r, g, b], ...]]]}

https://www.tensorflow.org/tfx/serving/api_rest has the form. Any model answers, a
.tflite file too.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from hydranet_tf.errors import HydraNetError

BYTES, PIXELS = "serving_default", "pixels"
# The input of each signature.
INPUTS = {BYTES: "image_bytes", PIXELS: "images"}
# TensorFlow Serving's two layouts: one object an image, or one list an output.
_LAYOUTS = {"instances", "inputs"}


class RequestError(HydraNetError, ValueError):
    """A request that cannot be answered; the message says what to change."""


def parse(asked: Any, size: int) -> list[bytes] | np.ndarray:
    """The images of the JSON of a request.

    Args:
        asked: the parsed JSON.
        size: side of the network's images.

    Returns:
        The bytes of files, or uint8 `[n, size, size, 3]`, RGB; n is at least 1.

    Raises:
        RequestError: if they are not there.
    """
    if not isinstance(asked, dict) or len(asked.keys() & _LAYOUTS) != 1:
        raise RequestError('expected JSON: {"instances": [...]} or {"inputs": [...]}')
    signature = str(asked.get("signature_name") or BYTES)
    if signature not in INPUTS:
        raise RequestError(
            f"no signature {signature!r}; this model has {', '.join(INPUTS)}"
        )
    name = INPUTS[signature]
    if "inputs" in asked:
        values = asked["inputs"]
        if isinstance(values, dict) and set(values) == {name}:
            values = values[name]
    else:
        values = asked["instances"]
        if isinstance(values, list):
            values = [
                one[name] if isinstance(one, dict) and set(one) == {name} else one
                for one in values
            ]
    if not isinstance(values, list) or not values:
        raise RequestError("expected a list with at least one image")
    if signature == PIXELS:
        return _pixels(values, size)
    return [_bytes(value, name) for value in values]


def reply(asked: dict[str, Any], columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """The prediction in the layout of the request."""
    lists = {name: column.tolist() for name, column in columns.items()}
    if "inputs" in asked:
        return {"outputs": lists}
    rows = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in rows]}


def _bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, dict) or set(value) != {"b64"}:
        raise RequestError(f'{name}: expected string values, as {{"b64": "..."}}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise RequestError("a b64 value is not base64") from error


def _pixels(values: list[Any], size: int) -> np.ndarray:
    try:
        images = np.array(values)
    except ValueError as error:
        raise RequestError("the images differ in their shapes") from error
    if images.dtype.kind not in "ui" or ((images < 0) | (images > 255)).any():
        raise RequestError("images: expected whole numbers from 0 to 255")
    if images.shape[1:] != (size, size, 3):
        raise RequestError(
            f"images: expected uint8 (None, {size}, {size}, 3), got uint8 "
            f"{images.shape}"
        )
    return images.astype(np.uint8)
