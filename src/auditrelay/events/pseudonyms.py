"""
Pseudonymise identities: the SIEM can correlate a person without naming them.

A pseudonym is a keyed hash: the same value has the same pseudonym in every event, and without the
key it cannot be reversed by trying values.
"""

import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Target
from auditrelay.events.decode import decode, encode
from auditrelay.events.redact import MARK
from auditrelay.settings.values import IdentityField

MIN_SUBSTRING_LENGTH = 5
"""A shorter value, such as a small number, is replaced only as a separate word."""

_TEXTS = (
    "native_id",
    "native_action",
    "native_category",
    "org_id",
    "org_name",
    "project_id",
    "project_name",
    "privilege",
    "reason",
    "message",
)


def pseudonym(key: bytes, value: str) -> str:
    """Return the pseudonym of *value*: ``p_`` and 24 hex digits of its HMAC-SHA256."""
    return f"p_{hmac.digest(key, value.encode(), 'sha256').hex()[:24]}"


class Pseudonyms:
    """
    Replaces the values of *fields* wherever they occur in an event.

    A value is found in every text, whole or as a substring, in upper or lower case, and
    percent-encoded; one shorter than :data:`MIN_SUBSTRING_LENGTH` only as a separate word. Numbers
    with the same digits are replaced as well. Other representations (half a name, a hash) are not
    found, nor anything in a record that could not be parsed.

    The digest of the record is keyed, too: else anyone who knows the rest of a record could try
    values until the digest matches.
    """

    def __init__(self, key: str, fields: Sequence[IdentityField]) -> None:
        self._key = key.encode()
        self._fields = [field.partition(".")[::2] for field in fields]

    def __call__(self, event: AuditEvent) -> AuditEvent:
        """Return *event* with pseudonyms; its uid does not change."""
        found = {getattr(getattr(event, part), name) for part, name in self._fields}
        values = frozenset(value for value in found if value and value != MARK)
        if not values:
            return event
        replacer = _replacer(self._key, values)
        actor, target = event.actor, event.target
        return msgspec.structs.replace(
            event,
            actor=Actor(
                actor.kind, *[replacer.text(part) for part in msgspec.structs.astuple(actor)[1:]]
            ),
            target=Target(*[replacer.text(part) for part in msgspec.structs.astuple(target)]),
            changes=tuple(
                Change(
                    replacer.text(each.field) or "",
                    replacer.json(each.before),
                    replacer.json(each.after),
                )
                for each in event.changes
            ),
            metadata=replacer.raw(event.metadata),
            unmapped=replacer.raw(event.unmapped),
            raw=replacer.raw(event.raw),
            raw_sha256=hmac.digest(self._key, event.raw_sha256.encode(), "sha256").hex(),
            **{name: replacer.text(getattr(event, name)) for name in _TEXTS},
        )


class _Replacer:
    """Replaces *values* in texts and JSON."""

    def __init__(self, key: bytes, values: frozenset[str]) -> None:
        self._key = key
        self._pseudonyms: dict[str, str] = {}
        for value in sorted(values):
            for spelling in (value, quote(value, safe="")):
                self._pseudonyms.setdefault(spelling.lower(), pseudonym(key, value))
        # The longest first: a name may be a part of an email address.
        spellings = sorted(self._pseudonyms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, spellings)), re.IGNORECASE)

    def text(self, text: str | None) -> str | None:
        return self._pattern.sub(self._replacement, text) if text else text

    def _replacement(self, found: re.Match[str]) -> str:
        # IGNORECASE matches more than lower() makes equal.
        return self._pseudonyms.get(found[0].lower()) or pseudonym(self._key, found[0])

    def json(self, text: str | None) -> str | None:
        """Replace in a JSON text; a shortened one is no JSON, and is treated as plain text."""
        if text is None:
            return None
        try:
            return bytes(self.raw(msgspec.Raw(text.encode()))).decode()
        except ValueError:
            return self.text(text)

    def raw(self, text: msgspec.Raw) -> msgspec.Raw:
        if text == NOTHING:
            return text
        return msgspec.Raw(encode(self._replace_in(decode(bytes(text)).value)))

    def _replace_in(self, node: Any) -> Any:
        kind = type(node)
        if kind is str:
            return self.text(node)
        if kind is int:
            return self._pseudonyms.get(str(node), node)
        if kind is dict:
            return {self.text(key): self._replace_in(value) for key, value in node.items()}
        if kind is list:
            return [self._replace_in(value) for value in node]
        return node


def _pattern(spelling: str) -> str:
    escaped = re.escape(spelling)
    return escaped if len(spelling) >= MIN_SUBSTRING_LENGTH else rf"(?<!\S){escaped}(?!\S)"


@lru_cache(maxsize=1024)
def _replacer(key: bytes, values: frozenset[str]) -> _Replacer:
    return _Replacer(key, values)
