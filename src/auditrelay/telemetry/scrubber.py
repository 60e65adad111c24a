"""Remove every configured secret from a text, in any encoding it may have there."""

import base64
import re
from collections.abc import Iterator

from auditrelay.settings.secrets import Secret

SHORT = 6
"""Secrets with fewer characters are replaced only where they are whole words, see Scrubber."""

STARS = "***"

_BASE64 = "A-Za-z0-9+/_-"

_UNPRINTABLE = re.compile(
    # C0, DEL, C1; zero width and direction marks; line separators; BOM; surrogates
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def _any_spelling(text: str) -> str:
    """
    Return a pattern for *text* in plain text, an address, JSON, HTML or a repr.

    Letters and digits are the same in all of them; every other character may be itself,
    percent-encoded, a JSON escape, an HTML entity, or follow a backslash.
    """
    parts = []
    for character in text:
        if character.isalnum() and character.isascii():
            parts.append(character)
            continue
        code = ord(character)
        spellings = [
            rf"\\?{re.escape(character)}",
            f"%{code:02x}",
            rf"\\u{code:04x}",
            f"&#0*{code};",
            f"&#x0*{code:x};",
        ]
        if character in _ENTITIES:
            spellings.append(_ENTITIES[character])
        if character == " ":
            spellings.append(r"\+")
        parts.append(f"(?:{'|'.join(spellings)})")
    return "".join(parts)


def _in_base64(secret: bytes) -> Iterator[tuple[str, str]]:
    """
    Yield the fixed part of *secret* in any base64 text that contains it, with a pattern for it.

    The text before it (the user name of Basic, the id of an Elasticsearch key) shifts it by 0, 1
    or 2 bytes. The characters at its ends also encode bits of the neighbours; they are left out of
    the fixed part and matched as any character.
    """
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret).decode()
        first, last = -(-shift * 8 // 6), (shift + len(secret)) * 8 // 6
        core = text[first:last]
        pattern = "".join(
            {"+": r"(?:[+-]|%2[Bb])", "/": r"(?:\\?/|_|%2[Ff])"}.get(character, character)
            for character in core
        )
        before = f"[{_BASE64}]" if shift else ""
        yield core, f"{before}{pattern}(?:[={_BASE64}]|%[23][BDFbdf])*"


def _anchor(text: str) -> str:
    """Return the longest run of letters and digits: these are the same in every encoding."""
    return max(re.findall("[A-Za-z0-9]+", text), key=len, default="").lower()


class Scrubber:
    """
    Replaces every secret that it has learned by stars, in any encoding.

    A secret is found as it is, in addresses, JSON, HTML and reprs, and inside base64 text (so
    ``user:password`` is found in an ``Authorization: Basic`` too). A secret of fewer than ``SHORT``
    characters would match in ordinary text: it is replaced only where no letter or digit is next
    to it, and not in base64.
    """

    def __init__(self) -> None:
        self._secrets: list[Secret] = []
        self._known: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
        self._longest = 0

    def learn(self, *secrets: Secret) -> None:
        """Hide *secrets* from now on: their values now, and those after they are read again."""
        self._secrets.extend(secrets)

    def scrub(self, text: str, limit: int = 500) -> str:
        """
        Return *text* without secrets and control characters, cut to *limit* characters.

        Every text of a peer passes through here before it is shown or stored.
        """
        return escape(self.hide(text, limit), limit)

    def hide(self, text: str, limit: int) -> str:
        """Return the first *limit* characters of *text*, or a few more, without secrets."""
        for secret in self._secrets:
            if secret.reveal() not in self._known:
                self._add(secret.reveal())
        # A secret across the cut must be matched whole, or its first part would stay.
        room = limit + 1 + self._longest
        cut = len(text) > room
        text = text[:room]
        lowered = text.lower()
        for forms in self._known.values():
            for anchor, pattern in forms:
                if anchor in lowered:
                    text = pattern.sub(STARS, text)
        return text[: -self._longest or None] if cut else text

    def _add(self, value: str) -> None:
        plain = _any_spelling(value)
        if len(value) < SHORT:
            plain = f"(?<![A-Za-z0-9]){plain}(?![A-Za-z0-9])"
        forms = [(_anchor(value), re.compile(plain, re.IGNORECASE))]
        if len(value) >= SHORT:
            forms.extend(
                (_anchor(core), re.compile(pattern)) for core, pattern in _in_base64(value.encode())
            )
        self._known[value] = forms
        # The longest spelling of a character is an entity, ``&#x0022;``.
        self._longest = max(self._longest, 8 * len(value))


def escape(text: str, limit: int) -> str:
    """Return *text* with control characters made visible, cut to *limit* characters."""
    text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


scrubber = Scrubber()
"""The one instance, used by the log and all others; it learns the configuration's secrets."""

scrub = scrubber.scrub
