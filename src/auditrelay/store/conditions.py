"""
The health of a source and of a sink: what a loop keeps, the store saves and ``status`` shows.

It is saved as JSON, and read in one place, here: from a state that another version wrote comes
whatever fits, and the default of each field for the rest.
"""

import contextlib
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from auditrelay.store.parts import Part


class UnreadableSpan(msgspec.Struct, frozen=True):
    """
    Time that could not be read, and was not declared as a gap yet; times are ISO 8601.

    It failed at *tries* attempts *since* then, last at *tried_at* for that *reason*, of which
    *code* is the short form.
    """

    start: str
    end: str
    since: str
    tried_at: str
    tries: int
    code: str
    reason: str


class SourceCondition(msgspec.Struct):
    """Health of a source; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When the current state (up, held, or neither) began."""
    paused_since: str | None = None
    """Since when polling waits for room in the store; None while it does not."""
    last_poll_at: str | None = None
    last_event_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``; ``file_rejected`` if polls succeed but for some files."""
    silent: bool = False
    """Whether the source has shown no new event for longer than ``max_silence``."""
    unknown_actions: int = 0
    """New events with an unrecognised action type, since the start."""
    odd_times: int = 0
    """New events whose time cannot be read or is implausible, since the start."""
    form_changed_at: str | None = None
    """When many known records were last shown with other content: the vendor changed their form."""
    form_changed_fields: list[str] = msgspec.field(default_factory=list)
    """The fields that differed."""
    not_normalized: int = 0
    """New events made of records that could not be read, since the start."""
    unreadable: tuple[UnreadableSpan, ...] = ()


class SourceFreshness(msgspec.Struct, frozen=True):
    """
    How old the events of a *source* were when a sink acknowledged them, in seconds: p50 and p99.

    Of so many *events* in the hour up to *at* (ISO 8601), when the last of them arrived.
    """

    source: str
    p50: float
    p99: float
    events: int
    at: str


class SinkCondition(msgspec.Struct):
    """Health of a sink; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When the current state (up, held, or neither) began."""
    last_delivered_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``."""
    breaker_reason: str | None = None
    """The reason for which it refuses every event, while its circuit breaker is open."""
    breaker_target: str | None = None
    """The target for which it does so, such as an index; None: for all of them."""
    unproven: bool = False
    """Whether its last success proved nothing, so that it is asked before it gets an event."""
    unanswered: bool = False
    """Whether single events were sent and never answered, so that it is asked first as well."""
    freshness: tuple[SourceFreshness, ...] = ()
    """Of each source whose events it has taken, as of a minute ago; a backfill does not count."""


Condition = SourceCondition | SinkCondition

_FIRST_NAMES: Final = {"breaker_reason": "flood"}
"""Fields that had another name in the states of older commits."""

C = TypeVar("C", SourceCondition, SinkCondition)


def encode_condition(condition: Condition) -> str:
    """Return *condition* as JSON."""
    return msgspec.json.encode(condition).decode()


def decode_condition(text: str, kind: type[C]) -> C:
    """Return the condition that *text* is the JSON of."""
    return _condition(msgspec.json.decode(text, type=dict[str, object]), kind)


def _condition(saved: dict[str, object], kind: type[C]) -> C:
    condition = kind()
    for field in msgspec.structs.fields(kind):
        value = saved.get(field.name)
        if value is None:
            value = saved.get(_FIRST_NAMES.get(field.name, ""))
        if value is not None:
            with contextlib.suppress(msgspec.ValidationError):
                setattr(condition, field.name, msgspec.convert(value, field.type))
    return condition


_PARTS: Final = "parts"
"""The field with the conditions of the parts of a sink, beside those of the sink as a whole."""


def with_part(whole: str, part: Part, condition: str) -> str:
    """
    Return the condition *whole* of a sink with that of its *part* replaced; all are JSON.

    Those of parts of another number are over. The sink as a whole is as its worst part is.
    """
    parts = msgspec.json.decode(whole, type=dict[str, object]).get(_PARTS)
    kept = {
        name: saved
        for name, saved in (parts.items() if isinstance(parts, dict) else ())
        if name.endswith(f"/{part.into}") and isinstance(saved, dict)
    }
    kept[str(part)] = msgspec.json.decode(condition)
    worst = _worst([_condition(saved, SinkCondition) for _, saved in sorted(kept.items())])
    text = msgspec.json.encode({**msgspec.to_builtins(worst), _PARTS: kept})
    return text.decode()


def _worst(parts: Sequence[SinkCondition]) -> SinkCondition:
    """Return the condition of a sink with these *parts*: what is wrong with any is."""
    worst = min(parts, key=lambda each: (not each.held, each.up, each.last_error is None))
    delivered = [each.last_delivered_at for each in parts if each.last_delivered_at is not None]
    breaker = next((each for each in parts if each.breaker_reason is not None), worst)
    return msgspec.structs.replace(
        worst,
        last_delivered_at=max(delivered, default=None),
        breaker_reason=breaker.breaker_reason,
        breaker_target=breaker.breaker_target,
        unproven=any(each.unproven for each in parts),
        unanswered=any(each.unanswered for each in parts),
        freshness=_slowest(parts),
    )


def _slowest(parts: Sequence[SinkCondition]) -> tuple[SourceFreshness, ...]:
    """Return by source how soon events arrive at the slowest of *parts*."""
    by_source: dict[str, list[SourceFreshness]] = {}
    for each in (each for part in parts for each in part.freshness):
        by_source.setdefault(each.source, []).append(each)
    return tuple(
        SourceFreshness(
            source,
            max(each.p50 for each in found),
            max(each.p99 for each in found),
            sum(each.events for each in found),
            max(each.at for each in found),
        )
        for source, found in sorted(by_source.items())
    )
