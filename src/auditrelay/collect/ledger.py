"""What collecting needs of the store; ``store`` says what holds for every method."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Literal, Protocol

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import (
    Added,
    Changed,
    Contents,
    DeadLetter,
    LookedUp,
    Notice,
    Proof,
    Span,
)
from auditrelay.store.conditions import Condition, SourceCondition
from auditrelay.window import Interval


class Ledger(Protocol):
    """What was read of a source, and its health."""

    async def start_source(self, source: str, first: datetime) -> datetime:
        """
        Return where *source* starts; an unknown source is stored to start at *first*.

        The start is durable on return. If it were computed again on every poll, a source that is
        down on its first day would start later and later, and lose events. As long as nothing was
        read, an earlier *first* replaces it: our clock was ahead when it was stored.
        """

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """Return the ledger of *source*, in order of time."""

    async def is_file_known(self, source: str, key: bytes) -> bool:
        """Tell whether *source* has read the file with that digest whole."""

    async def resweep_from(self, source: str, delay: timedelta) -> datetime:
        """Return until when the resweep of *delay* is done: at first, where *source* starts."""

    async def resweep_done(self, source: str, delay: timedelta, until: datetime) -> None:
        """Record, durably, that the resweep of *delay* is done until *until*."""

    async def save_condition(
        self, peer: Literal["source", "sink"], name: str, condition: Condition
    ) -> None:
        """Save the *condition* of *name* durably, for ``status`` and a restart."""


class KnownContents(Protocol):
    """The contents that known records were shown with."""

    async def contents_of(
        self, source: str, uids: Sequence[str], at: Sequence[int]
    ) -> list[Contents | None]:
        """Return what is known of the contents of each record; None if its uid is not known."""

    async def spooled(self, places: Collection[int]) -> Mapping[int, AuditEvent]:
        """Return by place the events at *places* that are still in the spool."""

    async def report_changed(self, source: str, changes: Sequence[Changed]) -> list[Changed]:
        """
        Enter those of *changes* that are not known, and put their events into the spool.

        On return both are durable together. Returns those whose event was spooled: each content is
        reported once. Raises StoreFull if the spool or the disk has no room.
        """


class Intake(Protocol):
    """Where the pages of a source go, with what the last page of a walk proves."""

    async def add(
        self,
        source: str,
        events: Page,
        *,
        via: str = "poll",
        proof: Proof | None = None,
        notice: Notice | None = None,
        bad: Sequence[DeadLetter] = (),
        condition: SourceCondition | None = None,
    ) -> Added:
        """
        Deduplicate *events* by uid, put the new ones into the spool, and remember their uids.

        An event whose uid is known is known, whatever its time is today.

        On return the spooled events, their uids, the *bad* rows, the *proof* and the *condition* of
        *source* are durable together. *via* is the kind of read, as facts tell it. *proof* comes
        with the last page of a walk; an event made by *notice* reports each gap that it declares or
        fills. *bad* are records that are no events: unknown ones become dead letters of
        no sink. A *condition* that comes with the page needs no :meth:`Ledger.save_condition`: a
        poll that finds nothing is one write.

        Raises StoreFull if the spool or the disk has no room.
        """

    @property
    def contents(self) -> KnownContents:
        """What is known of the contents of records."""

    async def look_up(
        self, source: str, uids: Sequence[str], at: Sequence[int], content: Sequence[bytes]
    ) -> LookedUp:
        """
        Return the rows whose uid is not known, and those that are shown with other content.

        *uids*, *at* and *content* are columns of a page: of each event its uid, its time
        (microseconds) and the digest of its record; an empty one is not compared. The new rows are
        what :meth:`add` would add. An event is known by its uid alone; it is found faster if its
        time is the one that it had.
        """

    async def make_room(self) -> bool:
        """
        Delete delivered events before their retention has passed, oldest first; return if any went.

        Keeping delivered events is a convenience, collecting is the purpose. Also reserves room on
        the disk again if it had been used up, and then returns true.
        """

    async def end_of_spool(self, source: str) -> int:
        """Return the place that the next spooled event of *source* will have, at the earliest."""

    async def record_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> int:
        """
        Record the known events of *span* that are not among *seen*; return how many are new.

        They were deleted at the source, which is evidence and no error; on return the record is
        durable. *seen* are uids, of twenty bytes: an event that is shown with another time today is
        not missing. Only events spooled *before* that place count: later ones may have come during
        the read.
        """


class SourceStore(Ledger, Intake, Protocol):
    """Both: for a collector, whose parts take one or the other."""


class FileStore(SourceStore, Protocol):
    """What a collector of files needs besides."""

    async def count_forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """Return how many events of *span* are known, and the digest of their sorted keys."""
