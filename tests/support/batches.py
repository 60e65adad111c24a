"""Batches for a sink."""

from collections.abc import Callable, Sequence

import pytest

from auditrelay.events import AuditEvent
from auditrelay.sinks import EventRef, Item, Sink


@pytest.fixture
def batch() -> Callable[[Sink, Sequence[AuditEvent]], list[Item]]:
    """Turn events into the items that a sink is sent."""

    def made(sink: Sink, events: Sequence[AuditEvent]) -> list[Item]:
        return [
            Item(place, EventRef.of(each), sink.render(each)) for place, each in enumerate(events)
        ]

    return made


@pytest.fixture
def items(
    event: Callable[[int], AuditEvent], batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> Callable[[Sink, int], list[Item]]:
    """Make a batch of a number of events for a sink."""
    return lambda sink, count: batch(sink, [event(number) for number in range(count)])
