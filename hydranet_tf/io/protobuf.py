"""Fields of a message of Protocol Buffers, without its schema.

https://protobuf.dev/programming-guides/encoding has the form: fields, each a key (its
number times eight, plus how it is written) and a value. Numbers and lengths are in
groups of seven bits, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterator

from hydranet_tf.errors import HydraNetError

# How a value is written: a number, 8 bytes, a length and as many bytes, 4 bytes.
_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_NUMBER = 10


class ProtobufError(HydraNetError, ValueError):
    """Bytes that are not a message; the message says why."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: a whole number, or the bytes of the rest.

    Raises:
        ProtobufError: if it is not a message, or cut short.
    """
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        kind = key & 7
        if kind == _NUMBER:
            value, at = _number(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _number(message, at)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if kind == _FOUR_BYTES else 8
        else:
            raise ProtobufError(f"a field is written in the unknown way {kind}")
        if at + size > len(message):
            raise ProtobufError("it is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def numbers(message: memoryview) -> Iterator[int]:
    """The numbers of a packed field, one behind the other."""
    at = 0
    while at < len(message):
        value, at = _number(message, at)
        yield value


def _number(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_NUMBER):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at
    raise ProtobufError("it is cut short")


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, as it stands in a message."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def _encoded(number: int) -> bytes:
    groups = []
    while True:
        number, group = number >> 7, number & 0x7F
        groups.append(group | (0x80 if number else 0))
        if not number:
            return bytes(groups)
