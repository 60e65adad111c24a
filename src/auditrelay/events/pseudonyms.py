"""
Pseudonymise identities: the SIEM can correlate a person without naming them.

A pseudonym is a keyed hash: the same value has the same pseudonym in every event, and without the
key it cannot be reversed by trying values.
"""

import base64
import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec

from auditrelay.events import NOTHING, Actor, AuditEvent, Change, Target
from auditrelay.events.addresses import client_ip, is_email, is_ip
from auditrelay.events.decode import Undecodable, decode, encode
from auditrelay.events.marks import NOT_NORMALIZED
from auditrelay.events.secret_texts import MARK
from auditrelay.settings.values import IdentityField

MIN_SUBSTRING_LENGTH = 5
"""A shorter value, such as a small number, is replaced only as a separate word."""

_MAX_LENGTH: Final = 64
"""
Characters of a value that are compared. What follows up to a blank is replaced with them: the time
that a search takes grows with both lengths.
"""
_MAX_NESTING: Final = 4
"""JSON texts in each other that are decoded; deeper ones are searched as texts."""

_EMAILS: Final = (
    r"(?<![\w.+'-])[\w.+'-]{1,64}+(?:@|%(?:25){0,2}40)"
    r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}+"
)
_IPS: Final = (
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)|(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)"
    r"[0-9A-Fa-f:]{2,39}+(?:\.\d{1,3}){0,3}(?![\w:])"
)

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
    """
    Return the pseudonym of *value*: ``p_`` and 24 hex digits of its HMAC-SHA256.

    Email addresses that differ in case, or by a tag behind a plus, are one person's.
    """
    if is_email(value):
        local, _, domain = value.lower().rpartition("@")
        value = f"{local.partition('+')[0] or local}@{domain}"
    return f"p_{hmac.digest(key, value.encode(), 'sha256').hex()[:24]}"


class Pseudonyms:
    """
    Replaces the values of *fields* wherever they occur in an event.

    A value is found in every text, whole or as a substring, in upper or lower case,
    percent-encoded up to twice, in base64, and in JSON within a text however it is escaped; one
    shorter than :data:`MIN_SUBSTRING_LENGTH` only as a separate word. Numbers with the same digits
    are replaced as well. Where an email or IP address is to be replaced, everything that looks like
    one is, whatever the key, but for the event's own values in fields that are not among *fields*.
    A record that is not understood is replaced as a whole. Other representations (half a name, a
    hash) are not found.

    A value has one pseudonym in all fields and sources with the same *key*, so that a person can be
    followed from actor to target; sources with different keys cannot be linked.

    The digest of the record is keyed, too: else anyone who knows the rest of a record could try
    values until the digest matches.
    """

    def __init__(self, key: str, fields: Sequence[IdentityField]) -> None:
        self._key = key.encode()
        self._fields: list[tuple[str, ...]] = [tuple(field.split(".")) for field in fields]
        self._others = [
            each
            for each in (("actor", "email"), ("target", "email"), ("actor", "ip"))
            if each not in self._fields
        ]
        names = {name for _, name in self._fields}
        self._kinds = (
            *([_EMAILS] if "email" in names else []),
            *([_IPS] if "ip" in names else []),
        )

    def __call__(self, event: AuditEvent) -> AuditEvent:
        """Return *event* with pseudonyms; its uid does not change."""
        if NOT_NORMALIZED in event.warnings:
            return self._whole(event)
        found = {getattr(getattr(event, part), name) for part, name in self._fields}
        if ("actor", "ip") in self._fields:
            found.add(event.actor.address)
        values = frozenset(value for value in found if value and value != MARK)
        if not values and not self._kinds:
            return event
        kept = frozenset(
            value.lower()
            for part, name in self._others
            if (value := getattr(getattr(event, part), name))
        )
        replacer = _replacer(self._key, values, self._kinds, kept - values)
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
            raw_sha256=self._digest(event),
            redacted=tuple([replacer.text(path) or "" for path in event.redacted]),
            **{name: replacer.text(getattr(event, name)) for name in _TEXTS},
        )

    def _whole(self, event: AuditEvent) -> AuditEvent:
        """Return *event*, whose record is not understood, with a pseudonym of all of it."""
        raw = pseudonym(self._key, bytes(event.raw).decode())
        return msgspec.structs.replace(
            event, raw=msgspec.Raw(encode(raw)), raw_sha256=self._digest(event)
        )

    def _digest(self, event: AuditEvent) -> str:
        return hmac.digest(self._key, event.raw_sha256.encode(), "sha256").hex()


