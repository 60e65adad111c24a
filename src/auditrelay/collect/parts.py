"""
Read a window in parts, each as long as the density of the events read lately allows.

A walk of more events than its budget breaks, and what it has read is read again. So a window is
cut before it is walked: the first part is short, the next ones grow over empty time and shrink at
once where events are dense. A part that has grown may meet a burst: its first page shows how dense
that is, so its walk is broken off there. Where a walk breaks, what it has shown says how to cut its
part.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol, Self

import structlog

from auditrelay.collect.unreadable import Answers, Failure, GiveUp
from auditrelay.errors import PeerBug, Refused, Retryable, WalkBroken, code_of, may_be_due_to_size
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

CLEARLY: Final = 3 / 4
"""A part whose walk broke is cut to no more than that: it is then not read as one part again."""

EDGE: Final = timedelta(seconds=1)
"""What is cut off as empty ends this far from the nearest event: vendors round times."""

FEW_WALKS: Final = 1_000
"""The same as GROWTH for a source each of whose walks passes everything newer than its window."""

SPARE: Final = 1 / 10
"""
How much of the budget may be shown in vain at first. A walk breaks early where it seems to have
more than its budget: if that is right, what it has shown is at most a tenth of what there is.
"""

EARNED: Final = 1 / 10
"""How much of what was read may be shown in vain later on."""

MOST_SPARE: Final = 1 / 4
"""How much of the budget may be shown in vain at once, however much was read."""

LEAST_SPARE: Final = 1 / 50
"""How much of it in any case."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """The most events that a walk may show; with more it breaks, and its window is cut."""

    counted: int
    """If the vendor tells a total: then the first page breaks the walk, and costs little."""
    uncounted: int
    """If it tells none: then all that was shown by then has to be shown again."""
    spare: int = 0
    """
    How many events may be shown in vain if there is no total: up to there, or on its first page, a
    walk breaks as soon as the density of what it shows says that its window has more than
    *uncounted*. With 0 it does not.
    """
    burst: int = 0
    """That many events close together are usual: the density of no fewer is judged."""


WALK: Final = Budget(counted=50_000, uncounted=100_000)
"""The budget of a walk whose events are stored page by page."""


@dataclass(frozen=True, slots=True)
class Shown:
    """
    What a walk has shown before it broke.

    *oldest* and *newest* are None if no record had a time. *newest_first* is None if the pages came
    in no order of time.

    *dense_from* is None unless the walk broke for the density of the *dense* events that it had
    shown last, from that time on.
    """

    events: int
    oldest: datetime | None = None
    newest: datetime | None = None
    newest_first: bool | None = None
    dense_from: datetime | None = None
    dense: int = 0
    pages: tuple[tuple[int, datetime], ...] = ()
    """How many events had been shown before each page, and the time of its first one."""

    @property
    def first(self) -> datetime | None:
        """The time at which the walk began to show something."""
        return self.newest if self.newest_first else self.oldest

    @property
    def last(self) -> datetime | None:
        """The time at which it broke."""
        return self.oldest if self.newest_first else self.newest


OVER_BUDGET: Final = "over_budget"
"""Reason of a walk that broke because there is much to read, not because something is wrong."""

MAX_UNREADABLE_SPANS: Final = 20
"""
How many spans are given up while one window is read.

