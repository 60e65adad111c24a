"""
Read the records of a JSON export, ``{"organization": ..., "exported_at": ..., "logs": [...]}``.

The texts of the records are located, not decoded: a bad record does not affect the others, and the
file is never in memory whole. Strings are skipped as a whole, so that only brackets are counted.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field

from auditrelay.sources.cencori.buffer import Buffer, Unreadable

_BLANKS = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_UP_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_WORD = re.compile(rb"[^\s,\[\]{}\":]++")


@dataclass(slots=True)
class JsonExport:
    """A JSON export: *metadata* are the members other than the list, as far as they were read."""

    metadata: dict[str, object] = field(default_factory=dict)

    def records(self, buffer: Buffer, key: str) -> Iterator[tuple[bytes, int]]:
        """
        Yield the text of each element of the list under *key*, and the line that it begins on.

        Raises Unreadable if the file is not an object with such a list, or does not end as one.
        """
        while len(buffer.data) < len(BOM_UTF8) and buffer.read_more():
            pass
        if buffer.data.startswith(BOM_UTF8):
            buffer.advance(len(BOM_UTF8))
        _expect(buffer, b"{")
        found = False
        if _peek(buffer) != b"}":
            while True:
                name = _name(buffer)
                _expect(buffer, b":")
                if name == key and not found and _peek(buffer) == b"[":
                    found = True
                    yield from _elements(buffer)
                else:
                    text, line = _value(buffer)
                    try:
                        self.metadata[name] = json.loads(text)
                    except (ValueError, RecursionError) as error:
                        raise Unreadable(
                            f"line {line}: a value is not JSON",
                            reason="not_an_export",
                        ) from error
                if _peek(buffer) != b",":
                    break
                _expect(buffer, b",")
        _expect(buffer, b"}")
        if _peek(buffer) != b"":
            raise Unreadable(
                f"line {buffer.line}: unexpected text after the end of the JSON",
                reason="not_an_export",
            )
        if not found:
            raise Unreadable(f'no list "{key}"', reason="not_an_export")


def _elements(buffer: Buffer) -> Iterator[tuple[bytes, int]]:
    _expect(buffer, b"[")
    if _peek(buffer) != b"]":
        while True:
            yield _value(buffer)
            if _peek(buffer) != b",":
                break
            _expect(buffer, b",")
    _expect(buffer, b"]")


def _peek(buffer: Buffer) -> bytes:
    """Advance to the next byte that is not blank, and return it; empty at the end."""
    while True:
        found = _BLANKS.match(buffer.data, buffer.position)
        buffer.advance(buffer.position if found is None else found.end())
        if buffer.position < len(buffer.data) or not buffer.read_more():
            return buffer.data[buffer.position : buffer.position + 1]


def _expect(buffer: Buffer, mark: bytes) -> None:
    seen = _peek(buffer)
    if seen == mark:
        buffer.advance(buffer.position + 1)
        return
    if not seen:
        raise Unreadable(
            f"line {buffer.line}: the file breaks off before its end", reason="file_breaks_off"
        )
    raise Unreadable(
        f"line {buffer.line}: expected {mark.decode()!r}, found {ascii(seen)[1:]}",
        reason="not_an_export",
    )


def _name(buffer: Buffer) -> str:
    if _peek(buffer) not in (b'"', b""):
        _expect(buffer, b'"')
    text, line = _value(buffer)
    try:
        return str(json.loads(text))
    except ValueError as error:
        raise Unreadable(f"line {line}: a key is not JSON", reason="not_an_export") from error


def _value(buffer: Buffer) -> tuple[bytes, int]:
    """Return the text of the value at the buffer's position, and its line, and advance."""
    _peek(buffer)
    line = buffer.line
    while (end := _end(buffer.data, buffer.position)) is None or (
        # A word may continue in the next chunk.
        end == len(buffer.data) and not buffer.ended
    ):
        if not buffer.read_more():
            raise Unreadable(
                f"line {line}: the file breaks off in the middle of a value",
                reason="file_breaks_off",
            )
    text = buffer.data[buffer.position : end]
    if not text:
        raise Unreadable(
            f"line {line}: expected a value, found {ascii(buffer.data[end : end + 1])[1:]}",
            reason="not_an_export",
        )
    buffer.advance(end)
    return text, line


def _end(data: bytes, start: int) -> int | None:
    """Return where the value at *start* ends, None if *data* does not contain its end."""
    first = data[start : start + 1]
    if first == b"":
        return None
    if first == b'"':
        found = _STRING.match(data, start)
        return None if found is None else found.end()
    if first not in (b"{", b"["):
        found = _WORD.match(data, start)
        return start if found is None else found.end()
    depth, position = 0, start
    while (found := _UP_TO_BRACKET.match(data, position)) is not None:
        position = found.end() + 1
        mark = data[position - 1 : position]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return position
        else:
            break  # the end of the data, or of a string, is not there yet
    return None
