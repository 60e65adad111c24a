"""
What survives a crash: the coverage ledger, the spool, the known uids, positions, dead letters.

The store is the only place where collecting and delivering meet. Each method below that writes is
one transaction: when it returns, what it says is on the disk; when it raises, nothing of it is.
A caller that is cancelled does not undo a write, so every write is right whether or not anybody
waits for the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from auditrelay.events import AuditEvent
from auditrelay.window import Interval


@dataclass(frozen=True, slots=True)
class Span:
    """
    One entry of a source's ledger: covered if *gap* is None, else a gap for that reason.

    *events* counts the distinct events in it, *digest* is the exclusive-or of their uids: equal
    for equal sets of events, in whatever order they came.
    """

    interval: Interval
    gap: str | None = None
    events: int = 0
    digest: str = "0" * 40


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a page: the indices of the events that were *new* and went to the spool."""

    new: tuple[int, ...]
    known: int


@dataclass(frozen=True, slots=True)
class SpoolPage:
    """
    Events from the spool, of one source, in positions [*first*, *first* + len(*events*)).

    *size* is what the whole page takes in the spool, in bytes.
    """

    first: int
    source: str
    events: list[AuditEvent]
    size: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that *sink* will never accept, and why."""

    event: AuditEvent
    reason: str
    message: str
    status: int | None
    attempts: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it lies in the store."""

    id: int
    sink: str
    source: str
    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the store knows of a source: where it *started*, its ledger, its *condition*."""

    name: str
    started: datetime
    ledger: tuple[Span, ...]
    condition: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SinkState:
    """What the store knows of a sink: its *position*, what waits for it, its *condition*."""

    name: str
    position: int
    backlog_events: int
    oldest_undelivered: datetime | None
    dead_letters: int
    condition: Mapping[str, object]


class Store(Protocol):
    """The contract between the two loops and whatever keeps their state."""

    async def start_source(self, source: str, first: datetime) -> datetime:
        """
        Return where *source* starts; one never seen before starts at *first*, for good.

        *first* is stored at once. If it were computed anew on every poll, a source that is down
        on its first day would start later and later, and lose events.
        """

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """Return the ledger of *source*, in order of time."""

    async def add(
        self, source: str, events: Sequence[AuditEvent], *, covers: Interval | None = None
    ) -> Added:
        """
        Put those *events* into the spool whose uid is not known yet, and remember them.

        *covers* comes with the last page of a walk: the interval is covered in the same
        transaction as the events that prove it. Raises StoreFull if there is no room.
        """

    async def declare_gap(
        self, source: str, interval: Interval, reason: str, notice: AuditEvent
    ) -> tuple[Interval, ...]:
        """
        Declare what the ledger does not hold of *interval* as a gap; spool *notice* if there was.

        Returns the new gaps: none if all of it was covered or declared before.
        """

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """Return how far the second look of *delay* has come: at first, where *source* starts."""

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """Record that the second look of *delay* has come to *until*."""

    async def start_sink(self, sink: str, sources: Sequence[str]) -> None:
        """
        Make *sink* known as a reader of *sources*; a new one begins at the end of the spool.

        From then on, nothing that it has not acknowledged is pruned.
        """

    async def read(self, sink: str, after: int, most: int) -> list[SpoolPage]:
        """
        Return the next pages for *sink* from position *after* on.

        They hold about *most* events, or fewer if they are large. What the sink has acknowledged
        already is left out. An empty list means that nothing waits.
        """

    async def retire_sinks(self, active: Sequence[str]) -> tuple[str, ...]:
        """
        Let every sink but the *active* ones receive nothing from now on.

        What waits for one of them is kept until it is made known again; their names are returned.
        """

    async def event_at(self, position: int) -> AuditEvent:
        """Return the event at *position* of the spool, which some sink has yet to settle."""

    async def settle(
        self, sink: str, done: Sequence[tuple[int, int]], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """
        Record that *sink* is done with the positions of each half-open range in *done*.

        Its position moves to the end of the contiguous part; what lies beyond is remembered. The
        dead letters are written in the same transaction.
        """

    async def note(
        self, peer: Literal["source", "sink"], name: str, condition: Mapping[str, object]
    ) -> None:
        """Record how *name* fares (JSON values), for ``status`` beside and after the service."""

    async def prune(self, now: datetime) -> int:
        """Delete what every sink has and retention has passed; return how many events went."""

    async def make_room(self) -> bool:
        """
        Give up delivered events before their retention has passed, oldest first, if room is short.

        Keeping them is a convenience; collecting is the purpose. Returns whether there is room.
        """