If there are more, it fails, and the next attempt goes on from there, instead of sending request
after request.
"""

REGROWTH: Final = 1.01
"""By how much the length at which reading failed grows with each part that was read."""


class PartLength:
    """
    The length of the next part of one source: such that it is likely to show *target* events.

    *first* is its length as long as nothing is known. *budget* is that of a walk. *growth* is how
    many times as long as the last part the next one may be. *cuts_time*: whether a shorter part is
    a smaller request.

    It shrinks at once where a part had more, and grows as far as the mean of the last few parts
    allows: where bursts and emptiness alternate it settles between them. Pure: the same parts and
    counts give the same lengths.
    """

    def __init__(
        self,
        target: int,
        budget: Budget,
        *,
        first: timedelta = FIRST_LENGTH,
        growth: int = GROWTH,
        cuts_time: bool = True,
    ) -> None:
        self.cuts_time = cuts_time
        self._good = timedelta(0)
        """The longest part that was read."""
        self._bad: timedelta | None = None
        """The shortest part that failed, if that seems to be due to its length."""
        self._target = target
        self._budget = budget
        self._growth = growth
        self._spare = budget.uncounted * SPARE
        self._burst = 0
        self._suspect: Interval | None = None
        """Where more events than the budget were expected when a walk last broke for that."""
        self._found = 0
        """How many there were."""
        self._events = self._seconds = 0.0
        """Of the last parts, the older the less they weigh."""
        self.length = first
        """How long the next part should be."""

    @classmethod
    def of(cls, settings: SourceSettings, budget: Budget) -> Self:
        """Return the length of the first part for a source with *settings*, within *budget*."""
        if settings.filters_time:
            return cls(int(budget.counted * SHARE), budget)
        # Each walk passes everything that is newer than its window: the fewer walks, the better.
        target = int(budget.uncounted * SHARE)
        return cls(target, budget, first=MAX_WINDOW, growth=FEW_WALKS, cuts_time=False)

    @property
    def budget(self) -> Budget:
        """The budget of the walk of the next part."""
        return replace(
            self._budget,
            spare=int(max(self._spare, self._budget.uncounted * LEAST_SPARE)),
            burst=self._burst,
        )

    def read(self, part: Interval, events: int) -> None:
        """Learn that *part* was read to its end, and had so many *events*."""
        self._spare = min(self._spare + events * EARNED, self._budget.uncounted * MOST_SPARE)
        if self._suspect is not None and self._suspect.overlaps(part):
            self._found += events
        seconds = part.length.total_seconds()
        self._good = max(self._good, part.length)
        self._events = self._events * MEMORY + events
        self._seconds = self._seconds * MEMORY + seconds
        fitting = self._fitting(events, seconds)
        if fitting < self.length:
            self.length = fitting
        else:
            mean = self._fitting(self._events, self._seconds)
            self.length = max(self.length, min(fitting, mean, part.length * self._growth))
        if self._bad is not None:
            self._bad *= REGROWTH
            self.length = min(self.length, max(self._good, self._bad * CLEARLY))

    def failed(self, part: Interval) -> None:
        """
        Learn that the request for *part* failed: the next one is for half of it.

        If no part of that length was ever read, that may be why, and the parts that follow are
        shorter.
        """
        self.length = part.length / 2
        if part.length > self._good:
            self._bad = part.length

    def gave_up(self) -> None:
        """Learn that what failed lately was due to what was there: the next part may be longer."""
        self._bad = None
        self.length = min(self.length * 2, MAX_WINDOW)

    def broke(self, part: Interval, shown: Shown | None) -> None:
        """Learn that the walk of *part* broke after it had *shown* so much."""
        if shown is None or shown.first is None or shown.last is None or not shown.events:
            self.length = part.length / 2
            return
        seconds = max(abs(shown.last - shown.first), EDGE).total_seconds()
        self._events, self._seconds = shown.events, seconds
        # Half the usual: how dense the rest of the part is, is a guess.
        length = seconds * min(self._target / shown.events / 2, self._growth)
        if shown.dense_from is not None:
            self._spare -= shown.events
            seconds = max(abs(shown.last - shown.dense_from), EDGE).total_seconds()
            seconds *= 2 * self._budget.uncounted / shown.dense
            ahead = min(timedelta(seconds=seconds), part.length)
            if shown.newest_first:
                self._expect_burst(Interval(shown.dense_from - ahead, shown.dense_from))
            else:
                self._expect_burst(Interval(shown.dense_from, shown.dense_from + ahead))
        self.length = min(part.length / 2, timedelta(seconds=max(length, 1)))
        few = min(self._target, shown.events - shown.dense)
        ends = [at for before, at in shown.pages if 0 < before <= few]
        if ends and shown.newest_first is not None:
            # It is known where these events end; what comes then begins the next part.
            self.length = min(part.length * CLEARLY, abs(shown.first - ends[-1]) + EDGE)

    def _expect_burst(self, where: Interval) -> None:
        """
        Note that more events than the budget are expected within *where*.

        If fewer came where they were expected the last time, that was a smaller burst, and walks
        need not break for such ones any more.
        """
        if self._suspect is not None:
            if self._suspect.overlaps(where):
                return
            self._burst = self._found if self._found <= self._budget.uncounted else 0
        self._suspect, self._found = where, 0

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
    known. The time beyond it that was seen to be empty is a span of its own. If all were of one
    instant, that is read first, and alone.
    """
    if shown is None or shown.newest is None or shown.oldest is None:
        return [Span(part)]
    if shown.newest == shown.oldest:
        start = max(part.start, min(shown.newest - MIN_SPLIT / 2, part.end - MIN_SPLIT))
        end = min(start + MIN_SPLIT, part.end)
        spans = [Span(Interval(start, end))]
        if part.start < start:
            spans.append(Span(Interval(part.start, start), backwards=True))
        if end < part.end:
            spans.append(Span(Interval(end, part.end)))
        return spans
    if shown.newest_first is None:
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


