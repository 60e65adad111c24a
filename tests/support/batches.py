"""Batches for a sink."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from auditrelay.events import AuditEvent
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.sinks import Item, Limits, Rendered, Sink

NOON = 1_767_268_800 * 10**6
"""About when the test events happened, and when they are sent: microseconds since 1970 UTC."""


def rendered(
    sink: Sink, event: AuditEvent, now: int, marks: Mapping[str, object] = NO_MARKS
) -> Rendered:
    """Return *event* as *sink* renders it."""
    [only] = sink.render(Page.of([event]), now, marks=marks)
    return only


def item(place: int, event: AuditEvent, of: Rendered, limits: Limits) -> Item:
    """Return the item for *event*, which was rendered *of*."""
    [only] = Item.of_page([place], Page.of([event]), [of], limits)
    return only


@pytest.fixture
def batch() -> Callable[[Sink, Sequence[AuditEvent]], list[Item]]:
    """Turn events into the items that a sink is sent at noon."""

    def made(sink: Sink, events: Sequence[AuditEvent]) -> list[Item]:
        page = Page.of(events)
        return Item.of_page(range(len(page)), page, sink.render(page, NOON), sink.limits)

    return made


@pytest.fixture
def items(
    event: Callable[[int], AuditEvent], batch: Callable[[Sink, Sequence[AuditEvent]], list[Item]]
) -> Callable[[Sink, int], list[Item]]:
    """Make a batch of a number of events for a sink."""
    return lambda sink, count: batch(sink, [event(number) for number in range(count)])
