"""
The health of a source and of a sink: what a loop keeps, the store saves and ``status`` shows.

It is saved as JSON, and read in one place, here: from a state that another version wrote comes
whatever fits, and the default of each field for the rest.
"""

import contextlib
from typing import Final, TypeVar

import msgspec


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


Condition = SourceCondition | SinkCondition

_FIRST_NAMES: Final = {"breaker_reason": "flood"}
"""Fields that had another name in the states of older commits."""

C = TypeVar("C", SourceCondition, SinkCondition)


def encode_condition(condition: Condition) -> str:
    """Return *condition* as JSON."""
    return msgspec.json.encode(condition).decode()


def decode_condition(text: str, kind: type[C]) -> C:
    """Return the condition that *text* is the JSON of."""
    saved = msgspec.json.decode(text, type=dict[str, object])
    condition = kind()
    for field in msgspec.structs.fields(kind):
        value = saved.get(field.name)
        if value is None:
            value = saved.get(_FIRST_NAMES.get(field.name, ""))
        if value is not None:
            with contextlib.suppress(msgspec.ValidationError):
                setattr(condition, field.name, msgspec.convert(value, field.type))
    return condition
