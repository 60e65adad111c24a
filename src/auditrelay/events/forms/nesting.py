"""How deeply JSON is nested, without decoding it."""

from collections.abc import Sequence
from typing import Final

_NO_MARKS: Final = bytes(set(range(256)) - set(b'"{[}]'))
_ALIKE: Final = bytes.maketrans(b"{[}]", b"(())")


def deeper_than(limit: int, text: bytes) -> bool:
    """Return whether JSON *text* is nested more than *limit* levels deep."""
    return any_deeper_than(limit, [text])


def any_deeper_than(limit: int, texts: Sequence[bytes]) -> bool:
    """Return whether one of JSON *texts* is nested more than *limit* levels deep."""
    # There are at most as many levels as opening brackets: this settles most events.
    text = b"".join([each for each in texts if each.count(b"{") + each.count(b"[") > limit])
    if not text:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = text.translate(None, _NO_MARKS)
    brackets = marks.replace(b'""', b"")  # of texts, in which brackets mean nothing
    if b'"' in brackets:  # there are some in a text
        brackets = b"".join(marks.split(b'"')[::2])
    brackets = brackets.translate(_ALIKE)
    for _ in range(limit):  # each time the innermost pairs go
        brackets = brackets.replace(b"()", b"")
        if not brackets:
            return False
    return bool(brackets)
