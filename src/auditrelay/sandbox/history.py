"""
A vendor's audit records, each with its time and the time from which it is visible.

A record may appear late (*visible_from*) and may be deleted (*gone_from*); both are compared with
the clock of the caller. ``History`` is for tests, ``GeneratedRecords`` for load: millions of
records that are generated only when they are read.
"""

import json
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import ceil, inf
from typing import Any, Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Return *at* (with a zone) in whole microseconds since the epoch."""
    return (at - _EPOCH) // _MICROSECOND


def parse_time(text: str) -> int:
    """
    Return an ISO 8601 *text* in microseconds since the epoch; without a zone it is UTC.

    Raises ValueError. A ``+`` that was not percent-encoded arrives as a blank and is refused.
    """
    at = datetime.fromisoformat(text)
    return micros(at if at.tzinfo is not None else at.replace(tzinfo=UTC))


@dataclass(slots=True)
class Entry:
    """
    One record: its native *id*, its time (*at*, microseconds), and its JSON *text*.

    *visible_from* and *gone_from* are epoch seconds; the record is visible between them.
    """

    id: str
    at: int
    text: bytes
    visible_from: float = -inf
    gone_from: float = inf

    @property
    def record(self) -> dict[str, Any]:
        """The record as JSON values."""
        record: dict[str, Any] = json.loads(self.text)
        return record


@dataclass(frozen=True, slots=True)
class Span:
    """A vendor's time filter in microseconds; None is unbounded, the flags include the bounds."""

    lower: int | None = None
    upper: int | None = None
    lower_inclusive: bool = True
    upper_inclusive: bool = True


class Records(Protocol):
    """The records of a double, in order of time."""

    def select(self, span: Span, now: float) -> Sequence[Entry]:
        """Return the records in *span* that are visible at *now*, oldest first."""

    def find(self, native_id: str, now: float) -> Entry | None:
        """Return the record *native_id*, if it is visible at *now*."""

    def ids(self) -> Iterator[str]:
        """Yield the native id of every record that was ever created."""


