"""
What survives a crash: the coverage ledger, the spool, the known uids, positions, dead letters.

The store is the only connection between collecting and delivering. Each method that writes is one
transaction, unless it says otherwise: when it returns, the write is durable; when it raises,
nothing was written. Cancelling the caller does not undo a write, so every write must be correct
even if its caller is gone.

Every method raises StateError if the state cannot be read or written, and every one that writes
raises StoreFull if the disk has no room. A source or sink must have been started before another
method is called for it, else that method raises KeyError. Each method names its further errors.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from auditrelay.events import AuditEvent
from auditrelay.store.journal import Record
from auditrelay.window import Interval


@dataclass(frozen=True, slots=True)
class Span:
    """
    One entry of a source's ledger: covered if *gap* is None, else a gap with that reason.

    *events* is the number of distinct events in the span, *digest* the exclusive-or of their uids:
    equal for equal sets of events, whatever their order.
    """

    interval: Interval
    gap: str | None = None
    events: int = 0
    digest: str = "0" * 40


@dataclass(frozen=True, slots=True)
class Declared:
    """
    A gap that was declared, or a declared gap that was read after all.

    *new* is false if the gap only extends an earlier entry of the same day.
    """

    interval: Interval
    reason: str
    new: bool


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Something that was read as a whole: its *key* is a digest of its content."""

    key: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Proof:
    """
    What the last page of a walk proves; entered in the same transaction as that page.

    *covers* are spans that were read to their end, *gaps* spans that cannot be read, with a reason
    each. *file* has been read whole. *backfill* is the number of the backfill whose part this
    was.
    """

    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()
    file: KnownFile | None = None
    backfill: int | None = None
    part: Interval | None = None
    """The part of the backfill that is done once this is entered."""
    read: int = 0
    """How many events the source showed of that part."""
    new: int = 0
    """How many of them were new, on the pages before this one."""


@dataclass(frozen=True, slots=True)
class Added:
    """
    The result of storing a page: *new* are the indices of the events that were spooled.

    *known* is how many were deduplicated. *late* are the indices of the new events in a span that
    was covered before. *declared* and *filled* are the gaps that the proof declared and closed.
    """

    new: tuple[int, ...]
    known: int
    late: tuple[int, ...] = ()
    declared: tuple[Declared, ...] = ()
    filled: tuple[Declared, ...] = ()


Notice = Callable[[Declared, bool], AuditEvent]
"""Makes the event that reports a gap: that it was declared, or (true) that it was filled."""


@dataclass(frozen=True, slots=True)
class SpoolPage:
    """
    Events from the spool, of one source, at positions [*first*, *first* + len(*events*)).

    *size* is the size of the whole page in the spool, in bytes.
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
    """
    A dead letter in the store; *sink* is None for a record that was rejected before any sink.

    *replayed* is true while it is being replayed.
    """

    id: int
    sink: str | None
    source: str
    letter: DeadLetter
    replayed: bool = False


DeliveryStatus = Literal["delivered", "waiting", "dead_letter", "dropped", "before_sink"]
"""
The status of a forwarded event at one sink.

``dropped``: a dead letter that an operator discarded. ``before_sink``: the event was forwarded
before the sink received that source.
"""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A started backfill: its number, its range, and which parts of it are done."""

    id: int
    interval: Interval
    done: tuple[Interval, ...]
    events: int = 0
    new: int = 0


