"""
The spellings of a secret in a text: in addresses, JSON, HTML, reprs, hex, base64; whole or cut off.

What escapes single characters is undone, as often as it was done, by :func:`views`, and so are the
breaks of lines. What hides a text as a whole (hex, base64) cannot be undone without knowing where
it begins, so a secret is spelt like that instead, by :func:`spellings`.
"""

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

GRAM = 6
"""Characters by which a spelling is recognised."""

PARTIAL = 8
"""Fewest characters of a secret that are hidden where the rest is cut off, or stands elsewhere."""

_PARTIAL_WORD = 16
"""The same of characters that could be an ordinary word or number."""

_MAX_TWICE = 512
"""Characters of the longest secret that is looked for in base64 of base64: it takes memory."""

_MAX_ROUNDS = 5
"""How often characters may be escaped, in one way or another; no peer does so even thrice."""

_ESCAPED = re.compile(
    r"%(?P<percent>[0-9A-Fa-f]{2})|\\u(?P<json>[0-9A-Fa-f]{4})|\\x(?P<repr>[0-9A-Fa-f]{2})"
    r"|&#[xX]0{0,6}(?P<hexadecimal>[0-9A-Fa-f]{1,4});|&#0{0,6}(?P<decimal>\d{1,5});"
    r"|&(?P<entity>amp|lt|gt|quot|apos);|\\(?P<escape>[^ux])",
    re.ASCII | re.DOTALL,
)
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_BREAK = re.compile(r"[\r\n]+[ \t]*")

