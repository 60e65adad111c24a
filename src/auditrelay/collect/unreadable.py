"""
What cannot be read of a source, however small the request: found, remembered, retried, declared.

A request may fail the same way every time, because of one record or because of its length. So what
fails is asked for in smaller parts, and what lies behind the unreadable one is read at once. A
source that is down fails the same way, too, and must not be asked for thousands of small parts: so
nothing is made smaller, and nothing is given up, unless the source answers another request.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from auditrelay.clock import Clock
from auditrelay.errors import PeerBug, Refused, RelayError, Retryable, WalkBroken, code_of
from auditrelay.settings import SourceSettings
from auditrelay.sources import UNREADABLE, Source
from auditrelay.store.conditions import SourceCondition, UnreadableSpan
from auditrelay.supervisor import RETRY_FIRST, RETRY_MAX
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import MIN_SPLIT, Interval

UNREADABLE_AFTER: Final = timedelta(hours=1)
"""How long attempts must have failed at an unreadable span until it is declared as a gap."""

UNREADABLE_TRIES: Final = 5
"""How many attempts must have failed at the span by then."""

RETRY_AFTER: Final = UNREADABLE_AFTER / UNREADABLE_TRIES
"""How long an unreadable span rests between two attempts; after a bug: as any peer that has one."""

Failure = WalkBroken | Retryable | PeerBug
"""What may be due to one record, or to the length of a window."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Probe:
    """Another request to the source *name*: for the newest second that has settled."""

    def __init__(self, name: str, settings: SourceSettings, source: Source, clock: Clock) -> None:
        self._name = name
        self._settings = settings
        self._source = source
        self._clock = clock

    async def answers(self, error: Failure | None = None) -> bool:
        """
        Return whether the source answers; it has no part in any window that moves with the clock.

        It is the smallest request. But where *error* is a refusal, it is like the one that is
        refused, as that may be due to a setting such as the page size; where time is no filter,
        that would show the same records. Raises Refused if the source will not answer until an
        operator acts, and after a refusal whatever else it meets: that tells more.
        """
        refused = isinstance(error, Refused)
        end = self._clock.confirmed.certain(self._name) - self._settings.settle
        finely = not (refused and self._settings.filters_time)
        walk = self._source.walk(Interval(end - MIN_SPLIT, end), finely=finely)
        try:
            async with contextlib.aclosing(walk) as pages:
                async for page in pages:
                    if page.unreadable:
                        return False  # it has passed over what was not answered
        except (WalkBroken, Retryable, PeerBug) as met:
            if refused and not isinstance(met, Refused):
                raise
            return False
        return True


Answers = Callable[[Failure], Awaitable[bool]]
"""Tells whether the source answers another request, after a failure of one."""

GiveUp = Callable[[Interval, Failure], Awaitable[None]]
"""Takes a span that cannot be read, and why; what is behind it is read then."""


class Unreadable:
    """
    The unreadable spans of the source *name*, kept in its *condition*, which is saved.

    A span is retried now and then. It is a gap only once that has failed for long, and not at all
    while it is our own code that fails: that holds the source.
    """

    def __init__(self, name: str, condition: SourceCondition, *, clock: Clock) -> None:
        self._name = name
        self._condition = condition
        self._clock = clock
        self._has_retried = False

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._condition.unreadable)

    @property
    def intervals(self) -> list[Interval]:
        """All of them."""
        return list(map(_interval, self._condition.unreadable))

    def add(self, interval: Interval, error: RelayError) -> None:
        """Remember that *interval* cannot be read."""
        now = self._now().isoformat()
        span = UnreadableSpan(
            interval.start.isoformat(),
            interval.end.isoformat(),
            since=now,
            tried_at=now,
            tries=1,
            code=code_of(error),
            reason=scrub(str(error)),
        )
        self._condition.unreadable = _merged([*self._condition.unreadable, span])
        report(self._name, interval, error)

    def keep(self, unread: Callable[[Interval], Sequence[Interval]]) -> None:
        """Forget what was read or declared meanwhile; *unread* tells what of a span was not."""
        self._condition.unreadable = tuple(
            msgspec.structs.replace(span, start=part.start.isoformat(), end=part.end.isoformat())
            for span in self._condition.unreadable
            for part in unread(_interval(span))
        )

    async def retry(
        self,
        read: Callable[[Interval, GiveUp], Awaitable[None]],
        answers: Answers,
    ) -> None:
        """
        Have each span *read* that has rested; what fails again is remembered as it was found.

        A span that fails as a whole has failed once more, if the source *answers* another request.
        """
        spans, first, self._has_retried = self._condition.unreadable, not self._has_retried, True
        for span in spans:
            if self._now() - datetime.fromisoformat(span.tried_at) < _rest(span, first=first):
                continue
            again = _Again(span, self._now)
            interval = _interval(span)
            try:
                for part in _halves(interval):
                    await read(part, again.give_up)
            except (WalkBroken, Retryable, PeerBug) as error:
                if not await answers(error):
                    raise
                again.failed.clear()
                await again.give_up(interval, error)
            others = [each for each in self._condition.unreadable if each is not span]
            self._condition.unreadable = _merged([*others, *again.failed])

    def given_up(self) -> list[Interval]:
        """Return those that failed often enough, and for long."""
        return [
            _interval(span)
            for span in self._condition.unreadable
            if not _is_bug(span)
            and span.tries >= UNREADABLE_TRIES
            and self._now() - datetime.fromisoformat(span.since) >= UNREADABLE_AFTER
        ]

    def _now(self) -> datetime:
        """Return the latest moment that is certainly past: a gap is for good."""
        return self._clock.confirmed.certain(self._name)

    def error(self) -> WalkBroken:
        """Return the error of a poll that has read everything but these."""
        spans = self._condition.unreadable
        first = next(filter(_is_bug, spans), spans[0])
        more = f" and {len(spans) - 1} more spans" if len(spans) > 1 else ""
        given_up = (
            f", and declared as a gap after {UNREADABLE_AFTER // timedelta(minutes=1)} minutes"
        )
        error = WalkBroken(
            f"{first.start} .. {first.end}{more} cannot be read, however small the request "
            f"({first.reason}); everything else was read. It is retried"
            f"{'' if _is_bug(first) else given_up}",
            reason=PeerBug.reason if _is_bug(first) else UNREADABLE,
        )
        error.window = _interval(first)
        return error


