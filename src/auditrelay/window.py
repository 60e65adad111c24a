"""
Windows and intervals of event time: pure functions, no clock, no I/O.

The ledger of a source is a set of half-open intervals, covered or declared as a gap. The checkpoint
is derived from the ledger, and the next window from the checkpoint. The newest event that was seen
plays no part: an event time says nothing about what else there was to read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAX_WINDOW = timedelta(days=30)
"""The longest window, whatever the configuration says."""

MIN_SPLIT = timedelta(seconds=1)
"""A window of this length, or a shorter one, is not cut into smaller ones."""


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A half-open span of event time: *start* is included, *end* is not."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Reject a span that is empty or runs backwards: it would claim time that was not read."""
        if not self.start < self.end:
            raise ValueError(f"an interval must end after it starts: {self.start} .. {self.end}")

    @property
    def length(self) -> timedelta:
        """The time between *start* and *end*."""
        return self.end - self.start

    def overlaps(self, other: "Interval") -> bool:
        """Return whether the two share any time."""
        return self.start < other.end and other.start < self.end


def micros(moment: datetime) -> int:
    """Return *moment* as whole microseconds since 1970 UTC, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """Return the time *micros* microseconds after 1970 UTC, exactly."""
    return EPOCH + timedelta(microseconds=micros)


def iso(at: datetime, timespec: str = "auto") -> str:
    """Return *at* in ISO 8601 and UTC, with a Z; *timespec* as in ``datetime.isoformat``."""
    return at.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def covered_until(start: datetime, ledger: Iterable[Interval]) -> datetime:
    """
    Return the end of the unbroken run of intervals that begins at *start*.

    Intervals beyond the first hole do not count: the checkpoint must not pass a single point in
    time that was not read.
    """
    for interval in sorted(ledger):
        if interval.start > start:
            break
        start = max(start, interval.end)
    return start


def holes(wanted: Interval, ledger: Iterable[Interval]) -> Iterator[Interval]:
    """Yield the parts of *wanted* that no interval of *ledger* contains, in order of time."""
    start = wanted.start
    for interval in sorted(ledger):
        if interval.end <= start:
            continue
        if interval.start >= wanted.end:
            break
        if interval.start > start:
            yield Interval(start, interval.start)
        start = max(start, interval.end)
    if start < wanted.end:
        yield Interval(start, wanted.end)


def until(end: datetime, spans: Iterable[Interval]) -> Iterator[Interval]:
    """Yield what of *spans* is before *end*."""
    for span in spans:
        if span.start < end:
            yield Interval(span.start, min(span.end, end))


def next_window(
    checkpoint: datetime,
    now: datetime,
    *,
    settle: timedelta,
    overlap: timedelta,
    max_window: timedelta,
) -> Interval | None:
    """
    Return the next window to walk, or None if nothing new has settled.

    The window ends *settle* before *now*, because sources publish late, and starts *overlap* before
    *checkpoint*, because they also publish out of order. It spans at most *max_window*, including
    the overlap; a longer outage becomes several windows.
    """
    start = checkpoint - overlap
    end = min(start + min(max_window, MAX_WINDOW), now - settle)
    return Interval(start, end) if end > checkpoint else None


def slices(span: Interval, longest: timedelta) -> Iterator[Interval]:
    """Yield *span* in parts of *longest*, in order of time; the last part may be shorter."""
    start = span.start
    while start < span.end:
        end = min(span.end, start + longest)
        yield Interval(start, end)
        start = end


def overdue(
    checkpoint: datetime, now: datetime, *, catch_up_limit: timedelta | None
) -> Interval | None:
    """
    Return the span after *checkpoint* that is older than *catch_up_limit*, or None.

    The caller must declare it as a gap; it is never skipped silently.
    """
    if catch_up_limit is None or now - checkpoint <= catch_up_limit:
        return None
    return Interval(checkpoint, now - catch_up_limit)
