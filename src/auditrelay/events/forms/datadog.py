"""
An event as a Datadog log, with the standard attributes that Cloud SIEM reads.

Datadog's limits (https://docs.datadoghq.com/logs/log_collection/: fewer than 256 attributes, keys
under 50 characters, fewer than 10 levels) apply to the vendor's record as well: a record that
exceeds one is sent as a text.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from auditrelay.events import AuditEvent
from auditrelay.events.classify import MEANINGS
from auditrelay.events.decode import one_lines
from auditrelay.events.forms.nesting import any_deeper_than
from auditrelay.events.marks import NO_MARKS, add_marks, changes_of, without_empty
from auditrelay.events.timestamps import iso_ms

_MAX_RECORD_DEPTH = 7
"""Levels; two more (``vendor.<name>``) are above the record."""
_MAX_ATTRIBUTES = 200
"""Attributes that remain for the record."""
_SHORTEST_ATTRIBUTE = len(b'"":0,')
_LONG_KEY = re.compile(rb'"[^"]{50,}"\s*:')
"""A key of 50 bytes or more; one that contains a quote is missed, which is harmless."""
_ALIKE_BUT_QUOTES = bytes(byte if byte == ord('"') else ord("x") for byte in range(256))
_LONG = b"x" * 50
_AFTER_KEY = (b":", b" ", b"\t", b"\r", b"\n")
_MAX_TAGS = 100
_MAX_TAG_LENGTH = 200
_INVALID_IN_TAG = re.compile(r"[,\s]+")


def _fit(records: Sequence[bytes]) -> bool:
    """Return whether all *records* stay within Datadog's limits for attributes."""
    most = _MAX_ATTRIBUTES
    large = [record for record in records if len(record) > most * _SHORTEST_ATTRIBUTE]
    if any(record.count(b":") > most for record in large):
        return False
    return not (_has_long_key(b"\n".join(records)) or any_deeper_than(_MAX_RECORD_DEPTH, records))


def _has_long_key(page: bytes) -> bool:
    """Return whether a record of *page* has a key that is too long."""
    # A search for fifty bytes that are alike skips nearly all: to look at each key costs five times
    # as much.
    texts = page.translate(_ALIKE_BUT_QUOTES)
    end = -1
    while (start := texts.find(_LONG, end + 1)) >= 0:
        end = texts.find(b'"', start)
        if end < 0:
            return False
        if page.startswith(_AFTER_KEY, end + 1):
            return _LONG_KEY.search(page) is not None
    return False


def records(texts: Sequence[bytes]) -> list[bytes]:
    """Return JSON *texts* as Datadog accepts them: each itself, or a JSON string of it."""
    lines = one_lines(texts)
    if _fit(texts):
        return lines
    return [
        line if _fit([text]) else orjson.dumps(text.decode())
        for text, line in zip(texts, lines, strict=True)
    ]


SPLICED = {"raw": records}
"""How JSON texts of an event are embedded, where it is not as one line."""


def fits_in_tag(value: str) -> bool:
    """Return whether *value* can be in a tag as it is: without commas, and not cut off."""
    return len(value) < _MAX_TAG_LENGTH // 2 and _INVALID_IN_TAG.search(value) is None


@lru_cache(maxsize=1024)
def _tags(
    source: str,
    org_id: str | None,
    project_id: str | None,
    risks: tuple[str, ...],
    tags: tuple[tuple[str, str], ...],
) -> str:
    """Return ``ddtags``; commas and blanks in a tag are replaced: a comma separates tags."""
    pairs = [("source_instance", source), ("forwarder", "auditrelay")]
    if org_id:
        pairs.append(("org_id", org_id))
    if project_id:
        pairs.append(("project_id", project_id))
    pairs += [("risk", risk) for risk in risks]
    pairs += tags
    return ",".join(
        _INVALID_IN_TAG.sub("_", f"{key}:{value}")[:_MAX_TAG_LENGTH]
        for key, value in pairs[:_MAX_TAGS]
    )


def _own(event: AuditEvent, marks: Mapping[str, object]) -> dict[str, Any]:
    own: dict[str, Any] = {
        "source": event.source,
        "kind": event.kind,
        "verb": event.verb,
        "time_quality": event.time_quality,
        "raw_sha256": event.raw_sha256,
    }
    if event.warnings:
        own["warnings"] = event.warnings
    add_marks(own, event, marks)
    return own


def _add_people(event: AuditEvent, log: dict[str, Any]) -> None:
    """Add the actor, its address, the target, the organisation and the project."""
    actor, target = event.actor, event.target
    if actor.id or actor.name or actor.email:
        log["usr"] = without_empty(
            id=actor.id, name=actor.name or actor.email, email=actor.email, type=actor.kind
        )
    if actor.ip:
        client = {"ip": actor.ip}
        if actor.address:
            client["address"] = actor.address
        log["network"] = {"client": client}
    if actor.user_agent:
        log["http"] = {"useragent": actor.user_agent}
    if target.type or target.id or target.name or target.email:
        log["target"] = without_empty(
            id=target.id, name=target.name, email=target.email, type=target.type
        )
    if event.org_id or event.org_name:
        log["organization"] = without_empty(id=event.org_id, name=event.org_name)
    if event.project_id or event.project_name:
        log["project"] = without_empty(id=event.project_id, name=event.project_name)


def render(event: AuditEvent, *, marks: Mapping[str, object] = NO_MARKS) -> dict[str, Any]:
    """Return *event* as a Datadog log, for orjson; *marks* are added under ``auditrelay``."""
    meaning = MEANINGS[event.kind, event.verb]
    vendor = event.vendor
    about: dict[str, Any] = {
        "id": event.uid,
        "name": event.native_action,
        "category": meaning.categories[0],
        "type": event.verb,
    }
    if event.outcome:
        about["outcome"] = event.outcome
    log: dict[str, Any] = {
        "ddsource": vendor,
        "service": vendor,
        "ddtags": _tags(
            event.source,
            event.org_id,
            event.project_id,
            tuple(meaning.risks_if(event.outcome)),
            event.tags,
        ),
        "message": event.message,
        "status": "info",
        "timestamp": iso_ms(event.at),
        "evt": about,
    }
    if event.api_host:
        log["hostname"] = event.api_host
    _add_people(event, log)
    if event.changes:
        log["changes"] = changes_of(event.changes)
    if event.reason:
        log["reason"] = event.reason
    log["auditrelay"] = _own(event, marks)
    [record] = records([bytes(event.raw)])
    log["vendor"] = {vendor: orjson.Fragment(record)}
    return log
