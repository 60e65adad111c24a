"""How deeply JSON is nested, told from its text."""

import re

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{\[]|[}\]]', re.DOTALL)


def deeper_than(limit: int, text: bytes) -> bool:
    """Return whether JSON *text* nests its values in more than *limit* levels."""
    # There cannot be more levels than brackets that open one: enough for most events.
    if text.count(b"{") + text.count(b"[") <= limit:
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