@dataclass(frozen=True, slots=True)
class Lateness:
    """
    How many late events were found *via* one kind of read, in one bucket of age.

    They were at most *seconds* old when found, and older than half of that.
    """

    via: str
    seconds: int
    events: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was read of a source, with the evidence; *head* is the last hash of its *journal*."""

    spans: tuple[Span, ...]
    journal: tuple[Record, ...]
    head: bytes | None
    lateness: tuple[Lateness, ...]
    deleted_at_source: int
    differs: str | None
    """Where the ledger and the known uids differ; None if nowhere, or if not compared."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """
    The state of a source: where it *started*, its ledger, its *condition*.

    *late* are the newest journal records of events found in time that was covered before.
    *waiting* is at most how many of its events some sink has yet to acknowledge. *dead_letters*
    counts its records that were rejected before any sink.
    """

    name: str
    started: datetime
    ledger: tuple[Span, ...]
    lateness: tuple[Lateness, ...]
    late: tuple[Record, ...]
    waiting: int
    dead_letters: int
    condition: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SinkState:
    """The state of a sink: its *position*, its backlog, its *condition*."""

    name: str
    position: int
    backlog_events: int
    oldest_undelivered: datetime | None
    dead_letters: int
    condition: Mapping[str, object]


class Store(Protocol):
    """The contract between collecting, delivering and the storage of their state."""

    async def start_source(self, source: str, first: datetime) -> datetime:
        """
        Return where *source* starts; an unknown source is stored to start at *first*, for good.

        The start is durable on return. If it were computed again on every poll, a source that is
        down on its first day would start later and later, and lose events.
        """

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """Return the ledger of *source*, in order of time."""

    async def add(
        self,
        source: str,
        events: Sequence[AuditEvent],
        *,
        via: str = "poll",
        proof: Proof | None = None,
        notice: Notice | None = None,
        bad: Sequence[DeadLetter] = (),
        condition: Mapping[str, object] | None = None,
    ) -> Added:
        """
        Deduplicate *events* by uid, put the new ones into the spool, and remember their uids.

        On return the spooled events, their uids, the *bad* rows, the *proof* and the *condition* of
        *source* are durable together. *via* is the journal's text for the kind of read. *proof*
        comes with the last page of a walk; an event made by *notice* reports each gap that it
        declares or fills. *bad* are records that are no events: unknown ones become dead letters of
        no sink. A *condition* that comes with the page needs no :meth:`save_condition`: a poll that
        finds nothing is one write.

        Raises StoreFull if the spool or the disk has no room.
        """

    async def is_file_known(self, source: str, key: bytes) -> bool:
        """Tell whether *source* has read the file with that digest whole."""

    async def end_of_spool(self) -> int:
        """Return the position that the next spooled event will have."""

    async def record_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """
        Record the known events of *span* that are not in *seen*; return how many are new.

        They were deleted at the source, which is evidence and no error; on return the record is
        durable. *seen* are keys as :func:`auditrelay.store.keys.known_key` makes them. Only events
        spooled *before* that position count: later ones may have come during the read.
        """

    async def count_new(self, source: str, events: Sequence[AuditEvent]) -> int:
        """Return how many of *events* have never been forwarded."""

    async def delivery_status(
        self, source: str, events: Sequence[AuditEvent]
    ) -> list[Mapping[str, DeliveryStatus] | None]:
        """Return the status of each event at every sink; None for an event that is not known."""

    async def find_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """Return uid and time of the events that :meth:`record_deleted` would record."""

    async def count_forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """Return how many events of *span* are known, and the exclusive-or of their uids."""

    async def begin_backfill(
        self, source: str, span: Interval, sinks: Sequence[str], now: datetime
    ) -> Backfill:
        """
        Return the unfinished backfill of *source* into *sinks* that overlaps *span*, or a new one.

        No *sinks* means all of them. An unfinished backfill is resumed: its done parts need not be
        done again. On return its range, widened to *span*, is durable.
        """

    async def end_backfill(self, id: int, now: datetime) -> None:  # noqa: A002  # its name
        """Record, durably, that the whole backfill is done."""

    async def resend(
        self, source: str, sinks: Sequence[str], events: Sequence[AuditEvent], proof: Proof
    ) -> None:
        """
        Put *events*, known or not, into the spool for those *sinks* alone, and enter the *proof*.

        On return both are durable. Raises StoreFull if the spool or the disk has no room.
        """

    async def spooled_events(self, source: str, span: Interval) -> list[AuditEvent] | None:
        """Return all known events of *span* from the spool, or None if some were pruned."""

    async def replay(self, ids: Sequence[int]) -> list[StoredDeadLetter]:
        """
        Spool the dead letters *ids* again, each for its sink; return those that were spooled.

        Dead letters already being replayed are skipped. On return the copies are durable; a dead
        letter is deleted with its delivery, and stays, with one attempt more, if the sink refuses
        it again. Raises StoreFull if the spool or the disk has no room.
        """

    async def drop(self, ids: Sequence[int], now: datetime) -> list[StoredDeadLetter]:
        """
        Discard the dead letters *ids*; return those discarded.

        Their events are deleted durably; a record that they existed is kept. Dead letters being
        replayed are skipped.
        """

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """Return until when the resweep of *delay* is done: at first, where *source* starts."""

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """Record, durably, that the resweep of *delay* is done until *until*."""

    async def start_sink(
        self, sink: str, sources: Sequence[str], *, configured: Sequence[str] | None = None
    ) -> None:
        """
        Register *sink* as a reader of *sources*; a new sink begins at the end of the spool.

        It still gets its backlog of orphaned sources, those that are not *configured* any more
        (None: all are). Once this returns, nothing that the sink has not acknowledged is pruned.
        """

    async def read(self, sink: str, after: int, max_events: int) -> list[SpoolPage]:
        """
        Return the next pages for *sink* from position *after* on: about *max_events* events.

        There are fewer if they are large, and none if nothing waits. Events that the sink has
        acknowledged are left out.
        """

    async def retire_sinks(self, active: Sequence[str]) -> tuple[str, ...]:
        """
        Stop spooling for all sinks but the *active* ones; return the others that have a backlog.

        The backlog of an orphaned sink is kept until the sink is started again or removed.
        """

    async def event_at(self, position: int) -> AuditEvent:
        """Return the event at *position* of the spool, which some sink has yet to settle."""

    async def settle(
        self, sink: str, done: Sequence[tuple[int, int]], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """
        Record that *sink* is done with the positions in each half-open range of *done*.

        Its position moves to the end of the contiguous part; ranges beyond it are remembered. On
        return the position, the ranges and the *dead* letters are durable together.
        """

    async def save_condition(
        self, peer: Literal["source", "sink"], name: str, condition: Mapping[str, object]
    ) -> None:
        """Save the *condition* of *name* (JSON values) durably, for ``status`` and a restart."""

    async def prune(self, now: datetime) -> int:
        """
        Delete events that every sink has and whose retention has passed; return how many.

        Uids older than ``spool.remember`` are forgotten as well. This takes several transactions:
        if it raises, some of the work may be done.
        """

    async def sources(self) -> list[SourceState]:
        """Return the state of every known source."""

    async def sinks(self) -> list[SinkState]:
        """Return the state of every known sink."""

    async def forget(self, name: str) -> None:
        """
        Delete the whole state of the source or sink *name*, which must not be in use.

        Its backlog goes with it, and so do its events that wait for other sinks. This takes several
        transactions: if it raises, some of the work may be done, and calling it again finishes it.
        """

    async def heads(self) -> Mapping[str, tuple[int, str]]:
        """Return by source the number of records in its journal, and the hash of the last one."""

    async def make_room(self) -> bool:
        """
        Delete delivered events before their retention has passed, oldest first; return if any went.

        Keeping delivered events is a convenience, collecting is the purpose. Also reserves room on
        the disk again if it had been used up, and then returns true.
        """
