"""
Read a window in parts, each as long as the density of the events read lately allows.

A walk of more events than its budget breaks, and what it has read is read again. So a window is
cut before it is walked: the first part is short, the next ones grow over empty time and shrink at
once where events are dense. Where a walk breaks all the same, what it has shown says how to cut
its part.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

import structlog

from auditrelay.errors import WalkBroken
from auditrelay.settings import SourceSettings
from auditrelay.window import MAX_WINDOW, MIN_SPLIT, Interval

FIRST_LENGTH: Final = timedelta(hours=6)
"""Length of the first part of a source that may have any number of events."""

GROWTH: Final = 4
"""How many times as long as the last part the next one may be, at most."""

SHARE: Final = 0.4
"""How much of the budget a part should use: it may turn out to be denser than the last ones."""

MEMORY: Final = 3 / 4
"""How much each part weighs in the mean, of what the next one does."""

ALMOST: Final = 1.25
"""A span of up to that many lengths is read as one part: a short rest would cost a walk."""

EDGE: Final = timedelta(seconds=1)
"""What is cut off as empty ends this far from the nearest event: vendors round times."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """The most events that a walk may show; with more it breaks, and its window is cut."""

    counted: int
    """If the vendor tells a total: then the first page breaks the walk, and costs little."""
    uncounted: int
    """If it tells none: then all that was shown by then has to be shown again."""


WALK: Final = Budget(counted=50_000, uncounted=100_000)
"""The budget of a walk whose events are stored page by page."""


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What a walk has shown before it broke.

    *oldest* and *newest* are None if no record had a time. *newest_first* is None if the pages came
    in no order of time.
    """

    events: int
    oldest: datetime | None = None
    newest: datetime | None = None
    newest_first: bool | None = None


class PartLength:
    """
    The length of the next part of one source: such that it is likely to show *target* events.

    *first* is its length as long as nothing is known.

    It shrinks at once where a part had more, and grows as far as the mean of the last few parts
    allows: where bursts and emptiness alternate it settles between them. Pure: the same parts and
    counts give the same lengths.
    """

    def __init__(self, target: int, *, first: timedelta = FIRST_LENGTH) -> None:
        self._target = target
        self._events = self._seconds = 0.0
        """Of the last parts, the older the less they weigh."""
        self.length = first
        """How long the next part should be."""

    @classmethod
    def of(cls, settings: SourceSettings, budget: Budget) -> Self:
        """Return the length of the first part for a source with *settings*, within *budget*."""
        if settings.filters_time:
            return cls(int(budget.counted * SHARE))
        # Each walk passes everything that is newer than its window: the fewer walks, the better.
        return cls(budget.uncounted, first=MAX_WINDOW)

    def read(self, part: Interval, events: int) -> None:
        """Learn that *part* was read to its end, and had so many *events*."""
        seconds = part.length.total_seconds()
        self._events = self._events * MEMORY + events
        self._seconds = self._seconds * MEMORY + seconds
        fitting = self._fitting(events, seconds)
        if fitting < self.length:
            self.length = fitting
        else:
            mean = self._fitting(self._events, self._seconds)
            self.length = max(self.length, min(fitting, mean, part.length * GROWTH))

    def broke(self, part: Interval, shown: Shown | None) -> None:
        """Learn that the walk of *part* broke after it had *shown* so much."""
        self.length = part.length / 2
        if shown is None or shown.oldest is None or shown.newest is None or not shown.events:
            return
        seconds = max(shown.newest - shown.oldest, EDGE).total_seconds()
        self._events, self._seconds = shown.events, seconds
        # Half the usual: how dense the rest of the part is, is a guess.
        share = min(self._target / shown.events, 1) / 2
        self.length = min(self.length, timedelta(seconds=max(seconds * share, 1)))

    def _fitting(self, events: float, seconds: float) -> timedelta:
        """Return how long a part may be where there are so many *events* in so many *seconds*."""
        fitting = seconds * self._target / max(events, 1)
        return min(timedelta(seconds=max(fitting, 1)), MAX_WINDOW)


@dataclass(frozen=True, slots=True)
class Span:
    """Time that is still to be read; *backwards* if its last part is to be read first."""

    interval: Interval
    backwards: bool = False

    def cut(self, length: timedelta) -> "tuple[Interval, Span | None]":
        """Return the next part, of about *length*, and the rest."""
        whole = self.interval
        if whole.length <= length * ALMOST:
            return whole, None
        if self.backwards:
            at = whole.end - length
            return Interval(at, whole.end), Span(Interval(whole.start, at), backwards=True)
        at = whole.start + length
        return Interval(whole.start, at), Span(Interval(at, whole.end))


def spans_of(part: Interval, shown: Shown | None) -> list[Span]:
    """
    Return what is to be read of *part* whose walk broke, in the order in which it is to be read.

    The dense end first, from there on towards the other one: how dense the events are there is
    known. The time beyond it that was seen to be empty is a span of its own.
    """
    if shown is None or shown.newest_first is None or shown.newest is None or shown.oldest is None:
        return [Span(part)]
    backwards = shown.newest_first
    edge = shown.newest + EDGE if backwards else shown.oldest - EDGE
    if not part.start < edge < part.end:
        return [Span(part, backwards)]
    before, after = Interval(part.start, edge), Interval(edge, part.end)
    return [Span(before, backwards=True), Span(after)] if backwards else [Span(after), Span(before)]


def can_be_cut(part: Interval) -> bool:
    """Return whether *part* may still be cut into smaller ones; else a walk of it has no budget."""
    return part.length > MIN_SPLIT


async def in_parts(
    source: str,
    window: Interval,
    length: PartLength,
    read: Callable[[Interval], Awaitable[int]],
) -> None:
    """
    Read *window* in parts; where a walk breaks, only its part is repeated, in smaller parts.

    *read* gets each part, and returns how many events it had. *source* is the name for the log.
    Raises WalkBroken, with the part in it, if a part that is too short to be cut cannot be read.
    """
    todo = [Span(window)]
    while todo:
        part, rest = todo.pop().cut(length.length)
        if rest is not None:
            todo.append(rest)
        try:
            events = await read(part)
        except WalkBroken as error:
            if not can_be_cut(part):
                error.window = part
                raise
            length.broke(part, error.shown)
            todo += reversed(spans_of(part, error.shown))
            _log.warning(
                "window_halved",
                source=source,
                start=part.start.isoformat(),
                end=part.end.isoformat(),
                reason=error.reason,
            )
        else:
            length.read(part, events)
