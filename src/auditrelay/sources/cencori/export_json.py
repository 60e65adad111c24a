"""
Records of a JSON export, ``{"organization": ..., "exported_at": ..., "logs": [...]}``, one by one.

The records' texts are found, not decoded: what stands in one cannot cost the others, and the file
is never whole in memory. Strings are passed over whole, so that only brackets have to be counted.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field

from auditrelay.sources.cencori.feed import Feed, Unreadable

_BLANKS = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_UP_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_WORD = re.compile(rb"[^\s,\[\]{}\":]++")


@dataclass(slots=True)
class Export:
    """A JSON export: *told* is what stands beside the list, as far as it has been read."""

    told: dict[str, object] = field(default_factory=dict)

    def records(self, feed: Feed, key: str) -> Iterator[tuple[bytes, int]]:
        """
        Yield the text of each element of the list under *key*, and the line that it begins on.

        Raises Unreadable if the file is not an object with such a list, or does not end as one.
        """
        while len(feed.buffer) < len(BOM_UTF8) and feed.more():
            pass
        if feed.buffer.startswith(BOM_UTF8):
            feed.pass_over(len(BOM_UTF8))
        self._expect(feed, b"{")
        found = False
        if self._peek(feed) != b"}":
            while True:
                name = self._name(feed)
                self._expect(feed, b":")
                if name == key and not found and self._peek(feed) == b"[":
                    found = True
                    yield from self._elements(feed)
                else:
                    text, line = self._value(feed)
                    try:
                        self.told[name] = json.loads(text)
                    except (ValueError, RecursionError) as error:
                        raise Unreadable(
                            f"line {line}: a value is not JSON",
                            reason="not_an_export",
                        ) from error
                if self._peek(feed) != b",":
                    break
                self._expect(feed, b",")
        self._expect(feed, b"}")
        if self._peek(feed) != b"":
            raise Unreadable(
                f"line {feed.line}: something follows after the end of the JSON",
                reason="not_an_export",
            )
        if not found:
            raise Unreadable(f'it has no list "{key}"', reason="not_an_export")

    def _elements(self, feed: Feed) -> Iterator[tuple[bytes, int]]:
        self._expect(feed, b"[")
        if self._peek(feed) != b"]":
            while True:
                yield self._value(feed)
                if self._peek(feed) != b",":
                    break
                self._expect(feed, b",")
        self._expect(feed, b"]")

    def _peek(self, feed: Feed) -> bytes:
        """Return the next byte that is no blank, without passing it over; empty at the end."""
        while True:
            found = _BLANKS.match(feed.buffer, feed.place)
            feed.pass_over(feed.place if found is None else found.end())
            if feed.place < len(feed.buffer) or not feed.more():
                return feed.buffer[feed.place : feed.place + 1]

    def _expect(self, feed: Feed, mark: bytes) -> None:
        seen = self._peek(feed)
        if seen == mark:
            feed.pass_over(feed.place + 1)
            return
        if not seen:
            raise Unreadable(
                f"line {feed.line}: it breaks off before its end", reason="file_breaks_off"
            )
        raise Unreadable(
            f"line {feed.line}: {mark.decode()!r} is expected where {ascii(seen)[1:]} stands",
            reason="not_an_export",
        )

    def _name(self, feed: Feed) -> str:
        if self._peek(feed) not in (b'"', b""):
            self._expect(feed, b'"')
        text, line = self._value(feed)
        try:
            return str(json.loads(text))
        except ValueError as error:
            raise Unreadable(f"line {line}: a key is not JSON", reason="not_an_export") from error

    def _value(self, feed: Feed) -> tuple[bytes, int]:
        """Return the text of the value at the feed's place, and its line, and pass it over."""
        self._peek(feed)
        line = feed.line
        while (end := _end(feed.buffer, feed.place)) is None or (
            # A word may go on in the next piece.
            end == len(feed.buffer) and not feed.ended
        ):
            if not feed.more():
                raise Unreadable(
                    f"line {line}: it breaks off in the middle of a value", reason="file_breaks_off"
                )
        text = feed.buffer[feed.place : end]
        if not text:
            raise Unreadable(
                f"line {line}: a value is expected where "
                f"{ascii(feed.buffer[end : end + 1])[1:]} stands",
                reason="not_an_export",
            )
        feed.pass_over(end)
        return text, line


def _end(buffer: bytes, start: int) -> int | None:
    """Return where the value at *start* ends, None if it does not in this *buffer*."""
    first = buffer[start : start + 1]
    if first == b"":
        return None
    if first == b'"':
        found = _STRING.match(buffer, start)
        return None if found is None else found.end()
    if first not in (b"{", b"["):
        found = _WORD.match(buffer, start)
        return start if found is None else found.end()
    depth, place = 0, start
    while (found := _UP_TO_BRACKET.match(buffer, place)) is not None:
        place = found.end() + 1
        mark = buffer[place - 1 : place]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return place
        else:
            break  # the end of the buffer, or of a string, is not there yet
    return None
