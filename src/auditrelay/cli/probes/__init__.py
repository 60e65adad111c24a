"""
Probes: what a few requests prove about a described source, before events depend on it.

A description can be wrong in ways that no file shows: a parameter that the vendor ignores, a cursor
in the wrong place. ``check`` makes the first probes, ``check --thorough`` all of them, with about
twelve requests. Here they are asked; ``judge`` says what the answers mean.
"""

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median_low
from typing import Final

from auditrelay.cli.probes import judge
from auditrelay.cli.probes.judge import is_timed
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.descriptions.times import writer
from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.events import AuditEvent
from auditrelay.events.normalize import Normalizer
from auditrelay.settings.values import format_duration
from auditrelay.sources import Shows
from auditrelay.telemetry.humanize import count
from auditrelay.window import EPOCH, Interval, micros, moment

_LOOKS_BACK: Final = tuple(timedelta(hours=hours) for hours in (1, 24, 7 * 24, 30 * 24))
"""How far back events are looked for."""

_MOST_PAGES: Final = 20
"""Pages of a small window after which its end does not come any more."""

_FEW: Final = 8
"""Events of a small window."""

_MINUTE: Final = timedelta(minutes=1)


class ProbeFailed(Refused):
    """The description is wrong, or the vendor differs from what it says."""


@dataclass
class Findings:
    """What the probes have shown: what is *proved*, and *notes* about the rest."""

    found: str = ""
    proved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        """All in one line."""
        proved = f"; proved: {', '.join(self.proved)}" if self.proved else ""
        return f"answers; {self.found}{proved}"


@dataclass(frozen=True)
class _Reading:
    """One page: its *events* and *records*, and whether it was said to be the *last*."""

    events: list[AuditEvent]
    records: list[bytes]
    last: bool

    @property
    def by_uid(self) -> dict[str, bytes]:
        """The records by their uid; none if a record becomes several events."""
        if len(self.events) != len(self.records):
            return {}
        return {event.uid: text for event, text in zip(self.events, self.records, strict=True)}


@dataclass(frozen=True)
class _Walk:
    """The pages of a span, and the *error* behind them if there was one."""

    pages: list[_Reading]
    error: WalkBroken | None = None

    @property
    def events(self) -> list[AuditEvent]:
        return [event for page in self.pages for event in page.events]

    @property
    def ended(self) -> bool:
        return bool(self.pages) and self.pages[-1].last


async def probe(
    source: Shows,
    settings: DescribedSettings,
    normalize: Normalizer,
    now: datetime,
    *,
    thorough: bool = False,
) -> Findings:
    """
    Prove what can be proved of the description of *source*, which has *settings*.

    Raises ProbeFailed for the first thing that is wrong, and what a walk raises.
    """
    return await _Probes(source, settings, normalize, now).run(thorough=thorough)


