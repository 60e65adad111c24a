"""
The walk of a described feed: its spans, its pages, and where it may end.

A window is asked for with both bounds where the vendor has them. Where it has fewer, the records'
own times say where the list has passed the window.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

from auditrelay.clock import Clock
from auditrelay.descriptions.holes import fill_address
from auditrelay.descriptions.model import Order
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.errors import Refused, Retryable, WalkBroken, code_of
from auditrelay.http.peer import Peer
from auditrelay.http.quota import Quota
from auditrelay.sources import RETENTION, UNREADABLE, Page, Shown, widened
from auditrelay.sources._newest_first import Places, Progress
from auditrelay.sources.described.addresses import OurAddresses
from auditrelay.sources.described.page_reader import PageReader
from auditrelay.sources.described.questions import Questions
from auditrelay.sources.described.record_times import RecordTimes
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

T = TypeVar("T")

EDGE_STATUSES: Final = (400, 416, 422)
"""With these a vendor refuses a start that lies before what it keeps."""

EDGE_STEPS: Final = tuple(timedelta(minutes=2**power) for power in range(12))
"""How much later a start is asked for that was refused there."""

MAX_SPANS: Final = 16
"""Most spans that a window is asked for in, where the vendor refuses a longer one."""

COARSE: Final = timedelta(minutes=1)
"""A bound that tells no less than that shows much that is outside of the window."""


class Source:
    """One feed, for one configured account."""

    def __init__(self, settings: DescribedSettings, peer: Peer, quota: Quota, clock: Clock) -> None:
        feed = settings.FEED
        self._settings = settings
        self._peer = peer
        self._clock = clock
        self._feed = feed
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
        time = feed.time
        self._has_end = time.end is not None or time.text is not None
        by_event = time.axis == "event"
        self._from_the_top = not self._has_end and time.order == "newest_first" and by_event
        self._sifts: _Sifts | None = None
        if not self._has_end and (by_event or time.order == "oldest_first"):
            self._sifts = _Sifts(time.order, filters=by_event, at_once=False)
        elif self._has_end and by_event and self._questions.format.granule >= COARSE:
            self._sifts = _Sifts(time.order, filters=True, at_once=True)
        self._times = RecordTimes(feed.records)
        needs_times = self._from_the_top or self._sifts is not None
        self._pages = PageReader(feed, quota, self._times if needs_times else None)
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

    async def shown(self, span: Interval, size: int) -> AsyncGenerator[Shown]:
        """Yield each reply to *span*, see :class:`auditrelay.sources.Shows`."""
        turner = self._rules.turner(span, size, finely=False)
        while True:
            try:
                answer = await self._ask(turner, background=False, finely=False)
            except (Retryable, WalkBroken) as error:
                turner.failed(error)
                continue
            turn = turner.turn(answer)
            if turn.again:
                continue
            yield Shown(answer.records, last=turn.last)
            if turn.last:
                return
            if turn.error is not None:
                raise turn.error

    async def close(self) -> None:
        """Release connections."""
        await self._peer.aclose()

    async def _within(
        self, window: Interval, *, background: bool, finely: bool
    ) -> AsyncGenerator[Page]:
        """Yield the pages of *window*, of which at least the start is asked for."""
        start, shown = window.start, False
        while True:
            part = Interval(start, window.end)
            try:
                async with aclosing(
                    self._spans_of(part, background=background, finely=finely)
                ) as pages:
                    async for page in pages:
                        shown = True
                        if page.last and start > window.start:
                            gap = Interval(window.start, start), RETENTION
                            yield replace(page, gaps=(gap, *page.gaps))
                        else:
                            yield page
            except Refused as error:
                later = None if shown else self._later(start, window, error)
                if later is None:
                    raise
                start = later
            else:
                return

    def _later(self, start: datetime, window: Interval, error: Refused) -> datetime | None:
        """
        Return a later start than *start*, which was refused, or None if that is no use.

        What a vendor keeps ends earlier with every second: a start that is just inside of it may
        be outside by the time it is asked for.
        """
        retention = self._settings.retention
        if retention is None or error.status not in EDGE_STATUSES:
            return None
        if window.start > self._clock.now() - retention + EDGE_STEPS[-1]:
            return None
        later = (window.start + step for step in EDGE_STEPS)
        return next((each for each in later if start < each < window.end), None)

    async def _spans_of(
        self, window: Interval, *, background: bool, finely: bool
    ) -> AsyncGenerator[Page]:
        """Yield the pages of *window*, which is asked for in as many spans as the vendor needs."""
        spans = spans_of(window, self._questions.format.granule, self._feed.time.longest)
        for span in spans:
            sieve = None
            if self._sifts is not None:
                order, filters, at_once = self._sifts
                sieve = Sieve(window, order, filters=filters, at_once=at_once)
            turner = self._rules.turner(span, self._settings.page_size, finely=finely)
            async with aclosing(
                self._pages_of(turner, window, sieve, background=background, finely=finely)
            ) as pages:
                async for page in pages:
                    if len(spans) == 1 and sieve is None:
                        yield page
                    elif page.records or page.last:
                        # The vendor's total is of all that is in the span.
                        yield replace(page, last=page.last and span is spans[-1], total=None)

    async def _pages_of(
        self,
        turner: Turner,
        window: Interval,
        sieve: Sieve | None,
        *,
        background: bool,
        finely: bool,
    ) -> AsyncGenerator[Page]:
        while True:
            try:
                answer = await self._ask(turner, background=background, finely=finely)
            except (Retryable, WalkBroken) as error:
                turner.failed(error)
                continue
            turn = turner.turn(answer)
            if turn.again:
                continue
            records, last = ([] if turn.hidden else answer.records), turn.last
            if sieve is not None:
                records, is_over = sieve.sift(records, answer.times)
                last = last or is_over
            if records or last:
                yield self._page(answer, turn, records, window, last=last)
            if last:
                return
            if turn.error is not None:
                raise turn.error

    def _page(
        self, answer: Answer, turn: Turn, records: list[bytes], window: Interval, *, last: bool
    ) -> Page:
        cursor = None if last or not isinstance(turn.place, str) else turn.place
        return Page(
            records,
            last=last,
            total=answer.total,
            shrunk=turn.shrunk,
            gaps=((window, UNREADABLE),) if last and turn.unreadable else (),
            cursor=cursor,
            at_most=self._feed.pages.most,
        )

    async def _newest_first(  # noqa: C901  # one loop, whose ways out belong together
        self, window: Interval, *, background: bool, finely: bool
    ) -> AsyncGenerator[Page]:
        """Yield what is in *window* of a list that begins with the newest record of all."""
        start, end = micros(window.start), micros(window.end)
        shown: set[int] = set()  # hashes of the records: a restarted walk reads them again
        restarted = False
        here: Place = None if self._places is None else self._places.deepest(end)
        remembered = here is not None
        turner, progress = self._from(here, window, finely=finely)
        while True:
            try:
                answer = await self._ask(turner, background=background, finely=finely)
            except (Retryable, WalkBroken) as error:
                if here is None or restarted or code_of(error) not in _NOT_THERE:
                    try:
                        turner.failed(error)
                    except (Retryable, WalkBroken):
                        if not finely:
                            raise
                        # Only the cursor of the record that cannot be read would lead further down.
                        behind = progress.not_shown(window, error)
                        yield Page([], last=True, gaps=((behind, UNREADABLE),))
                        return
                    continue
                restarted, answer = True, None
            times = [] if answer is None else answer.times
            first = next((at for at in times if at is not None), None)
            if answer is None or (remembered and (first is None or first < end)):
                # It is not proved that everything before this page is newer than the window: start
                # from the top.
                here, remembered = None, False
                turner, progress = self._from(here, window, finely=finely)
                continue
            turn = turner.turn(answer)
            if turn.again:
                continue
            remembered = False
            progress.add(times)
            self._remember(here, first, ordered=progress.ordered)
            inside = [
                record
                for record, at in zip(answer.records, times, strict=True)
                if (at is None or start <= at < end) and hash(record) not in shown
            ]
            if turn.hidden:
                inside = []
            shown.update(map(hash, inside))
            last = turn.last or progress.has_passed(start, times)
            if inside or last:
                yield replace(self._page(answer, turn, inside, window, last=last), total=None)
            if last:
                return
            if turn.error is not None:
                raise turn.error
            progress.check(found=bool(inside))
            here = turn.place

    def _from(self, place: Place, window: Interval, *, finely: bool) -> tuple[Turner, Progress]:
        """Begin at *place*, or at the top."""
        if place is None and self._places is not None:
            self._places.clear()
        span = widened(window, self._questions.format.granule)
        turner = self._rules.turner(span, self._settings.page_size, finely=finely, place=place)
        cure = (
            f"at {self._times.paths}: correct records.time or records.time_format in the "
            "description (the command sample shows records)"
        )
        return turner, Progress(self._feed.product, cure)

    def _remember(self, place: Place, first: int | None, *, ordered: bool) -> None:
        """Remember where a page with a *first* record of that time is, if the list is *ordered*."""
        if self._places is None:
            return
        if not ordered:
            self._places.clear()
        elif place is not None and first is not None:
            self._places.remember(place, first)

    async def _ask(self, turner: Turner, *, background: bool, finely: bool) -> Answer:
        question = turner.question()
        return await self._peer.ask(
            question.method,
            question.path,
            question.params if question.query is None else question.query,
            question.body,
            self._pages.read_first if turner.is_first else self._pages.read_later,
            headers=question.headers,
            background=background,
            finely=finely,
        )


def spans_of(window: Interval, granule: timedelta, longest: timedelta | None) -> list[Interval]:
    """
    Return the spans to request, which contain *window* whether bounds are included or not.

    They are as many as it takes not to be longer than the vendor accepts: one that is just as long
    becomes too long when it is widened. A day that is a bound counts whole.
    """
    extra = granule if granule >= COARSE else timedelta(0)
    spans: list[Interval] = []
    for count in range(1, MAX_SPANS + 1):
        length = window.length / count
        bounds = [*(window.start + length * each for each in range(count)), window.end]
        spans = [widened(Interval(*pair), granule) for pair in pairwise(bounds)]
        if longest is None or all(span.length + extra <= longest for span in spans):
            break
    return spans


class _Sifts(NamedTuple):
    """What of a list is shown that reaches beyond the window, see :class:`Sieve`."""

    order: Order
    filters: bool
    at_once: bool


_NOT_THERE: Final = ("cursor_expired", PAGE_REFUSED)