class ReadPart(Protocol):
    """Reads a part, and returns how many events it had."""

    async def __call__(self, part: Interval, budget: Budget | None, *, finely: bool) -> int:
        """
        Read *part* in one walk, within the *budget*, if it has one.

        *finely*: as :meth:`auditrelay.sources.Source.walk` has it.
        """


async def in_parts(
    source: str,
    window: Interval,
    length: PartLength,
    read: ReadPart,
    *,
    answers: Answers,
    give_up: GiveUp,
) -> None:
    """
    Read *window* in parts; where a walk breaks or fails, its part is repeated in smaller ones.

    *read* gets each part and the budget of its walk, None if there is none because the part is too
    short to be cut. *source* is the name for the log. What cannot be read in the smallest requests
    is given to *give_up*, and the rest of the window is read. If many such parts follow each other,
    they are cut less and less finely. Nothing is cut for a failure, and nothing is given up, unless
    the source *answers* another request.
    Raises what *read* raises; a WalkBroken of the smallest request with the part in it.
    """
    todo = [Span(window)]
    given_up = in_a_row = 0
    while todo:
        part, rest = todo.pop().cut(length.length)
        if rest is not None:
            todo.append(rest)
        smallest = part.length <= MIN_SPLIT * 2**in_a_row
        try:
            events = await read(part, length.budget if can_be_cut(part) else None, finely=False)
        except (WalkBroken, Retryable, PeerBug) as error:
            if await _is_cut(part, error, smallest=smallest, answers=answers):
                # Where all that is newer is walked, too, smaller pages come before shorter parts.
                if (
                    length.cuts_time
                    or code_of(error) == OVER_BUDGET
                    or await _read_finely(part, read, answers) is not None
                ):
                    todo += _halves(source, part, error, length)
                continue
            if given_up == MAX_UNREADABLE_SPANS:
                if isinstance(error, Refused) and await answers(error):
                    raise WalkBroken(str(error), reason=code_of(error)) from error
                raise
            given_up += 1
            length.gave_up()
            why = await _read_finely(part, read, answers)
            if why is not None:
                await give_up(part, why)
                in_a_row += 1
                continue
        else:
            length.read(part, events)
        in_a_row = 0


async def _is_cut(
    part: Interval,
    error: Failure,
    *,
    smallest: bool,
    answers: Answers,
) -> bool:
    """Return whether *part* is read in smaller ones after that *error*; raise it if in none."""
    if not may_be_due_to_size(error):
        raise error
    if code_of(error) == OVER_BUDGET:  # nothing is wrong: there is much to read
        return can_be_cut(part)
    if smallest or not can_be_cut(part):
        return False
    if isinstance(error, WalkBroken):
        return True
    if not await answers(error):
        raise error
    return True


async def _read_finely(part: Interval, read: ReadPart, answers: Answers) -> Failure | None:
    """Read *part* in the smallest requests; return why that fails, though the source *answers*."""
    try:
        await read(part, None, finely=True)
    except (WalkBroken, Retryable, PeerBug) as error:
        if isinstance(error, WalkBroken):
            error.window = part
        if not await answers(error):
            raise
        return error
    return None


def _halves(source: str, part: Interval, error: Failure, length: PartLength) -> list[Span]:
    """Return how *part*, which failed for that *error*, is read: the last of them first."""
    if isinstance(error, WalkBroken):
        length.broke(part, error.shown)
        spans = spans_of(part, error.shown)
    else:
        length.failed(part)
        spans = [Span(part)]
    _log.warning(
        "window_halved",
        source=source,
        start=part.start.isoformat(),
        end=part.end.isoformat(),
        reason=code_of(error),
    )
    return spans[::-1]
