"""Remove every secret from a text, in any encoding it may have there, and also its parts."""

import re
from collections import deque
from collections.abc import Iterator

from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.spellings import (
    GRAM,
    Spelling,
    View,
    end_of_base64,
    folded,
    is_part,
    parts,
    spellings,
    views,
)

SHORT = 6
"""Secrets with fewer characters are replaced only where they are whole words, see Scrubber."""

STARS = "***"

MAX_RENEWED = 64
"""Most secrets from replies that are remembered: older ones are not valid any more."""

_UNPRINTABLE = re.compile(
    # C0, DEL, C1; zero width and direction marks; line separators; BOM; surrogates
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


class Scrubber:
    """
    Replaces every secret that it has learned by stars, in any encoding, and what is left of one.

    A secret is found as it is, in addresses, JSON, HTML and reprs, in hex, and inside base64 text
    (so ``user:password`` is found in an ``Authorization: Basic`` too); also if it is broken into
    lines or cut off, as long as 8 characters are left, or 16 where they could be ordinary words.
    The parts of a secret are secrets as well: each cookie, each half of ``id:key``. A secret of
    fewer than ``SHORT`` characters would match in ordinary text: it is replaced only where no
    letter or digit is next to it, and only as it is.

    The time that it takes grows with the text, and not with the number of secrets.
    """

    def __init__(self) -> None:
        self._secrets: list[Secret] = []
        self._renewed: deque[str] = deque()
        self._known: dict[str, list[tuple[str, Spelling, bool]]] = {}
        """By secret: the grams that lead to it, and whether they are at the end of a spelling."""
        self._grams: dict[str, dict[tuple[Spelling, bool], None]] = {}
        self._short: dict[str, re.Pattern[str]] = {}
        self._longest = 0

    def learn(self, *secrets: Secret) -> None:
        """Hide *secrets* from now on: their values now, and those after they are read again."""
        self._secrets.extend(secrets)

    def learn_renewed(self, *values: str, whole: bool = False) -> None:
        """
        Hide *values*, which a peer has given us in the place of a secret, or we have made.

        Not one that could be an ordinary word: a peer must not choose what the log leaves out.
        Those that are a *whole* have no secrets inside of them: the claims of a JWT are ids and
        addresses, which stay readable where they stand alone.
        """
        for value in values:
            if value not in self._known and is_part(value):
                self._renewed.append(value)
                self._add(value, whole=whole)
        while len(self._renewed) > MAX_RENEWED:
            self._remove(self._renewed.popleft())

    def scrub(self, text: str, limit: int = 500) -> str:
        """
        Return *text* without secrets and control characters, cut to *limit* characters.

        Every text of a peer passes through here before it is shown or stored.
        """
        return escape(self.hide(text, limit), limit)

    def hide(self, text: str, limit: int) -> str:
        """Return the first *limit* characters of *text*, or a few more, without secrets."""
        for secret in self._secrets:
            for value in secret.hidden:
                if value not in self._known and value not in self._short:
                    self._add(value)
        # A secret across the cut must be matched whole, or its first part would stay.
        room = limit + 1 + self._longest
        cut = len(text) > room
        text = text[:room]
        places = {place for view in views(text) for place in self._places(view)}
        if places:
            text = _starred(text, places)
        return text[: -self._longest or None] if cut else text

    def _places(self, view: View) -> Iterator[tuple[int, int]]:
        """Yield where secrets are in *view*, each from its start to its end."""
        for short in self._short.values():
            for word in short.finditer(view.text):
                yield view.span(*word.span())
        low = folded(view.text)
        hidden = base64_end = 0
        for at in range(len(low) - GRAM + 1):
            if at + GRAM <= hidden:
                continue
            for spelling, from_end in self._grams.get(low[at : at + GRAM], ()):
                text = view.text if spelling.exact else low
                place = spelling.found(text, at, from_end=from_end)
                if place is None:
                    continue
                start, end = place
                if spelling.exact:
                    if end > base64_end:
                        base64_end = end_of_base64(text, end)
                    start, end = max(0, start - spelling.before), base64_end
                yield view.span(start, end)
                hidden = max(hidden, end)

    def _add(self, value: str, *, whole: bool = False) -> None:
        if len(value) < SHORT:
            pattern = f"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])"
            self._short[value] = re.compile(pattern, re.IGNORECASE)
            return
        known = self._known[value] = []
        for each in (value, *(() if whole else sorted(parts(value)))):
            for spelling in spellings(each):
                low = folded(spelling.text)
                known += [(low[:GRAM], spelling, False), (low[-GRAM:], spelling, True)]
        self._index(known)
        # The longest spelling of a character is an entity, ``&#x0022;``.
        self._longest = max(self._longest, 8 * len(value))

    def _remove(self, value: str) -> None:
        self._known.pop(value, None)
        self._grams = {}
        for known in self._known.values():
            self._index(known)

    def _index(self, known: list[tuple[str, Spelling, bool]]) -> None:
        for gram, spelling, from_end in known:
            self._grams.setdefault(gram, {})[spelling, from_end] = None


def _starred(text: str, places: set[tuple[int, int]]) -> str:
    """Return *text* with stars in the *places*; one group of them for places that overlap."""
    kept: list[str] = []
    at = 0
    for start, end in sorted(places):
        if start > at or not kept:
            kept += [text[at:start], STARS]
        at = max(at, end)
    return "".join((*kept, text[at:]))


def escape(text: str, limit: int) -> str:
    """Return *text* with control characters made visible, cut to *limit* characters."""
    text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


scrubber = Scrubber()
"""The one instance, used by the log and all others; it learns the configuration's secrets."""

scrub = scrubber.scrub
