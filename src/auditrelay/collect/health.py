"""
Health of a source: whether its polls succeed, the last error, the time of the newest event.

``status``, the metrics and the alerts show it; a restart restores it from the store.
"""

import contextlib
from collections.abc import Collection, Iterator
from copy import copy
from datetime import datetime

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.ledger import Ledger
from auditrelay.errors import Refused, RelayError, StateError, StoreFull
from auditrelay.events.marks import NOT_NORMALIZED, UNKNOWN_ACTION
from auditrelay.events.page import Page
from auditrelay.settings import SourceSettings
from auditrelay.store.conditions import SourceCondition
from auditrelay.store.health import Health
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import moment

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SourceHealth:
    """
    Tracks the condition of the source *name*, for all its readers.

    What it shares with the health of a sink is in :class:`auditrelay.store.health.Health`.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        *,
        store: Ledger,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.condition = SourceCondition()
        self.rejected_files: Collection[str] = ()
        """Why export files were rejected; polls succeed all the same."""
        self._name = name
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._health = Health("source", name, self.condition, metrics=metrics, clock=clock)
        self._last_event_at: datetime | None = None
        self._saved: SourceCondition | None = None
        """The condition that the store has, as far as this process has written it."""

    def restore(self, saved: SourceCondition) -> None:
        """Restore what is still true of *saved*, the condition that the last process left."""
        self.condition.last_poll_at = saved.last_poll_at
        self.condition.last_event_at = saved.last_event_at
        self.condition.unreadable = saved.unreadable
        if saved.last_event_at is not None:
            self._last_event_at = datetime.fromisoformat(saved.last_event_at)
        self._health.restore(saved)

    def unsaved(self) -> SourceCondition | None:
        """Return the condition if it differs from what was saved last, else None."""
        condition = copy(self.condition)
        return None if condition == self._saved else condition

    def saved(self, condition: SourceCondition | None) -> None:
        """Record that *condition*, as :meth:`unsaved` has returned it, is in the store."""
        self._saved = condition or self._saved

    async def save(self) -> None:
        """Write what is unsaved to the store; on a full disk the next poll writes it."""
        condition = self.unsaved()
        if condition is None:
            return
        with contextlib.suppress(StoreFull):
            await self._store.save_condition("source", self._name, condition)
            self.saved(condition)

    # -- polls -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def track(self) -> Iterator[None]:
        """Record the outcome of the poll in this block: in the condition, metrics and log."""
        self.condition.last_poll_at = self._health.time()
        try:
            yield
        except StateError:
            raise
        except Refused as error:
            self._health.refused(error)
            raise
        except RelayError as error:
            self._health.failed(error)
            _log.warning("poll_failed", source=self._name, reason=self.condition.last_error)
            raise
        self._health.succeeded(
            error="; ".join(self.rejected_files) or None,
            code="file_rejected" if self.rejected_files else None,
        )

    # -- room in the store -------------------------------------------------------------------------

    async def paused(self, error: str) -> None:
        """Record that polling is paused until the store has room; *error* is its reason."""
        _log.error("polling_paused", source=self._name, reason=error)
        self.condition.last_error, self.condition.error_code = f"polling is paused: {error}", None
        self.condition.paused_since = self._health.time()
        await self.save()

    def resumed(self) -> None:
        """Record that the store has room again."""
        _log.warning("polling_resumed", source=self._name)
        self.condition.last_error = self.condition.error_code = None
        self.condition.paused_since = None

    # -- events ------------------------------------------------------------------------------------

    def count_new(self, events: Page) -> None:
        """Count the new *events* of an unknown type, and record the time of the newest event."""
        latest = moment(max(events.at))
        if self._last_event_at is not None:
            latest = max(latest, self._last_event_at)
        self._last_event_at = latest
        self.condition.last_event_at = latest.isoformat()
        gauge = self._metrics.source_last_event_timestamp_seconds.labels(self._name)
        gauge.set(latest.timestamp())
        unknown = _count(events, UNKNOWN_ACTION)
        self.condition.unknown_actions += unknown
        self._metrics.events_unknown.labels(self._name).inc(unknown)
        odd = _count(events, NOT_NORMALIZED)
        self.condition.not_normalized += odd
        self._metrics.events_not_normalized.labels(self._name).inc(odd)
        if odd:
            _log.warning("records_not_normalized", source=self._name, count=odd)

    def check_silence(self, start: datetime) -> None:
        """
        Report a source that has shown no new event for longer than ``max_silence``.

        *start* is where the source starts: silence counts from there if it never showed an event.
        """
        if self._settings.max_silence is None:
            return
        since = self._last_event_at or start
        silent = self._clock.now() - since > self._settings.max_silence
        if silent and not self.condition.silent:
            _log.warning("source_silent", source=self._name, since=since.isoformat())
        self.condition.silent = silent


def _count(events: Page, warning: str) -> int:
    """Return how many of *events* have the *warning*."""
    marked = [warning in sort.warnings for sort in events.sorts]
    return sum(map(marked.__getitem__, events.sort)) if any(marked) else 0
