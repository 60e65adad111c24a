"""
What is needed of protobuf's wire format: to write a field, and to read the fields of an answer.

https://protobuf.dev/programming-guides/encoding/. A message is its fields one after the other, each
a tag (the number of the field and how it is written) and a value.
"""

from collections.abc import Iterator
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MOST_BITS: Final = 64
_LARGEST_NUMBER: Final = 2**29 - 1


def varint(number: int) -> bytes:
    """Return *number*, which is not negative, in as many groups of seven bits as it needs."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def field(number: int, content: bytes) -> bytes:
    """Return the field *number* with *content*: a text in UTF-8, or a message."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def text(value: str) -> bytes:
    """Return *value* in UTF-8; what is not valid Unicode becomes a question mark."""
    return value.encode("utf-8", "replace")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """
    Yield the number and the value of each field of *message*; a number is without its sign.

    Raises ValueError if it is no message.
    """
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, how = tag >> 3, tag & 7
        if not 0 < number <= _LARGEST_NUMBER:
            raise ValueError("no field has this number")
        if how == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if how == _BYTES:
            size, at = _read_varint(message, at)
        elif how in _FIXED_SIZES:
            size = _FIXED_SIZES[how]
        else:
            raise ValueError("no field is written so")
        if at + size > len(message):
            raise ValueError("it ends within a field")
        yield number, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at *at* of *message*, and where it ends."""
    number = 0
    for shift in range(0, _MOST_BITS + 6, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> _MOST_BITS:
                break
            return number, at
    raise ValueError("a number has more than 64 bits")
