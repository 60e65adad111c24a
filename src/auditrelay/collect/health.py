"""
Health of a source: whether its polls succeed, the last error, the time of the newest event.

``status``, the metrics and the alerts show it; a restart restores it from the store.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from copy import copy
from datetime import datetime

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.ledger import Ledger
from auditrelay.errors import PeerBug, Refused, RelayError, StateError, StoreFull, code_of
from auditrelay.events.marks import IMPLAUSIBLE_TIME, NO_TIME, NOT_NORMALIZED, UNKNOWN_ACTION
from auditrelay.events.page import Page
from auditrelay.events.timestamps import are_plausible
from auditrelay.settings import SourceSettings
from auditrelay.store.conditions import SourceCondition
from auditrelay.store.health import Health
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import micros, moment

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
        self.resweep_bug: PeerBug | None = None
        """Why resweeps fail: it holds the source, though its polls succeed."""
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
        self.condition.form_changed_at = saved.form_changed_at
        self.condition.form_changed_fields = saved.form_changed_fields
        self.condition.unreadable = saved.unreadable
        if saved.last_event_at is not None:
            self._last_event_at = datetime.fromisoformat(saved.last_event_at)
        if self._last_event_at is not None and not self._is_plausible(self._last_event_at):
            self._last_event_at = self.condition.last_event_at = None  # of an older version
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
        except RelayError as error:
            if isinstance(error, Refused) or code_of(error) == PeerBug.reason:
                self._health.refused(error)
            else:
                self._health.failed(error)
                _log.warning("poll_failed", source=self._name, reason=self.condition.last_error)
            raise
        if self.resweep_bug is not None:
            self._health.refused(self.resweep_bug)
            return
        self._health.succeeded(
            error="; ".join(self.rejected_files) or None,
            code="file_rejected" if self.rejected_files else None,
        )

    def record_bug(self, error: PeerBug) -> None:
        """Record that our own code fails at a span: it holds the source, before the poll ends."""
        self._health.refused(error)

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
        """Count the new *events* of odd kinds, and record the time of the newest event."""
        self._count_times(events)
        unknown = _count(events, UNKNOWN_ACTION)
        self.condition.unknown_actions += unknown
        self._metrics.events_unknown.labels(self._name).inc(unknown)
        odd = _count(events, NOT_NORMALIZED)
        self.condition.not_normalized += odd
        self._metrics.events_not_normalized.labels(self._name).inc(odd)
        if odd:
            _log.warning("records_not_normalized", source=self._name, count=odd)

    def _count_times(self, events: Page) -> None:
        """Record the time of the newest of *events*, and how many tell none that can be right."""
        untimed = [NO_TIME in sort.warnings for sort in events.sorts]
        implausible = [IMPLAUSIBLE_TIME in sort.warnings for sort in events.sorts]
        odd = 0
        times: Iterable[int] = events.at
        if any(untimed) or any(implausible):
            odd = sum(untimed[sort] or implausible[sort] for sort in events.sort)
            pairs = zip(events.at, events.sort, strict=True)
            times = [at for at, sort in pairs if not implausible[sort]]
        if odd and not self.condition.odd_times:
            _log.warning("time_unreadable", source=self._name, events=odd)
        self.condition.odd_times += odd
        latest = max(times, default=None)
        if latest is None:
            return
        at = moment(latest)
        if self._last_event_at is not None:
            at = max(at, self._last_event_at)
        self._last_event_at = at
        self.condition.last_event_at = at.isoformat()
        gauge = self._metrics.source_last_event_timestamp_seconds.labels(self._name)
        gauge.set(at.timestamp())

    def _is_plausible(self, at: datetime) -> bool:
        return are_plausible([micros(at)], micros(self._clock.confirmed.now(self._name)))

    def record_form_changed(self, fields: list[str]) -> None:
        """Record that many known records are shown with other values in *fields* now."""
        self.condition.form_changed_at = self._health.time()
        self.condition.form_changed_fields = fields or self.condition.form_changed_fields

    def check_silence(self, start: datetime) -> None:
        """
        Report a source that has shown no new event for longer than ``max_silence``.

        *start* is where the source starts: silence counts from there if it never showed an event.
        """
        if self._settings.max_silence is None:
            return
        since = self._last_event_at or start
        silent = self._clock.confirmed.now(self._name) - since > self._settings.max_silence
        if silent and not self.condition.silent:
            _log.warning("source_silent", source=self._name, since=since.isoformat())
        self.condition.silent = silent


def _count(events: Page, warning: str) -> int:
    """Return how many of *events* have the *warning*."""
    marked = [warning in sort.warnings for sort in events.sorts]
    return sum(map(marked.__getitem__, events.sort)) if any(marked) else 0
