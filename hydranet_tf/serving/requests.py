"""What requests hold: pictures to find faces in, or faces that are cropped already.

Pictures come as a form's files, as JSON's base64, or as the body itself. Cropped faces
come as TensorFlow Serving's predict requests:

    {"instances": [{"b64": "..."}]}            rows: {"predictions": [{"age": ...}]}
    {"inputs": [{"b64": "..."}]}               columns: {"outputs": {"age": [...]}}
    {"signature_name": "pixels", "instances": [[[[r, g, b], ...]]]}

https://www.tensorflow.org/tfx/serving/api_rest has the form. Any model predicts, a
.tflite file too.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.export_metadata import (
    ENCODED,
    ENCODED_INPUT,
    PIXELS,
    PIXELS_INPUT,
)

FORMATS = (
    "a form with files (multipart/form-data), JSON "
    '({"pictures": [{"name": "a.jpg", "b64": "..."}]}), or the bytes of one picture '
    "(image/*, application/octet-stream)"
)

_PICTURE = {
    "type": "object",
    "required": ["b64"],
    "properties": {
        "b64": {"type": "string", "format": "byte", "description": "A whole file."},
        "name": {"type": "string", "description": "Comes back as `file`."},
    },
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
# What OpenAPI says about the body.
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["pictures"],
                "properties": {"pictures": {"type": "array", "items": _PICTURE}},
            }
        },
        "image/*": _BYTES,
        "application/octet-stream": _BYTES,
    },
}

# The input of each signature.
SIGNATURES = {ENCODED: ENCODED_INPUT, PIXELS: PIXELS_INPUT}
# TensorFlow Serving's two layouts: one object an image, or one list an output.
_LAYOUTS = {"instances", "inputs"}


class Picture(NamedTuple):
    """A picture as it came.

    Attributes:
        name: what the client calls it, or picture-1, picture-2, ...
        encoded: the bytes of an image file, not looked at yet.
    """

    name: str
    encoded: bytes


async def read_pictures(request: Request, most: int) -> list[Picture]:
    """Reads all pictures of a request.

    Raises:
        HTTPException: 415 for another content type, 400 for what is not as it says,
            413 for more than `most` pictures.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _from_form(request, most)
    elif kind == "application/json":
        found = _from_json(await request.body())
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = [("", await request.body())]
    else:
        raise HTTPException(415, f"expected {FORMATS}; got {kind or 'no content type'}")
    if len(found) > most:
        raise _too_many(most)
    if not found or not all(encoded for _, encoded in found):
        raise HTTPException(
            400, f"expected {FORMATS}; there is an empty picture or none"
        )
    return [
        Picture(name or f"picture-{number}", encoded)
        for number, (name, encoded) in enumerate(found, start=1)
    ]


async def _from_form(request: Request, most: int) -> list[tuple[str, bytes]]:
    try:
        # One more than is allowed, to tell which of the two it was.
        async with request.form(max_files=most + 1, max_fields=most + 1) as form:
            files = [one for _, one in form.multi_items() if not isinstance(one, str)]
            if not files and form:
                raise HTTPException(
                    400,
                    "expected files in the form (curl -F file=@a.jpg); got the fields "
                    f"{', '.join(form)}",
                )
            return [(one.filename or "", await one.read()) for one in files]
    except HTTPException as error:
        if error.status_code == 400 and error.detail.startswith("Too many"):
            raise _too_many(most) from error
        raise


def _from_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    pictures = asked.get("pictures") if isinstance(asked, dict) else None
    if not isinstance(pictures, list):
        raise HTTPException(400, f"expected {FORMATS}; got other JSON")
    return [_decoded(number, one) for number, one in enumerate(pictures, start=1)]


def _decoded(number: int, picture: Any) -> tuple[str, bytes]:
    if isinstance(picture, dict) and isinstance(picture.get("b64"), str):
        name = picture.get("name", "")
        if isinstance(name, str) and set(picture) <= {"b64", "name"}:
            try:
                return name, base64.b64decode(picture["b64"], validate=True)
            except (binascii.Error, ValueError) as error:
                raise HTTPException(
                    400, f"b64 of picture {number} is not base64: {error}"
                ) from error
    raise HTTPException(
        400, f'expected picture {number} as {{"b64": "...", "name": "..."}}'
    )


def _too_many(most: int) -> HTTPException:
    return HTTPException(413, f"expected at most {most} pictures in a request")


class RequestError(HydraNetError, ValueError):
    """A request that cannot be answered; the message says what to change."""


def parse_predict(asked: Any, size: int) -> list[bytes] | np.ndarray:
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
    signature = str(asked.get("signature_name") or ENCODED)
    if signature not in SIGNATURES:
        raise RequestError(
            f"no signature {signature!r}; this model has {', '.join(SIGNATURES)}"
        )
    name = SIGNATURES[signature]
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
        return _instance_pixels(values, size)
    return [_instance_bytes(value, name) for value in values]


def predict_reply(
    asked: dict[str, Any], columns: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The prediction in the layout of the request."""
    lists = {name: column.tolist() for name, column in columns.items()}
    if "inputs" in asked:
        return {"outputs": lists}
    rows = zip(*lists.values(), strict=True)
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in rows]}


def _instance_bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, dict) or set(value) != {"b64"}:
        raise RequestError(f'{name}: expected string values, as {{"b64": "..."}}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise RequestError("a b64 value is not base64") from error


def _instance_pixels(values: list[Any], size: int) -> np.ndarray:
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
