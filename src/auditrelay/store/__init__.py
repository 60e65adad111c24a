"""
What survives a crash: the coverage ledger, the spool, the known uids, positions, dead letters.

The store is the only place where collecting and delivering meet. Each method below that writes is
one transaction: when it returns, what it says is on the disk; when it raises, nothing of it is.
A caller that is cancelled does not undo a write, so every write is right whether or not anybody
waits for the answer.
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
    One entry of a source's ledger: covered if *gap* is None, else a gap for that reason.

    *events* counts the distinct events in it, *digest* is the exclusive-or of their uids: equal
    for equal sets of events, in whatever order they came.
    """

    interval: Interval
    gap: str | None = None
    events: int = 0
    digest: str = "0" * 40


@dataclass(frozen=True, slots=True)
class Declared:
    """
    A gap that was declared, or one that was read after all.

    *new* is false where it only carries an earlier entry of the same day on.
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
    What the last page of a walk proves; it is entered in the same transaction as that page.

    *covers* are spans that were read to their end, *gaps* spans that cannot be read, with a reason
    each. *file* has been read whole. *backfill* is the number of the backfill whose part this
    was.
    """

    covers: tuple[Interval, ...] = ()
    gaps: tuple[tuple[Interval, str], ...] = ()
    file: KnownFile | None = None
    backfill: int | None = None
    part: Interval | None = None
    """What of the backfill is done with this."""
    read: int = 0
    """How many events that part showed."""
    new: int = 0
    """How many of them were new on the pages before this one."""


@dataclass(frozen=True, slots=True)
class Added:
    """
    What became of a page: the indices of the events that were *new* and went to the spool.

    *late* are the indices of those among them that lie in a span that was covered before.
    *declared* and *filled* are the gaps that the proof declared, and those that it closed.
    """

    new: tuple[int, ...]
    known: int
    late: tuple[int, ...] = ()
    declared: tuple[Declared, ...] = ()
    filled: tuple[Declared, ...] = ()


Notice = Callable[[Declared, bool], AuditEvent]
"""Makes the event that tells of a gap: that it was declared, or (true) that it was filled."""


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
    """
    A dead letter as it lies in the store; *sink* is None if it never came as far as a sink.

    *replayed* is true while it is on its way once more.
    """

    id: int
    sink: str | None
    source: str
    letter: DeadLetter
    replayed: bool = False


DeliveryStatus = Literal["delivered", "waiting", "dead_letter", "dropped", "before_sink"]
"""
What became of a forwarded event at one sink.

``dropped``: a dead letter that an operator gave up. ``before_sink``: it was forwarded before the
sink received that source.
"""


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill that was begun: its number, its range, and which parts of it are done."""

    id: int
    interval: Interval
    done: tuple[Interval, ...]
    events: int = 0
    new: int = 0


@dataclass(frozen=True, slots=True)
class Lateness:
    """
    How many events were found late *via* whom, in one bucket.

    They were at most *seconds* old, and more than half of that.
    """

    via: str
    seconds: int
    events: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Everything that is known of what was read of a source; *head* ends its *journal*."""

    spans: tuple[Span, ...]
    journal: tuple[Record, ...]
    head: bytes | None
    lateness: tuple[Lateness, ...]
    vanished: int
    differs: str | None
    """Where the ledger counts other events than are known; None if nowhere, or not looked for."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """
    What the store knows of a source: where it *started*, its ledger, its *condition*.

    *late* are the newest records of events that were found in time that was covered before.
    *waiting* is how many of its events, at the most, some sink has yet to take. *dead_letters* are
    records that never came as far as a sink.
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
        self,
        source: str,
        events: Sequence[AuditEvent],
        *,
        via: str = "poll",
        proof: Proof | None = None,
        notice: Notice | None = None,
        bad: Sequence[DeadLetter] = (),
    ) -> Added:
        """
        Put those *events* into the spool whose uid is not known yet, and remember them.

        *via* says in plain words who read them, for the journal. *proof* comes with the last page
        of a walk; whatever it says of gaps is told by an event of *notice*, in the same
        transaction. *bad* are records that are no events; those not known yet become dead letters
        of no sink. Raises StoreFull if there is no room.
        """

    async def is_file_known(self, source: str, key: bytes) -> bool:
        """Tell whether *source* has read the file with that digest whole."""

    async def end_of_spool(self) -> int:
        """Return the position that the next event will have."""

    async def record_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """
        Note which events of *span* are known and not among those *seen*; return how many are new.

        *seen* are keys as :func:`auditrelay.store.keys.known_key` makes them. Only what was spooled
        *before* that position counts: the rest may have come while the source was read. That an
        event is not shown any more is evidence, not an error.
        """

    async def count_new(self, source: str, events: Sequence[AuditEvent]) -> int:
        """Return how many of *events* have never been forwarded."""

    async def delivery_status(
        self, source: str, events: Sequence[AuditEvent]
    ) -> list[Mapping[str, DeliveryStatus] | None]:
        """Return for each event what became of it at every sink, or None if it is not known."""

    async def find_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """Return uid and time of what :meth:`record_deleted` would note, and note nothing."""

    async def count_forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """Return how many events of *span* are known, and the exclusive-or of their uids."""

    async def begin_backfill(
        self, source: str, span: Interval, sinks: Sequence[str], now: datetime
    ) -> Backfill:
        """
        Return the backfill of *source* into *sinks* (none: all) that overlaps *span*, or a new one.

        One that was broken off is taken up again; what is done of it need not be done twice.
        """

    async def end_backfill(self, id: int, now: datetime) -> None:  # noqa: A002  # its name
        """Record that everything of the backfill is done."""

    async def resend(
        self, source: str, sinks: Sequence[str], events: Sequence[AuditEvent], proof: Proof
    ) -> None:
        """Put *events*, known or not, into the spool for those *sinks* alone, with the *proof*."""

    async def spooled_events(self, source: str, span: Interval) -> list[AuditEvent] | None:
        """Return all known events of *span* from the spool, or None if it lacks some of them."""

    async def replay(self, ids: Sequence[int]) -> list[StoredDeadLetter]:
        """
        Send the dead letters *ids* once more, each to its sink; return those that are on their way.

        What is on its way already is left alone. A dead letter leaves with its delivery, and stays
        with one attempt more if the sink refuses it again.
        """

    async def drop(self, ids: Sequence[int], now: datetime) -> list[StoredDeadLetter]:
        """Give the dead letters *ids* up; that they were stays on record, their events do not."""

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """Return how far the second look of *delay* has come: at first, where *source* starts."""

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """Record that the second look of *delay* has come to *until*."""

    async def start_sink(
        self, sink: str, sources: Sequence[str], *, configured: Sequence[str] | None = None
    ) -> None:
        """
        Make *sink* known as a reader of *sources*; a new one begins at the end of the spool.

        What waits for it of a source that is not *configured* any more (None: all are) it still
        gets: nobody has said that it shall not.
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

    async def sources(self) -> list[SourceState]:
        """Return the state of every source that was ever started here."""

    async def sinks(self) -> list[SinkState]:
        """Return the state of every sink that was ever started here."""

    async def forget(self, name: str) -> None:
        """
        Delete everything that is known of the source or sink *name*, which nobody may use.

        What waits for it, or came from it and waits for others, is gone with it.
        """

    async def heads(self) -> Mapping[str, tuple[int, str]]:
        """Return by source how many records its journal has, and the hash of the last one."""

    async def make_room(self) -> bool:
        """
        Give up delivered events before their retention has passed, oldest first, if room is short.

        Keeping them is a convenience; collecting is the purpose. Returns whether there is room.
        """
