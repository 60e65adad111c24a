"""
Cut the body of a page into the texts of its records, whatever is in the records.

For a page that no JSON decoder reads as a whole: a record has a lone surrogate, thousands of levels
or digits, bytes that are no UTF-8. The records are located and not decoded, without recursion, so
that an odd one costs none of those beside it a byte; how it is read itself is decided later, by
``events``.
"""

import json
import re
from collections.abc import Sequence

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(_STRING + rb"?|[\[\]{}:,]", re.DOTALL)
"""A text, also one that does not end: looking for its end from each quote would take for ever."""
_BRACKET = re.compile(rb"(?:[^\"\[\]{}]++|" + _STRING + rb")*+([\[\]{}])", re.DOTALL)
_BLANKS = b" \t\r\n"


def cut(body: bytes, path: Sequence[str]) -> tuple[bytes, list[bytes] | None]:
    """
    Return *body* with an empty list under *path*, and the texts of the records in that list.

    Without a *path* the body is the list. The texts are None if there is no such list. Raises
    ValueError if the list does not end, or has nothing between two commas.
    """
    body = _as_utf8(body)
    found = _start(body, [json.dumps(key).encode() for key in path])
    if found is None:
        return body, None
    records: list[bytes] = []
    start = position = found
    while (token := _TOKEN.search(body, position)) is not None:
        mark = token[0]
        position = token.end()
        if mark in (b"[", b"{"):
            position = _end(body, position)
        elif mark in (b",", b"]"):
            records.append(body[start : token.start()].strip(_BLANKS))
            start = position
            if mark == b"]":
                if records == [b""]:
                    records = []
                if b"" in records:
                    raise ValueError("nothing stands between two commas")
                return body[:found] + body[position - 1 :], records
        elif mark == b"}":
            break
    raise ValueError("the list does not end")


def _start(body: bytes, path: Sequence[bytes]) -> int | None:
    """Return where the list under the keys of *path* begins, behind its bracket."""
    position = depth = 0  # depth: how many keys of the path have been entered
    name = key = b""
    while (token := _TOKEN.search(body, position)) is not None:
        mark, position = token[0], token.end()
        if mark == b":":
            key = name
        elif mark == b",":
            key = b""
        elif mark in (b"[", b"{"):
            inside = key == path[depth - 1] if depth else mark == (b"{" if path else b"[")
            if inside and mark == b"[" and depth == len(path):
                return position
            if inside and mark == b"{" and depth < len(path):
                depth, key = depth + 1, b""
            else:
                position = _end(body, position)
        elif mark in (b"]", b"}"):
            return None
        else:
            name = mark
    return None


def _end(body: bytes, position: int) -> int:
    """Return where the value ends whose bracket is just before *position*."""
    depth = 1
    while depth:
        found = _BRACKET.match(body, position)
        if found is None:
            raise ValueError("a value does not end")
        position = found.end()
        depth += 1 if found[1] in (b"[", b"{") else -1
    return position


def _as_utf8(body: bytes) -> bytes:
    """Return *body*, which may be in any UTF, in UTF-8 and without a mark of its byte order."""
    encoding = json.detect_encoding(body)
    if encoding.startswith("utf-8"):
        return body.removeprefix(b"\xef\xbb\xbf")
    return body.decode(encoding, "replace").encode("utf-8", "replace")
