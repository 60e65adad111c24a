"""How deeply JSON is nested, without decoding it."""

import re

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{\[]|[}\]]', re.DOTALL)

_NOT_OPENING = bytes(set(range(256)) - set(b"{["))


def deeper_than(limit: int, text: bytes) -> bool:
    """Return whether JSON *text* is nested more than *limit* levels deep."""
    # There are at most as many levels as opening brackets: this settles most events.
    if len(text.translate(None, _NOT_OPENING)) <= limit:
        return False
    depth = 0
    for token in _TOKEN.findall(text):
        if token in (b"{", b"["):
            depth += 1
            if depth > limit:
                return True
        elif token in (b"}", b"]"):
            depth -= 1
    return False