def _rest(span: UnreadableSpan, *, first: bool) -> timedelta:
    """Return how long *span* rests; *first*: since the start, which may be of a better version."""
    if not _is_bug(span):
        return RETRY_AFTER
    if first:
        return timedelta(0)
    return timedelta(seconds=min(RETRY_FIRST * 2 ** min(span.tries - 1, 10), RETRY_MAX))


def _is_bug(span: UnreadableSpan) -> bool:
    return span.code == PeerBug.reason


def _halves(interval: Interval) -> list[Interval]:
    """
    Return *interval* in halves, unless it is short, the newer one first.

    A long block is given up in longer and longer parts, the last of which may reach far behind it:
    so each attempt begins with parts that begin elsewhere.
    """
    if interval.length <= 4 * MIN_SPLIT:
        return [interval]
    middle = interval.start + interval.length / 2
    return [Interval(middle, interval.end), Interval(interval.start, middle)]


def _merged(spans: Iterable[UnreadableSpan]) -> tuple[UnreadableSpan, ...]:
    """Return *spans* in order of time, those that touch as one, which has failed as seldom."""
    merged: list[UnreadableSpan] = []
    for span in sorted(spans, key=lambda each: _interval(each).start):
        if merged and merged[-1].end == span.start and _is_bug(merged[-1]) == _is_bug(span):
            last = merged.pop()
            span = msgspec.structs.replace(  # noqa: PLW2901  # the two are one from here on
                span,
                start=last.start,
                since=max(last.since, span.since),
                tries=min(last.tries, span.tries),
            )
        merged.append(span)
    return tuple(merged)


class _Again:
    """Another attempt at a *span*: which parts of it have failed again, and when it is *now*."""

    def __init__(self, span: UnreadableSpan, now: Callable[[], datetime]) -> None:
        self.failed: list[UnreadableSpan] = []
        self._span = span
        self._now = now

    async def give_up(self, part: Interval, error: Failure) -> None:
        """Remember that *part* has failed again."""
        failed = msgspec.structs.replace(
            self._span,
            start=part.start.isoformat(),
            end=part.end.isoformat(),
            tries=self._span.tries + 1,
            tried_at=self._now().isoformat(),
            code=code_of(error),
            reason=scrub(str(error)),
        )
        self.failed.append(failed)


def passed_over() -> WalkBroken:
    """Return the error for a part whose walk has passed over a record that cannot be read."""
    return WalkBroken("the source fails at a record of it", reason=UNREADABLE)


def report(name: str, interval: Interval, error: RelayError) -> None:
    """Log that *interval* of the source *name* cannot be read."""
    _log.warning(
        "span_unreadable",
        source=name,
        start=interval.start.isoformat(),
        end=interval.end.isoformat(),
        reason=scrub(str(error)),
    )


def _interval(span: UnreadableSpan) -> Interval:
    return Interval(datetime.fromisoformat(span.start), datetime.fromisoformat(span.end))
