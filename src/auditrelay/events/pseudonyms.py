"""
Replacing who somebody is by a pseudonym, so that a SIEM can follow them and not name them.

A pseudonym is made of the value with a key: the same value has the same one in every event, and
without the key nobody can try out values to find whose it is.
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

SHORT = 5
"""Fewer characters than this, such as those of a small number, are replaced standing alone only."""

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
    """Return what stands for *value*: ``p_`` and 24 hex digits of its HMAC-SHA256."""
    return f"p_{hmac.digest(key, value.encode(), 'sha256').hex()[:24]}"


class Pseudonyms:
    """
    Replaces the values of *fields* wherever an event holds them.

    A value is found in every text, as a whole and inside of it, in capital letters or small ones,
    and percent-encoded; one of fewer than :data:`SHORT` characters only where it stands alone.
    Numbers that read like it are replaced as well. What an event holds in another disguise (half a
    name, a hash) is not found, nor anything in a record that could not be understood.

    The digest of the record is keyed, too: else whoever knows the rest of a record could try out
    values until the digest fits.
    """

    def __init__(self, key: str, fields: Sequence[IdentityField]) -> None:
        self._key = key.encode()
        self._places = [field.partition(".")[::2] for field in fields]

    def __call__(self, event: AuditEvent) -> AuditEvent:
        """Return *event* with pseudonyms; its uid stays."""
        found = {getattr(getattr(event, part), name) for part, name in self._places}
        values = frozenset(value for value in found if value and value != MARK)
        if not values:
            return event
        swap = _swap(self._key, values)
        actor, target = event.actor, event.target
        return msgspec.structs.replace(
            event,
            actor=Actor(
                actor.kind, *[swap.text(part) for part in msgspec.structs.astuple(actor)[1:]]
            ),
            target=Target(*[swap.text(part) for part in msgspec.structs.astuple(target)]),
            changes=tuple(
                Change(swap.text(each.field) or "", swap.json(each.before), swap.json(each.after))
                for each in event.changes
            ),
            metadata=swap.raw(event.metadata),
            unmapped=swap.raw(event.unmapped),
            raw=swap.raw(event.raw),
            raw_sha256=hmac.digest(self._key, event.raw_sha256.encode(), "sha256").hex(),
            **{name: swap.text(getattr(event, name)) for name in _TEXTS},
        )


class _Swap:
    """Replaces *values* in texts and JSON."""

    def __init__(self, key: bytes, values: frozenset[str]) -> None:
        self._key = key
        self._by: dict[str, str] = {}
        for value in sorted(values):
            for spelling in (value, quote(value, safe="")):
                self._by.setdefault(spelling.lower(), pseudonym(key, value))
        # The longest first: a name may be a part of an address.
        spellings = sorted(self._by, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, spellings)), re.IGNORECASE)

    def text(self, text: str | None) -> str | None:
        return self._pattern.sub(self._instead, text) if text else text

    def _instead(self, found: re.Match[str]) -> str:
        # Ignoring case finds more than lower() makes alike.
        return self._by.get(found[0].lower()) or pseudonym(self._key, found[0])

    def json(self, text: str | None) -> str | None:
        """Replace in a JSON text; one that was cut is no JSON, and is taken as it stands."""
        if text is None:
            return None
        try:
            return bytes(self.raw(msgspec.Raw(text.encode()))).decode()
        except ValueError:
            return self.text(text)

    def raw(self, text: msgspec.Raw) -> msgspec.Raw:
        if text == NOTHING:
            return text
        return msgspec.Raw(encode(self._inside(decode(bytes(text)).value)))

    def _inside(self, node: Any) -> Any:
        kind = type(node)
        if kind is str:
            return self.text(node)
        if kind is int:
            return self._by.get(str(node), node)
        if kind is dict:
            return {self.text(key): self._inside(value) for key, value in node.items()}
        if kind is list:
            return [self._inside(value) for value in node]
        return node


def _pattern(spelling: str) -> str:
    escaped = re.escape(spelling)
    return escaped if len(spelling) >= SHORT else rf"(?<!\S){escaped}(?!\S)"


@lru_cache(maxsize=1024)
def _swap(key: bytes, values: frozenset[str]) -> _Swap:
    return _Swap(key, values)
