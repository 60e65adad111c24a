"""
Store the pages of one source: wait for room, count what is new, and report gaps.

A page is deduplicated by uid as it is stored. What a finished read proves is entered into the
ledger together with its last page.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

import structlog

from auditrelay.clock import Clock
from auditrelay.collect import long
from auditrelay.collect.changed import ChangedRecords
from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.collect.health import SourceHealth
from auditrelay.collect.ledger import Intake
from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.careful import Twins
from auditrelay.events.normalize import IdentifiedPage, Normalizer
from auditrelay.events.notices import gap_event
from auditrelay.events.page import Page
from auditrelay.settings import SourceSettings
from auditrelay.store import Added, DeadLetter, Declared, Proof
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval, micros

T = TypeVar("T")

ROOM_INTERVAL: Final = 1.0
"""Seconds between two checks whether the store has room again."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class PageWriter:
    """
    Stores pages of the source *name*.

    *announce* is called after new events were spooled. *patience* is how long a page waits for room
    in the spool until StoreFull is raised; None: without limit. *checkpoint* and *health* are those
    of the source: all its writers share them.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        *,
        normalizer: Normalizer,
        scope: str,
        store: Intake,
        metrics: Metrics,
        clock: Clock,
        announce: Callable[[], None],
        patience: timedelta | None = None,
        checkpoint: Checkpoint,
        health: SourceHealth,
    ) -> None:
        self.name = name
        self.announce = announce
        self.worked_at: float | None = None
        """When the current read last made progress (monotonic); None while nothing is read."""
        self._settings = settings
        self._normalizer = normalizer
        self._scope = scope
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._patience = math.inf if patience is None else patience.total_seconds()
        self._checkpoint = checkpoint
        self._health = health

    def record_progress(self) -> None:
        """Record that the current read makes progress."""
        self.worked_at = self._clock.monotonic()

    def record_end(self) -> None:
        """Record that nothing is read any more."""
        self.worked_at = None

    def certain(self) -> datetime:
        """Return the latest moment that is certainly past: nothing later is covered."""
        return self._clock.confirmed.certain(self.name)

    def identify(self, records: list[bytes], twins: Twins | None = None) -> IdentifiedPage:
        """Return *records*, identified, with now as the time of fetching."""
        fetched = micros(self._clock.confirmed.now(self.name))
        return self._normalizer.identify(records, fetched, twins)

    def compare(self) -> ChangedRecords:
        """Return what finds the changed records of one walk."""
        return ChangedRecords(
            self.name,
            normalizer=self._normalizer,
            store=self._store,
            metrics=self._metrics,
            clock=self._clock,
            health=self._health,
            write_when_room=self.write_when_room,
            announce=self.announce,
        )

    async def add_new(
        self,
        shown: IdentifiedPage,
        via: str,
        proof: Proof | None = None,
        bad: Sequence[DeadLetter] = (),
        *,
        changed: ChangedRecords,
        mark: Callable[[Page], Page] = lambda page: page,
    ) -> Added:
        """
        Store those of *shown* that are not known; the others are only compared by their digests.

        Every event is shown several times: by windows that overlap, and when it is looked for
        again. The new ones are stored as *mark* returns them. The *changed* ones of the walk are
        reported before its *proof* is entered.
        """
        rows = await changed.look_up(shown)
        known = len(shown) - len(rows)

        async def add(proof: Proof | None) -> Added:
            if rows or proof is not None or bad:
                events = await long.read(shown.texts if rows else (), shown.page, rows)
                return await self.add(mark(events), via, proof, bad, known=known)
            self._metrics.events_duplicate.labels(self.name).inc(known)
            return Added((), known)

        if proof is None or not changed.any_held:
            added = await add(proof)
            if changed.is_full:
                await changed.report()
            return added
        added = await add(None)
        await changed.report()
        proved = await self.add(Page.of(()), via, replace(proof, new=proof.new + len(added.new)))
        return replace(added, declared=proved.declared, filled=proved.filled)

    async def add(
        self,
        events: Page,
        via: str,
        proof: Proof | None = None,
        bad: Sequence[DeadLetter] = (),
        *,
        known: int = 0,
    ) -> Added:
        """
        Store a page once the store has room for it, and update metrics, health and log.

        *known* events were on the page, too, and are left out.
        """

        async def write() -> Added:
            # What the health has to save goes with the proof: both are one write.
            condition = None if proof is None else self._health.unsaved()
            added = await self._store.add(
                self.name,
                events,
                via=via,
                proof=proof,
                notice=self._notice,
                bad=bad,
                condition=condition,
            )
            self._health.saved(condition)
            return added

        added = await self.write_when_room(write)
        if proof is not None:
            self._checkpoint.advance(proof, added.declared)
        self._metrics.events_collected.labels(self.name).inc(len(added.new))
        self._metrics.events_duplicate.labels(self.name).inc(added.known + known)
        if added.new:
            new = events.take(added.new)
            self._health.count_new(new)
            self._metrics.values_redacted.labels(self.name).inc(sum(map(len, new.redacted)))
            self._metrics.event_lateness_seconds.labels(self.name).observe_micros(
                events.fetched[index] - events.at[index] for index in added.late
            )
        self._report_gaps(added)
        if added.new or added.declared or added.filled:
            self.announce()
        return added

    async def declare(self, span: Interval, reason: str) -> None:
        """Declare as a gap those parts of *span* that the ledger does not contain."""
        await self.add(Page.of(()), reason, Proof(gaps=((span, reason),)))

    def _notice(self, gap: Declared, filled: bool) -> AuditEvent:  # noqa: FBT001  # see Notice
        return gap_event(
            source=self.name,
            vendor=self._settings.vendor,
            vendor_key=self._settings.vendor_key,
            product=self._settings.product,
            scope=self._scope,
            start=gap.interval.start,
            end=gap.interval.end,
            reason=gap.reason,
            now=self._clock.now(),
            tags=self._settings.tags,
            filled=filled,
        )

    def _report_gaps(self, added: Added) -> None:
        for gap in added.declared:
            self._metrics.gap_seconds.labels(self.name, gap.reason).inc(
                gap.interval.length.total_seconds()
            )
            if gap.new:
                _log.error("gap_declared", source=self.name, **_gap_fields(gap))
        for gap in added.filled:
            _log.warning("gap_filled", source=self.name, **_gap_fields(gap))

    async def write_when_room(self, write: Callable[[], Awaitable[T]]) -> T:
        """
        Retry *write* until the store has room for it: backpressure, a full spool pauses reading.

        Raises StoreFull once the patience is over.
        """
        waited = 0.0
        made_room = False
        while True:
            try:
                result = await write()
            except StoreFull as error:
                # Make room only before every other attempt: if the room made did not suffice, an
                # immediate second try would not either.
                made_room = not made_room and await self._store.make_room()
                if made_room:
                    continue
                if waited >= self._patience:
                    raise
                if not waited:
                    await self._health.paused(str(error))
                await self._clock.sleep(ROOM_INTERVAL)
                waited += ROOM_INTERVAL
                # On a full disk that it is paused may not have been written either.
                await self._health.save()
                self.record_progress()
                continue
            if waited:
                self._health.resumed()
            return result


def _gap_fields(gap: Declared) -> dict[str, str]:
    return {
        "start": gap.interval.start.isoformat(),
        "end": gap.interval.end.isoformat(),
        "reason": gap.reason,
    }
