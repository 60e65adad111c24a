"""
Store the pages of one source: wait for room, count what is new, and report gaps.

A page is deduplicated by uid as it is stored. What a finished read proves is entered into the
ledger together with its last page.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import structlog

from auditrelay.clock import Clock
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
from auditrelay.store.keys import known_times
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

    def identify(self, records: list[bytes], twins: Twins | None = None) -> IdentifiedPage:
        """Return *records*, identified, with now as the time of fetching."""
        return self._normalizer.identify(records, micros(self._clock.now()), twins)

    async def add_new(
        self,
        shown: IdentifiedPage,
        via: str,
        proof: Proof | None = None,
        bad: Sequence[DeadLetter] = (),
        *,
        mark: Callable[[Page], Page] = lambda page: page,
    ) -> Added:
        """
        Store those of *shown* that are not known; of the others nothing more is read.

        Every event is shown several times: by windows that overlap, and when it is looked for
        again. The new ones are stored as *mark* returns them.
        """
        rows = await self._find_new(shown)
        known = len(shown) - len(rows)
        if not rows and proof is None and not bad:
            self._metrics.events_duplicate.labels(self.name).inc(known)
            return Added((), known, (), (), ())
        return await self.add(mark(shown.page(rows)), via, proof, bad, known=known)

    async def _find_new(self, shown: IdentifiedPage) -> list[int]:
        if not len(shown):
            return []
        return await self._store.find_new(
            self.name, shown.uid, known_times(shown.at, shown.time_quality)
        )

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
            self._health.count_new(events.take(added.new))
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
            vendor=self._settings.type,
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
