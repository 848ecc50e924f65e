"""The pictures of a request: a form's files, JSON's base64, or the body itself."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

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


class Picture(NamedTuple):
    """A picture as it came.

    Attributes:
        name: what the client calls it, or picture-1, picture-2, ...
        encoded: the bytes of an image file, not looked at yet.
    """

    name: str
    encoded: bytes


async def read(request: Request, most: int) -> list[Picture]:
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
        raise HTTPException(400, f"the body is no JSON: {error}") from error
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
