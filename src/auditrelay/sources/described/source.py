"""
The walk of a described feed: its spans, its pages, and where it may end.

A window is asked for with both bounds where the vendor has them. Where it has fewer, the records'
own times say where the list has passed the window.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from auditrelay.clock import Clock
from auditrelay.descriptions.holes import fill_address
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.errors import Refused, Rejected, Retryable, WalkBroken
from auditrelay.http.fields import Count, Flag, Link, read_cursor, read_field
from auditrelay.http.peer import Peer
from auditrelay.http.quota import Quota
from auditrelay.http.replies import Reply, misshapen
from auditrelay.sources import RETENTION, UNREADABLE, Page, widened
from auditrelay.sources._newest_first import Places, Progress
from auditrelay.sources.described.addresses import OurAddresses
from auditrelay.sources.described.bodies import Bodies, Content
from auditrelay.sources.described.questions import Questions
from auditrelay.sources.described.record_times import RecordTimes
from auditrelay.sources.described.refusals import Refusals
from auditrelay.sources.described.sieve import Sieve
from auditrelay.sources.described.turning import (
    PAGE_REFUSED,
    Answer,
    Place,
    Rules,
    Turn,
    Turner,
)
from auditrelay.window import Interval, micros

EDGE_STATUSES: Final = (400, 416, 422)
"""With these a vendor refuses a start that lies before what it keeps."""

EDGE_STEPS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 10, 60, 24 * 60))
"""How much later a start is asked for that was refused there."""

COARSE: Final = timedelta(minutes=1)
"""A bound that tells no less than that shows much that is outside of the window."""


class Source:
    """One feed, for one configured account."""

    def __init__(
        self, settings: DescribedSettings, peer: Peer, quota: Quota, clock: Clock
    ) -> None:
        feed = settings.FEED
        self._product = feed.product
        self._settings = settings
        self._peer = peer
        self._clock = clock
        self._feed = feed
        self._bodies = Bodies(feed)
        self._refusals = Refusals(feed.errors, feed.limits, self._bodies, quota)
        self._questions = Questions(feed, settings.values)
        vendors_own = fill_address(feed.request.base_url, settings.values)
        self._rules = Rules(
            feed.pages,
            self._questions,
            OurAddresses(
                (settings.base_url, vendors_own),
                (self._questions.path, self._questions.later_path),
            ),
        )
        self._times = RecordTimes(feed.records)
        pages = feed.pages
        self._find = {
            key: self._bodies.spot(spot, f"pages.{key}")
            for key, spot in (
                ("from", pages.from_),
                ("more", pages.more),
                ("count", pages.count),
                ("total", pages.total),
            )
            if spot is not None
        }
        # null for the records of a page that was announced is no empty list.
        self._promises = self._rules.sign in ("more", "count", "absent") and pages.empty == "broken"
        self._later_refused = "cursor_expired" if pages.kind in ("cursor", "url") else PAGE_REFUSED
        time = feed.time
        self._has_end = time.end is not None or time.text is not None
        self._is_coarse = self._questions.format.granule >= COARSE
        self._by_event = time.axis == "event"
        self._from_the_top = (
            not self._has_end and time.order == "newest_first" and self._by_event
        )
        self._needs_times = not self._has_end or (self._is_coarse and self._by_event)
        self._places: Places[Any] | None = None
        if self._from_the_top and time.start is None:
            self._places = Places()

    @property
    def scope(self) -> str:
        """What ids are unique in, as far as records do not name it."""
        return self._settings.scope

    async def walk(
        self, window: Interval, *, background: bool = False, finely: bool = False
    ) -> AsyncGenerator[Page]:
        """Yield every page of *window*, see :class:`auditrelay.sources.Source`."""
        walk = self._newest_first if self._from_the_top else self._within
        async with aclosing(walk(window, background=background, finely=finely)) as pages:
            async for page in pages:
                yield page

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _within(
        self, window: Interval, *, background: bool, finely: bool
    ) -> AsyncGenerator[Page]:
        """Yield the pages of *window*, of which at least the start is asked for."""
        spans = self._spans(window)
        sieve = self._sieve(window)
        for span in spans:
            is_last = span is spans[-1]
            async with aclosing(
                self._pages_of(span, window, sieve, background=background, finely=finely)
            ) as pages:
                async for page in pages:
                    if len(spans) == 1 and sieve is None:
                        yield page
                    elif page.records or page.last:
                        # The vendor's total is not that of the window.
                        yield replace(page, last=page.last and is_last, total=None)

    async def _pages_of(
        self,
        span: Interval,
        window: Interval,
        sieve: Sieve | None,
        *,
        background: bool,
        finely: bool,
    ) -> AsyncGenerator[Page]:
        turner = self._rules.turner(span, self._settings.page_size, finely=finely)
        expired = await self._find_edge()
        while True:
            try:
                answer = await self._ask(turner, background=background)
            except (Retryable, WalkBroken) as error:
                turner.failed(error)
                continue
            turn = turner.turn(answer)
            if turn.again:
                continue
            records, is_over = answer.records, False
            if sieve is not None:
                records, is_over = sieve.sift(records, answer.times or [])
            page = self._page_of(answer, turn, records, window)
            if page.records or page.last or is_over:
                yield replace(page, last=page.last or is_over)
            if page.last or is_over:
                return
            if turn.error is not None:
                raise turn.error