class History:
    """Records that tests add one by one, in any order."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._times: list[int] = []
        self._by_id: dict[str, Entry] = {}
        self._changing = False

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        record: dict[str, Any],
        *,
        id: str,  # noqa: A002  # what every vendor calls it
        at: datetime,
        visible_from: datetime | None = None,
        gone_from: datetime | None = None,
    ) -> Entry:
        """Store *record*; records of equal time keep the order in which they were added."""
        if id in self._by_id:
            raise ValueError(f"there is already a record {id}")
        entry = Entry(
            id,
            micros(at),
            json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode(),
            -inf if visible_from is None else visible_from.timestamp(),
            inf if gone_from is None else gone_from.timestamp(),
        )
        place = bisect_right(self._times, entry.at)
        self._entries.insert(place, entry)
        self._times.insert(place, entry.at)
        self._by_id[id] = entry
        self._changing |= visible_from is not None or gone_from is not None
        return entry

    def remove(self, native_id: str) -> None:
        """Delete the record now; it still counts as created."""
        self._by_id[native_id].gone_from = -inf
        self._changing = True

    def edit(self, native_id: str, *, at: datetime | None = None, **fields: Any) -> None:
        """Alter *fields* of the record, and its place in the order of time if *at* is given."""
        entry = self._by_id[native_id]
        record = {**entry.record, **fields}
        entry.text = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
        if at is not None:
            place = self._entries.index(entry)
            del self._entries[place], self._times[place]
            entry.at = micros(at)
            place = bisect_right(self._times, entry.at)
            self._entries.insert(place, entry)
            self._times.insert(place, entry.at)

    def select(self, span: Span, now: float) -> Sequence[Entry]:
        """Return the records in *span* that are visible at *now*, oldest first."""
        first, last = 0, len(self._times)
        if span.lower is not None:
            cut = bisect_left if span.lower_inclusive else bisect_right
            first = cut(self._times, span.lower)
        if span.upper is not None:
            cut = bisect_right if span.upper_inclusive else bisect_left
            last = cut(self._times, span.upper)
        found = self._entries[first:last]
        if self._changing:
            found = [entry for entry in found if entry.visible_from <= now < entry.gone_from]
        return found

    def find(self, native_id: str, now: float) -> Entry | None:
        """Return the record *native_id*, if it is visible at *now*."""
        entry = self._by_id.get(native_id)
        return entry if entry and entry.visible_from <= now < entry.gone_from else None

    def ids(self) -> Iterator[str]:
        """Yield the native id of every record that was ever created."""
        return iter(self._by_id)

    def ids_between(self, start: datetime, end: datetime) -> Iterator[str]:
        """Yield the native ids of all records in ``[start, end)``, visible or not."""
        first = bisect_left(self._times, micros(start))
        last = bisect_left(self._times, micros(end))
        return (entry.id for entry in self._entries[first:last])


class GeneratedRecords(Sequence[Entry]):
    """
    *count* records at equal intervals over ``[start, start + span)``, generated when they are read.

    *name* returns the id of record *i*, *write* the text of record *i* with the time *at*
    (microseconds). Nothing is stored, so ten million records take as much memory as ten.
    """

    def __init__(
        self,
        count: int,
        start: datetime,
        span: timedelta,
        name: Callable[[int], str],
        write: Callable[[int, int], bytes],
    ) -> None:
        self._range = range(count)
        self._start = micros(start)
        self._length = span // _MICROSECOND
        self._all = count
        self._name = name
        self._write = write

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            part = object.__new__(GeneratedRecords)
            part.__dict__.update(self.__dict__)
            part._range = self._range[index]  # its own kind
            return part
        number = self._range[index]
        at = self._at(number)
        return Entry(self._name(number), at, self._write(number, at))

    def joined(self) -> bytes:
        """Return the texts of all records, joined by commas, faster than one by one."""
        start, length, count, write = self._start, self._length, self._all, self._write
        return b",".join(
            [write(number, start + number * length // count) for number in self._range]
        )

    def _at(self, number: int) -> int:
        return self._start + number * self._length // self._all

    def select(self, span: Span, now: float) -> Sequence[Entry]:
        """Return the records in *span*, oldest first; all of them are visible up to *now*."""
        first = self._first(span.lower, after=not span.lower_inclusive)
        last = self._first(span.upper, after=span.upper_inclusive, otherwise=len(self))
        last = min(last, self._first(int(now * 1_000_000), after=True))
        part: Sequence[Entry] = self[first : max(first, last)]
        return part

    def _first(self, at: int | None, *, after: bool, otherwise: int = 0) -> int:
        """Return the first record at or, if *after*, later than *at*."""
        if at is None:
            return otherwise
        cut = bisect_right if after else bisect_left
        return cut(self._range, at, key=self._at)

    def find(self, native_id: str, now: float) -> Entry | None:
        """Return the record *native_id* (slow: a linear search)."""
        return next((entry for entry in self.select(Span(), now) if entry.id == native_id), None)

    def ids(self) -> Iterator[str]:
        """Yield the native id of every record."""
        return (self._name(number) for number in self._range)


def joined(part: Sequence[Entry]) -> bytes:
    """Return the texts of *part*, joined by commas."""
    if isinstance(part, GeneratedRecords):
        return part.joined()
    return b",".join([entry.text for entry in part])


@lru_cache(maxsize=16)
def second(at: int) -> bytes:
    """Return the UTC time *at* seconds after the epoch as ISO 8601, without zone or fraction."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)).encode()


def over_rate(recent: deque[float], rate: int, now: float) -> int:
    """Count the request and return 0, or return the seconds until *rate* (a minute) allows one."""
    while recent and recent[0] <= now - 60:
        recent.popleft()
    if len(recent) >= rate:
        return max(1, ceil(recent[0] + 60 - now))
    recent.append(now)
    return 0
