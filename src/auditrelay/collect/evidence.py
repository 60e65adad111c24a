"""What backfill and verify need of the store; ``store`` says what holds for every method."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Protocol

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import Backfill, DeliveryStatus, LookedUp, Proof, Proved, Span
from auditrelay.window import Interval


class Forwarded(Protocol):
    """What was forwarded of a past range, and forwarding it again."""

    async def ledger(self, source: str) -> tuple[Span, ...]:
        """Return the ledger of *source*, in order of time."""

    async def count_forwarded(self, source: str, span: Interval) -> tuple[int, str]:
        """Return how many events of *span* are known, and the digest of their sorted keys."""

    async def resend(
        self, source: str, sinks: Sequence[str], pages: Sequence[Page], proof: Proof
    ) -> None:
        """
        Put *pages*, known or not, into the spool for those *sinks* alone, and enter the *proof*.

        On return both are durable. Raises StoreFull if the spool or the disk has no room.
        """


class Backfills(Forwarded, Protocol):
    """The progress of backfills, and the events that they need not read at the source."""

    async def begin_backfill(
        self,
        source: str,
        span: Interval,
        sinks: Sequence[str],
        now: datetime,
        *,
        by: int | None = None,
    ) -> Backfill:
        """
        Return the unfinished backfill of *source* into *sinks* that overlaps *span*, or a new one.

        No *sinks* means all of them. An unfinished backfill is resumed: its done parts need not be
        done again. On return its range, widened to *span*, is durable. *by* is the user id of the
        operator who asked for it.
        """

    async def end_backfill(self, id: int, now: datetime) -> None:  # noqa: A002  # its name
        """Record, durably, that the whole backfill is done."""

    async def look_up(
        self, source: str, uids: Sequence[str], at: Sequence[int], content: Sequence[bytes]
    ) -> LookedUp:
        """Return which have never been forwarded; see ``Intake.look_up``."""

    async def spooled_events(self, source: str, span: Interval) -> list[Page] | None:
        """Return all known events of *span* by the page, or None if some were pruned."""


class Evidence(Forwarded, Protocol):
    """What a comparison with the source looks up."""

    async def end_of_spool(self, source: str) -> int:
        """Return the place that the next spooled event of *source* will have, at the earliest."""

    async def proved(self, source: str) -> Proved:
        """
        Return which of the known uids of *source* the evidence tells of.

        It reads all of them: a second for a million.
        """

    async def delivery_status(
        self, source: str, events: Sequence[AuditEvent], *, proved: Proved | None = None
    ) -> list[Mapping[str, DeliveryStatus] | None]:
        """
        Return the status of each event at every sink; None for an event that is not known.

        One that is not *proved* to be accepted, if that is asked, is ``unproved`` at every sink.
        """

    async def find_deleted(
        self, source: str, span: Interval, seen: AbstractSet[bytes], before: int
    ) -> list[tuple[str, datetime]]:
        """Return uid and time of the events that :meth:`record_deleted` would record."""
