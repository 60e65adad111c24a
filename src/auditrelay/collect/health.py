"""
How a source fares: whether its polls succeed, what hinders them, when it last showed a new event.

It is kept for ``status``, the metrics and the alerts; a restart takes it over from the store.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import structlog

from auditrelay.errors import Refused, RelayError, StateError, StoreFull, code_of
from auditrelay.events import AuditEvent
from auditrelay.events.marks import UNKNOWN_ACTION
from auditrelay.settings import SourceSettings
from auditrelay.store import Store
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrub
from auditrelay.window import moment

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class SourceCondition:
    """How a source fares, as ``status`` shows it; times are ISO 8601."""

    up: bool = False
    held: bool = False
    since: str | None = None
    """When it became up, held, or neither: whichever it is now."""
    paused_since: str | None = None
    """Since when there is no room for what it shows."""
    last_poll_at: str | None = None
    last_event_at: str | None = None
    last_error: str | None = None
    error_code: str | None = None
    """The short code of ``last_error``, where that is why a poll failed."""
    silent: bool = False
    """Whether it has shown nothing new for longer than ``max_silence``."""
    unknown_actions: int = 0
    """New events of a type that stands in no table, since the start."""


class SourceHealth:
    """
    Keeps the condition of the source *name*, for all its readers; its changes are logged once.

    *clock* returns now, in UTC.
    """

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        *,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self.condition = SourceCondition()
        self.rejected_files: Collection[str] = ()
        """Why files are of no use that were put before the source; its polls succeed even so."""
        self._name = name
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._last_event_at: datetime | None = None
        self._unknown_actions = 0
        self._up_and_held: tuple[bool, bool] | None = None
        """What ``since`` is about; None before the first poll."""

    def recall(self, condition: Mapping[str, object]) -> None:
        """Take over from *condition*, as the last process saved it, what is still true."""
        last_event_at = condition.get("last_event_at")
        if isinstance(last_event_at, str):
            self._last_event_at = datetime.fromisoformat(last_event_at)
            self.condition.last_event_at = last_event_at
        last_poll_at = condition.get("last_poll_at")
        if isinstance(last_poll_at, str):
            self.condition.last_poll_at = last_poll_at
        since, up = condition.get("since"), bool(condition.get("up"))
        if isinstance(since, str) and not up:
            # A trouble that outlasts a restart has not begun with it.
            self.condition.since = since
            self._up_and_held = (up, bool(condition.get("held")))

    async def save(self) -> None:
        """Write the condition to the store; if the disk is full, the next poll does it."""
        self.condition.unknown_actions = self._unknown_actions
        if self._last_event_at is not None:
            self.condition.last_event_at = self._last_event_at.isoformat()
        with contextlib.suppress(StoreFull):
            await self._store.note("source", self._name, asdict(self.condition))

    # -- polls -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def track(self) -> Iterator[None]:
        """Record how the poll in this block ends: in the condition, the metrics and the log."""
        self.condition.last_poll_at = self._now()
        try:
            yield
        except StateError:
            raise
        except RelayError as error:
            self._poll_failed(error)
            raise
        self._poll_succeeded()

    def _poll_failed(self, error: RelayError) -> None:
        condition, was_held = self.condition, self.condition.held
        condition.last_error, condition.error_code = scrub(str(error)), code_of(error)
        self._set(up=False, held=isinstance(error, Refused))
        if not condition.held:
            _log.warning("poll_failed", source=self._name, reason=condition.last_error)
        elif not was_held:
            _log.error("source_held", source=self._name, reason=condition.last_error)

    def _poll_succeeded(self) -> None:
        condition, was_held = self.condition, self.condition.held
        condition.last_error, condition.error_code = "; ".join(self.rejected_files) or None, None
        self._set(up=True, held=False)
        if was_held:
            _log.warning("source_released", source=self._name)

    def _set(self, *, up: bool, held: bool) -> None:
        self.condition.up, self.condition.held = up, held
        self._metrics.source_up.labels(self._name).set(up)
        if self._up_and_held != (up, held):
            self._up_and_held = up, held
            self.condition.since = self._now()

    # -- room in the store -------------------------------------------------------------------------

    async def paused(self, error: str) -> None:
        """Record that reading waits for room in the store; *error* says what it lacks."""
        _log.error("polling_paused", source=self._name, reason=error)
        self.condition.last_error, self.condition.error_code = f"polling is paused: {error}", None
        self.condition.paused_since = self._now()
        await self.save()

    def resumed(self) -> None:
        """Record that there is room again."""
        _log.warning("polling_resumed", source=self._name)
        self.condition.last_error = self.condition.error_code = None
        self.condition.paused_since = None

    # -- events ------------------------------------------------------------------------------------

    def count_new(self, events: Sequence[AuditEvent]) -> None:
        """Count those of the new *events* that are of an unknown type, and remember the latest."""
        latest = moment(max(event.at for event in events))
        if self._last_event_at is not None:
            latest = max(latest, self._last_event_at)
        self._last_event_at = latest
        gauge = self._metrics.source_last_event_timestamp_seconds.labels(self._name)
        gauge.set(latest.timestamp())
        unknown = sum(UNKNOWN_ACTION in event.warnings for event in events)
        self._unknown_actions += unknown
        self._metrics.events_unknown.labels(self._name).inc(unknown)

    def check_silence(self, start: datetime) -> None:
        """
        Report a source that has shown nothing new for too long: silence is news, too.

        *start* is where the source starts; from there on it is silent if it never showed an event.
        """
        if self._settings.max_silence is None:
            return
        since = self._last_event_at or start
        silent = self._clock() - since > self._settings.max_silence
        if silent and not self.condition.silent:
            _log.warning("source_silent", source=self._name, since=since.isoformat())
        self.condition.silent = silent

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat()
