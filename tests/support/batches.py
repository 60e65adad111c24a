"""Batches for a sink."""

from collections.abc import Callable, Sequence

import pytest

from auditrelay.events import AuditEvent
from auditrelay.sinks import Item, Sink

NOON = 1_767_268_800 * 10**6
"""About when the test events happened, and when they are sent: microseconds since 1970 UTC."""


@pytest.fixture
def batch() -> Callable[[Sink, Sequence[AuditEvent]], list[Item]]:
    """Turn events into the items that a sink is sent at noon."""

    def made(sink: Sink, events: Sequence[AuditEvent]) -> list[Item]:
        return [
            Item.of(place, each, sink.render(each, NOON), sink.limits)
            for place, each in enumerate(events)
        ]

    return made


@pytest.fixture
def items(
    event: Callable[[int], AuditEvent], batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> Callable[[Sink, int], list[Item]]:
    """Make a batch of a number of events for a sink."""
    return lambda sink, count: batch(sink, [event(number) for number in range(count)])