class _Replacer:
    """Replaces *values*, and what looks like one of *kinds* but is not *kept*."""

    def __init__(
        self, key: bytes, values: frozenset[str], kinds: Sequence[str], kept: frozenset[str]
    ) -> None:
        self._key = key
        self._kept = kept
        self._pseudonyms: dict[str, str] = {}
        for value in sorted(values):
            for spelling in _spellings(value):
                self._pseudonyms.setdefault(spelling.lower(), pseudonym(key, value))
        # The longest first: a name may be a part of an email address.
        spellings = sorted(self._pseudonyms, key=len, reverse=True)
        patterns = [*map(_pattern, spellings), *kinds]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE)

    def text(self, text: str | None) -> str | None:
        return self._nested(text, 0) if text else text

    def _replacement(self, found: re.Match[str]) -> str:
        text = found[0]
        known = self._pseudonyms.get(text.lower()[:_MAX_LENGTH])
        if known:
            return known
        if text.lower() in self._kept or (":" in text and not is_ip(text) and not client_ip(text)):
            return text
        # IGNORECASE matches more than lower() makes equal.
        return pseudonym(self._key, _AT.sub("@", text))

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

    def _replace_in(self, node: Any, nesting: int = 0) -> Any:
        kind = type(node)
        if kind is str:
            return self._nested(node, nesting)
        if kind is int:
            return self._pseudonyms.get(str(node), node)
        if kind is dict:
            return {self.text(key): self._replace_in(value, nesting) for key, value in node.items()}
        if kind is list:
            return [self._replace_in(value, nesting) for value in node]
        return node

    def _nested(self, text: str, nesting: int) -> str:
        """Replace in *text*; if it is JSON, in its values, which may be escaped there."""
        if "\\u" in text and nesting < _MAX_NESTING and text.lstrip()[:1] in ("{", "[", '"'):
            try:
                value = decode(text.encode()).value
            except Undecodable:
                pass
            else:
                return encode(self._replace_in(value, nesting + 1)).decode()
        return self._pattern.sub(self._replacement, text)


_AT: Final = re.compile("%(?:25)*40")


def _spellings(value: str) -> list[str]:
    """Return how *value* may be written in a text, each at most as long as is compared."""
    quoted = quote(value, safe="")
    found = [value, quoted, quote(quoted, safe="")]
    if len(value) >= MIN_SUBSTRING_LENGTH:
        for each in (value, value.lower()):
            whole = base64.b64encode(each.encode()).decode()
            found.append(whole[: len(each.encode()) * 4 // 3])  # no bits of what follows
    return [each[:_MAX_LENGTH] for each in found]


def _pattern(spelling: str) -> str:
    escaped = re.escape(spelling)
    if len(spelling) < MIN_SUBSTRING_LENGTH:
        return rf"(?<!\S){escaped}(?!\S)"
    if len(spelling) == _MAX_LENGTH:
        return rf"{escaped}\S*+"
    local, at, domain = escaped.rpartition("@")
    return rf"{local}(?:\+[^\s@]{{1,64}}+)?{at}{domain}" if at else escaped


@lru_cache(maxsize=1024)
def _replacer(
    key: bytes, values: frozenset[str], kinds: Sequence[str], kept: frozenset[str]
) -> _Replacer:
    return _Replacer(key, values, kinds, kept)