_FOLDED = str.maketrans(
    {**{chr(code): chr(code + 32) for code in range(65, 91)}, "+": " "}  # + is a space in a query
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*=*")


def folded(text: str) -> str:
    """Return *text* in small letters, character by character: it does not become longer."""
    return text.translate(_FOLDED)


class View:
    """
    A text with something replaced in it, and where each character of it was before.

    Character *n* was written as the characters from ``starts[n]`` to ``ends[n]``.
    """

    def __init__(self, text: str, starts: Sequence[int], ends: Sequence[int]) -> None:
        self.text = text
        self._starts = starts
        self._ends = ends

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where the characters from *start* to *end* were written."""
        return self._starts[start], self._ends[end - 1]

    def replaced(self, pattern: re.Pattern[str], by: Callable[[re.Match[str]], str]) -> "View":
        """Return the text with a character, or nothing, *by* which each match is replaced."""
        text: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for found in pattern.finditer(self.text):
            text.append(self.text[at : found.start()])
            starts += self._starts[at : found.start()]
            ends += self._ends[at : found.start()]
            at = found.end()
            if character := by(found):
                text.append(character)
                starts.append(self._starts[found.start()])
                ends.append(self._ends[at - 1])
        if not at:
            return self
        return View(
            "".join((*text, self.text[at:])),
            [*starts, *self._starts[at:]],
            [*ends, *self._ends[at:]],
        )


def views(text: str) -> Iterator[View]:
    """Yield *text* as it is, and with its escapes undone once, twice... each in one line."""
    view = View(text, range(len(text)), range(1, len(text) + 1))
    for _ in range(_MAX_ROUNDS):
        yield view.replaced(_BREAK, lambda _found: "")
        before, view = view, view.replaced(_ESCAPED, _unescaped)
        if view is before:
            return


def _unescaped(found: re.Match[str]) -> str:
    kind = found.lastgroup
    value = found[kind or 0]
    if kind == "entity":
        return _ENTITIES[value]
    if kind == "escape":
        return _ESCAPES.get(value, value)
    return chr(int(value, 10 if kind == "decimal" else 16))


@dataclass(frozen=True, slots=True)
class Spelling:
    """
    One spelling of a secret.

    It is recognised by its first *head* characters, or its last *tail*; by all of it, if it has no
    more. With *exact* capitals matter: it is base64, in which *before* is how many characters
    before it belong to it in part, as does all that follows.
    """

    text: str
    head: int
    tail: int
    exact: bool = False
    before: int = 0

    def found(self, plain: str, at: int, *, from_end: bool) -> tuple[int, int] | None:
        """
        Return where in *plain* it stands, whole or cut off, or None.

        At *at* is its first gram, or its last one if it is to be matched *from_end*.
        """
        if from_end:
            end = at + GRAM
            room = plain[max(0, end - len(self.text)) : end]
            length = _common(room[::-1], self.text[::-1])
            start, least = end - length, self.tail
        else:
            length = _common(plain[at : at + len(self.text)], self.text)
            start, end, least = at, at + length, self.head
        return None if length < least else (start, end)


def end_of_base64(text: str, at: int) -> int:
    """Return where the base64 text ends that goes on at *at*."""
    found = _BASE64.match(text, at)
    return at if found is None else found.end()


def _common(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # halved, as a loop over characters takes much longer
        middle = (low + high + 1) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low


def spellings(secret: str) -> Iterator[Spelling]:
    """Yield the spellings of *secret*, which has at least GRAM characters."""
    size = len(secret)
    head, tail = min(least(secret), size), min(least(secret[::-1]), size)
    yield Spelling(folded(secret), head, tail)
    content = secret.encode()
    yield Spelling(content.hex(), head * 2, tail * 2)
    for alphabet in (None, b"-_"):
        for once in _in_base64(content, head, tail, alphabet):
            yield once
            if size <= _MAX_TWICE:
                yield from _in_base64(once.text.encode(), once.head, once.tail, alphabet)


def _in_base64(content: bytes, head: int, tail: int, alphabet: bytes | None) -> Iterator[Spelling]:
    """
    Yield the fixed part of *content* in any base64 text that contains it.

    The text before it (the user name of Basic, the id of an Elasticsearch key) shifts it by 0, 1
    or 2 bytes. The characters at its ends also encode bits of the neighbours; they are left out.
    """
    size = len(content)
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + content, alphabet).decode()
        first, last = -(-shift * 8 // 6), (shift + size) * 8 // 6
        core = text[first:last]
        if len(core) >= GRAM:
            yield Spelling(
                core,
                max(GRAM, (shift + head) * 8 // 6 - first),
                max(GRAM, last - -(-(shift + size - tail) * 8 // 6)),
                exact=True,
                before=bool(shift),
            )


def least(text: str) -> int:
    """Return how many characters of *text*, from its beginning, are seen not to be ordinary."""
    for length in range(PARTIAL, _PARTIAL_WORD):
        if is_random(text[:length]):
            return length
    return _PARTIAL_WORD


def is_random(text: str) -> bool:
    """Return whether *text* is no word, number, date or name: it has letters and digits mixed."""
    letters = len(re.findall("[A-Za-z]", text))
    digits = len(re.findall("[0-9]", text))
    return letters >= 3 and digits >= 1 and letters + digits >= PARTIAL - 2


def parts(secret: str) -> set[str]:
    """
    Return the parts of *secret* that are secrets themselves.

    They are the halves of ``id:key``, also in base64 (Elasticsearch, Basic), the values of cookies,
    the parts of a JWT, and the tokens of a session in base64. A part that may be an ordinary word
    is none, but for a long half.
    """
    found = set(re.split(r"[\s;,:=.]+", secret))
    halves = set(_halves(secret))
    for piece in tuple(found):
        content = _decoded(piece)
        halves.update(_halves(content))
        found.update(re.split(r"[^\w~+/-]+", content, flags=re.ASCII))
    found = {piece for piece in found | halves if is_part(piece)}
    return (found | {half for half in halves if len(half) >= _PARTIAL_WORD}) - {secret}


def is_part(text: str) -> bool:
    """Return whether *text* alone is seen to be a secret: it is long enough, and no word."""
    return len(text) >= PARTIAL and is_random(text)


def _halves(text: str) -> tuple[str, ...]:
    """Return id and key of *text* if it is such a pair."""
    found = re.fullmatch(r"([^:;={}\s]+):([^;{}\s]+)", text)
    return () if found is None else found.groups()


def _decoded(piece: str) -> str:
    """Return the text that *piece* is in base64, also if its end is cut off; else nothing."""
    text = piece.removeprefix("base64-").replace("-", "+").replace("_", "/")
    text = text[:-1] if len(text) % 4 == 1 else text
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode("ascii")
    except ValueError:
        return ""
    return decoded if decoded.isprintable() else ""
