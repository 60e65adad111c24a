"""A page of events is rendered for a product as each of its events alone, byte for byte."""

import asyncio
import gc
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from tests.support.clock import FakeClock
from tests.support.corpus import COPIES, VENDORS, events_of, odd_pages, pages_of_alike
from tests.support.extent import extent
from tests.support.rigs import DOUBLES, made_of

from auditrelay.descriptions import HTTP, shipped_receivers
from auditrelay.events.forms import FORMS
from auditrelay.events.page import Page
from auditrelay.sandbox import receivers
from auditrelay.sinks import Sink, available
from auditrelay.telemetry.metrics import Metrics

HOUR = 3600 * 10**6
OTHER_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "datadog": {"tags": ["env:100%"], "service": "a%s"},
    "elasticsearch": {"index": "audit-{source}-%Y.%m.%d"},
    "splunk_hec": {"index": "main", "host": "h%", "sourcetype": "%s", "source": "%%"},
}
"""Settings that change what is written, by type of sink."""
ALL = {**DOUBLES, **receivers.available()}
KINDS = [*available(), HTTP, *shipped_receivers()]


@cache
def sinks_of(kind: str) -> list[Sink]:
    """Return a sink of *kind* for each form, as its settings are by default and otherwise."""
    given = asyncio.run(_settings(kind)) if kind in ALL else {"type": kind, "path": "-"}
    return [
        made_of("siem", {**given, "format": form, **more}, Metrics(), FakeClock())[1]
        for form in sorted(FORMS)
        for more in ({}, *([OTHER_SETTINGS[kind]] if kind in OTHER_SETTINGS else []))
    ]


async def _settings(kind: str) -> dict[str, Any]:
    """Return the settings of a sink that sends to a double of *kind*."""
    async with ALL[kind](clock=lambda: 0) as double:
        return double.settings()


def check(sink: Sink, page: Page, now: int, *, copies: int = 1, every: int = 1) -> None:
    """
    Assert that *page* is rendered as event by event.

    The page is so many *copies* of its first events. Only *every* so many events are compared.
    """
    rows = range(0, len(page) // copies, every)
    one_by_one = [sink.render(page[row : row + 1], now)[0] for row in rows] * copies
    for _ in range(2):
        rendered = sink.render(page, now)
        assert rendered[::every] == one_by_one, sink
        assert len(rendered) == len(page)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_page_is_rendered_as_each_of_its_events(kind: str, vendor: str) -> None:
    events = list(events_of(vendor))
    page = Page.of(events[:100])
    [alike] = pages_of_alike(events[-12:])
    for sink in sinks_of(kind):
        check(sink, page, page.at[0], every=extent(3, 1))
        check(sink, page, page.at[50] + 18 * HOUR, every=extent(5, 1))
        check(sink, alike, page.at[0], every=extent(5, 1))


@settings(deadline=None, max_examples=extent(4, 50))
@given(page=odd_pages())  # which takes longer than to render it for every sink
def test_an_odd_page_is_rendered_as_each_of_its_events(page: Page) -> None:
    # Of the shipped descriptions those that look into events, and cut them.
    for kind in (*available(), HTTP, "dynatrace", "loki"):
        for sink in sinks_of(kind):
            check(sink, page, page.at[0], copies=COPIES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_was_rendered_is_not_kept(kind: str) -> None:
    """Not in a circle either: the daemon looks for these rarely, so pages would pile up."""
    page = pages_of_alike(list(events_of("bland")))[0]
    gc.disable()
    try:
        for sink in sinks_of(kind):
            sink.render(page, page.at[0])  # the first one makes templates
            before = sys.getrefcount(page)
            sink.render(page, page.at[0])
            assert sys.getrefcount(page) == before
    finally:
        gc.enable()