class _Probes:
    """The probes of one source."""

    def __init__(
        self, source: Shows, settings: DescribedSettings, normalize: Normalizer, now: datetime
    ) -> None:
        self._source = source
        self._settings = settings
        self._feed = settings.FEED
        self._normalize = normalize
        self._now = now
        self._granule = writer(self._feed.time.format).granule
        time = self._feed.time
        self._has_start = time.start is not None or time.text is not None
        self._has_both = time.end is not None or time.text is not None
        self._findings = Findings()

    async def run(self, *, thorough: bool) -> Findings:
        """Make the probes, the first ones or all."""
        span, first = await self._newest()  # P1
        asked = span if self._has_start else None
        self._fail(judge.times(self._feed, asked, self._now, first.events))  # P5
        await self._empty_window(first)  # P2
        # Only now: what is outside of a window is there because its bounds are ignored, or because
        # they speak of another time.
        self._fail(judge.outside(self._feed, asked, self._now, first.events))
        if len(first.events) < 2:
            self._note(_too_few(first, self._feed.time.format))
        if first.events:
            pages = await self._next_page(span, first, say=len(first.events) > 1)  # P7
            if thorough:
                again = await self._first_page(span)  # P10
                self._fail(judge.differs(self._feed, first.by_uid, again.by_uid))
                self._proves("stable records")
            self._fail(judge.ids(self._feed, [first.events, *pages]))  # P6
            self._proves("ids", "times")
            if thorough:
                await self._rest(span, first, [event for page in pages for event in page])
        return self._findings

    async def _rest(self, span: Interval, first: _Reading, paged: list[AuditEvent]) -> None:
        if self._has_both:
            await self._small_window(span, first)  # P3, P8
            await self._one_event(first)  # P4
        elif self._has_start:
            await self._lower_bound(first)
        else:
            self._note("bounds and the end of the pages could not be proved: there is no filter")
        for events in (first.events, paged):
            if (wrong := judge.order(self._feed, events)) is not None:
                self._note(wrong)  # P9
                break
        await self._largest(span, first)  # P11
        events = list({event.uid: event for event in (*first.events, *paged)}.values())
        self._findings.notes += judge.unknown(self._feed, events)  # P12
        self._findings.notes += judge.parties(self._feed, events)  # P13

    def _fail(self, problem: str | None) -> None:
        if problem is not None:
            raise ProbeFailed(problem)

    def _note(self, text: str) -> None:
        self._findings.notes.append(text)

    def _proves(self, *what: str) -> None:
        self._findings.proved += what

    # --- requests

    async def _pages(
        self, span: Interval, size: int, *, most: int = _MOST_PAGES, most_full: int = _MOST_PAGES
    ) -> _Walk:
        """
        Read *most* pages of *span*, and *most_full* with events.

        What stands behind a page is no error of that page.
        """
        pages: list[_Reading] = []
        fetched = micros(self._now)
        try:
            async with aclosing(self._source.shown(span, size)) as replies:
                async for shown in replies:
                    events = list(self._normalize(shown.records, fetched))
                    pages.append(_Reading(events, shown.records, shown.last))
                    full = sum(bool(page.events) for page in pages)
                    if len(pages) == most or full == most_full:
                        break
        except WalkBroken as error:
            if not pages:
                raise
            return _Walk(pages, error)
        return _Walk(pages)

    async def _first_page(self, span: Interval, size: int | None = None) -> _Reading:
        walk = await self._pages(span, size or self._settings.page_size, most=1)
        return walk.pages[0] if walk.pages else _Reading([], [], last=True)

    # --- spans

    def _down(self, at: datetime) -> datetime:
        return at - (at - EPOCH) % self._granule

    def _up(self, at: datetime) -> datetime:
        return at + (EPOCH - at) % self._granule

    def _back(self) -> Iterator[Interval]:
        """Yield the newest spans, ever longer; as long as the vendor accepts them."""
        end = self._now - self._settings.settle
        longest = self._settings.max_window
        if self._feed.time.longest is not None:
            longest = min(longest, self._feed.time.longest - 2 * self._granule)
        kept = self._settings.reach
        for back in sorted({*_LOOKS_BACK, min(longest, _LOOKS_BACK[-1])}):
            start = end - back if kept is None else max(end - back, self._now - kept)
            yield Interval(self._down(start), self._up(min(end, start + longest)))

    # --- probes

    async def _newest(self) -> tuple[Interval, _Reading]:
        """P1: find a page with two events at least."""
        best: tuple[Interval, _Reading] | None = None
        for span in self._back():
            page = await self._first_page(span)
            if best is None or len(page.events) >= len(best[1].events):
                best = span, page
            if len(page.events) > 1 or not self._has_start:
                break
        assert best is not None  # noqa: S101  # there is a span at least
        span, page = best
        if not page.events:
            await self._smaller(span)
        window = format_duration(_whole(span.length))
        more = "" if page.last else " or more"
        self._findings.found = f"{count(len(page.events), 'event')}{more} in a window of {window}"
        return span, page

    async def _smaller(self, span: Interval) -> None:
        """Fail if *span* shows nothing on a large page, and something on a small one."""
        if self._feed.pages.kind not in ("number", "offset") or self._feed.pages.size is None:
            return
        page = await self._first_page(span, 2)
        if page.events:
            pages = self._feed.pages
            first = pages.first if pages.first is not None else int(pages.kind == "number")
            raise ProbeFailed(
                f"{pages.to} = {first} is not the first page: one of "
                f"{self._settings.page_size} records shows nothing there, one of 2 does: is it "
                f"pages.first = {1 - min(first, 1)}?"
            )

    async def _empty_window(self, first: _Reading) -> None:
        """P2: ask for a span without events."""
        if not self._has_start:
            self._note("an empty window could not be proved: the API has no time filter")
            return
        gap = self._gap(first)
        tomorrow = self._up(self._now + judge.DAY)
        spans = [
            (Interval(tomorrow, tomorrow + max(self._granule, _MINUTE)), "a minute of tomorrow")
        ]
        if self._granule > _MINUTE:
            spans = [(Interval(tomorrow, tomorrow + self._granule), "the time after tomorrow")]
        if gap is not None:
            spans.insert(0, (gap, "a span between two events"))
        old = self._down(self._now - 3652 * judge.DAY)
        spans.append((Interval(old, old + self._granule), "a moment ten years ago"))
        refusal: RelayError | None = None
        for span, what in spans:
            try:
                page = await self._first_page(span, min(self._settings.page_size, 100))
            except (Refused, WalkBroken) as error:
                refusal = error  # some vendors refuse an end that lies before now
                continue
            self._fail(judge.not_empty(self._feed, span, what, page.events))
            self._proves("an empty window is empty")
            return
        self._note(f"an empty window could not be proved: it is refused ({refusal})")

    def _gap(self, first: _Reading) -> Interval | None:
        """Return the longest span between two events of a whole window, a granule from both."""
        if not (self._has_both and first.last and self._feed.time.axis == "event"):
            return None
        ats = sorted({event.at for event in first.events if is_timed(event)})
        if len(ats) < 2 or not all(map(is_timed, first.events)):
            return None
        _, one, other = max((later - earlier, earlier, later) for earlier, later in pairwise(ats))
        start = self._up(moment(one)) + self._granule
        end = self._down(moment(other)) - self._granule
        return Interval(start, end) if start < end else None

    async def _next_page(
        self, span: Interval, first: _Reading, *, say: bool
    ) -> list[list[AuditEvent]]:
        """P7: ask for pages of two, and return the events of the first two with any."""
        if self._feed.pages.kind == "none":
            return []
        walk = await self._pages(span, 2, most=4, most_full=2)
        shown = [page.events for page in walk.pages if page.events]
        if len(shown) > 1:
            self._fail(judge.turned(self._feed, *shown[:2]))
            self._proves("page 2 is another page")
            return shown[:2]
        if walk.error is not None:
            raise ProbeFailed(f"page 2 could not be reached: {walk.error}")
        records = sum(len(page.records) for page in walk.pages)
        if walk.ended:
            self._fail(judge.last_too_soon(self._feed, records, len(first.records)))
        if records > 2 and self._feed.pages.size is not None:
            self._note(f"asked for pages of 2, got {records}: {self._feed.pages.size} is ignored")
        if say:
            self._note("that pages are turned could not be proved: there is only one")
        return shown[:1]

    def _small(self, first: _Reading) -> tuple[Interval, datetime] | None:
        """Return a window with a few events, and a time in it with some on both sides."""
        if self._feed.time.axis == "recorded":
            return None
        timed = sorted(event.at for event in first.events if is_timed(event))[-_FEW:]
        steps = sorted({self._down(moment(at)) for at in timed})
        if len(steps) < 2:
            return None
        start, end = steps[0], self._up(moment(timed[-1])) + self._granule
        longest = self._feed.time.longest
        if longest is not None and end - start + 2 * self._granule > longest:
            return None
        return Interval(start, end), steps[len(steps) // 2]

    async def _small_window(self, span: Interval, first: _Reading) -> None:
        """P8 and P3: walk a small window to its end, and its halves."""
        found = self._small(first)
        if found is None:
            if not first.last and len(first.records) >= self._settings.page_size:
                self._note("bounds and the end of the pages could not be proved: too many events")
                return
            found = span, self._down(moment(_median(first.events)))
        window, middle = found
        if not window.start < middle < window.end:
            self._note("bounds could not be proved: the events are of one moment")
            return
        inside = [
            event
            for event in first.events
            if found != (span, middle) and micros(window.start) <= event.at < micros(window.end)
        ]
        size = min(max(2, (len(inside or first.events) + 1) // 2), self._settings.page_size)
        whole = await self._pages(window, size)
        self._end_of(whole, inside)
        self._proves("the pages end")
        lower = await self._pages(Interval(window.start, middle), size)
        upper = await self._pages(Interval(middle, window.end), size)
        parts = lower.events, upper.events
        self._fail(judge.halves(self._feed, self._granule, middle, whole.events, parts))
        self._proves("both bounds")

    def _end_of(self, walk: _Walk, inside: list[AuditEvent]) -> None:
        """Judge how a small window ended, in which the events *inside* are known to be."""
        if walk.error is not None:
            if walk.error.reason == "no_progress":
                raise ProbeFailed(
                    "after the last event it still announces a page: set pages.until_empty = true "
                    f"({walk.error})"
                )
            raise ProbeFailed(f"the pages of a small window do not end: {walk.error}")
        if not walk.ended and len(walk.events) < _MOST_PAGES:
            raise ProbeFailed(
                f"after {count(len(walk.events), 'event')} on {len(walk.pages)} pages it still "
                "announces a page: what says that a page is the last one (pages.more, "
                "pages.until_empty)?"
            )
        if walk.ended:
            shown = {event.uid for event in walk.events}
            known = {event.uid for event in inside}
            self._fail(judge.last_too_soon(self._feed, len(shown & known), len(known)))
            last_is_empty = len(walk.pages) > 1 and not walk.pages[-1].records
            if last_is_empty and (sign := judge.counting_sign(self._feed)) is not None:
                self._note(f"an empty page was the end, and not {sign}: is that in the replies?")

    async def _lower_bound(self, first: _Reading) -> None:
        """P3 where there is no upper bound: nothing is older than where the list begins."""
        timed = sorted(event.at for event in first.events if is_timed(event))
        if len(timed) < 2 or timed[0] == timed[-1]:
            self._note("the lower bound could not be proved: the events are of one moment")
            return
        middle = self._down(moment(timed[len(timed) // 2]))
        page = await self._first_page(Interval(middle, self._up(self._now)))
        self._fail(judge.starts_early(self._feed, self._granule, middle, page.events))
        if page.last or self._feed.time.order == "oldest_first":
            self._proves("the lower bound")
        self._note("the end of the pages could not be proved: there is no upper bound")

    async def _one_event(self, first: _Reading) -> None:
        """P4: say whether the bounds are inclusive, by an event that happened on one."""
        if self._feed.time.axis == "recorded":
            return
        known = next((event for event in first.events if is_timed(event)), None)
        if known is None:
            return
        start = self._down(moment(known.at))
        page = await self._first_page(Interval(start, start + self._granule))
        has_it = any(event.uid == known.uid for event in page.events)
        if micros(start) != known.at:
            if not has_it and page.last:
                self._note(
                    "an event is not in the window of its own "
                    f"{format_duration(self._granule)}: bounds are widened by one, which finds it"
                )
            return
        before = await self._first_page(Interval(start - self._granule, start))
        has_end = any(event.uid == known.uid for event in before.events)
        self._note(
            f"the lower bound is {'included' if has_it else 'not included'}, the upper one "
            f"{'is' if has_end else 'is not'}"
        )

    async def _largest(self, span: Interval, first: _Reading) -> None:
        """P11: ask for the largest page."""
        largest = self._feed.pages.largest
        if largest is None or self._feed.pages.size is None:
            return
        page = first
        if self._settings.page_size != largest:
            try:
                page = await self._first_page(span, largest)
            except (Refused, Retryable, WalkBroken) as error:
                self._note(f"pages.largest = {largest}: a page of that size is refused ({error})")
                return
        if (wrong := judge.size(largest, len(page.records), last=page.last)) is not None:
            self._note(wrong)


def _too_few(first: _Reading, time_format: str) -> str:
    if first.events:
        return "could not be proved: fewer than 2 events in 30 days"
    return (
        "could not be proved: no event in 30 days. If there are some, a bound may have to be "
        f'written otherwise than as "{time_format}" (time.format), or records.at is another list'
    )


def _median(events: list[AuditEvent]) -> int:
    return median_low(event.at for event in events)


def _whole(length: timedelta) -> timedelta:
    """Return *length* in whole minutes, to be shown."""
    return max(timedelta(minutes=round(length / _MINUTE)), _MINUTE)


def unread_feeds(settings: DescribedSettings, read: set[str | None]) -> list[str]:
    """P15: return a sentence for each feed of the description that is not among those *read*."""
    return [f"the feed {feed} is not read" for feed in settings.FEED.feeds if feed not in read]
