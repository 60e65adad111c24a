"""How deeply JSON is nested, without decoding it."""

from typing import Final

_NOT_OPENING: Final = bytes(set(range(256)) - set(b"{["))
_ALIKE: Final = bytes.maketrans(b"{[}]", b"(())")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{[}]"))


def deeper_than(limit: int, text: bytes) -> bool:
    """Return whether JSON *text* is nested more than *limit* levels deep."""
    # There are at most as many levels as opening brackets: this settles most events.
    if len(text.translate(None, _NOT_OPENING)) <= limit:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(text.split(b'"')[::2])  # of texts, in which brackets mean nothing
    brackets = outside.translate(_ALIKE, _NO_BRACKETS)
    for _ in range(limit):  # each time the innermost pairs go
        brackets = brackets.replace(b"()", b"")
        if not brackets:
            return False
    return True
