"""
Report each problem once when it begins and once when it ends: in the log, and to the sinks.

Of several replicas the keeper does, and what it has raised is in the store: the next keeper neither
raises it again nor forgets to clear it. An instance alone raises again after a start.

The problems are those of the status page (``status.findings``). A gap has an event of its own
(``collect.page_writer``), written in the transaction that declares it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.notices import alert_event
from auditrelay.events.page import Page
from auditrelay.service.store import AlertLog
from auditrelay.settings.reserved import ALERTS
from auditrelay.status.model import Finding, Report
from auditrelay.store import Raised

ALERTING: Final = frozenset(
    {
        "stuck",
        "paused",
        "held",
        "filling",
        "down",
        "bad_files",
        "dead_letters",
        "silent",
        "changed_form",
        "backlogs",
        "evidence",
        "evidence_broken",
        "unheld",
        "store_clock",
        "disagreement",
    }
)
"""The codes of findings that are worth an alert; the others are reported elsewhere."""

_UNDECIDED: Final = frozenset({"starting", "unheld"})
"""The codes of findings that say that nothing is known yet of a source or sink."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_Key = tuple[str, str]
"""The code, and what it is about."""


class Alerts:
    """
    The alerts that are raised now.

    *report* returns what ``status --json`` prints. While *forward* returns true
    each alert is also an event; *announce* is called when one is in the spool.
    """

    def __init__(
        self,
        report: Callable[[], Awaitable[Report]],
        store: AlertLog,
        *,
        clock: Clock,
        forward: Callable[[], bool],
        announce: Callable[[], None],
    ) -> None:
        self.due = asyncio.Event()
        """Set when the health of a source or sink may have changed."""
        self._report = report
        self._store = store
        self._clock = clock
        self._forward = forward
        self._announce = announce
        self._raised: dict[_Key, Raised] | None = None

    async def keep_alerting(self) -> None:
        """Update the alerts whenever that is due, until cancelled."""
        while True:
            await self.due.wait()
            self.due.clear()
            await self.update()

    async def update(self) -> None:
        """Raise an alert for each new problem, and clear those whose problem is over."""
        if self._raised is None:
            self._raised = {(each.code, each.about): each for each in await self._store.raised()}
        findings = (await self._report()).findings
        undecided = {_about(each) for each in findings if each.code in _UNDECIDED}
        found = {
            (each.code, _about(each)): Raised(each.code, _about(each), each.what, each.do)
            for each in findings
            if each.level == "action_required" and each.code in ALERTING
        }
        raised = [each for key, each in found.items() if key not in self._raised]
        # Another replica has begun to work for it: it does not know yet whether that is over.
        waiting = {
            key: each
            for key, each in self._raised.items()
            if key not in found and each.about in undecided
        }
        cleared = [
            each for key, each in self._raised.items() if key not in found and key not in waiting
        ]
        for each in raised:
            _log.error(
                "alert_raised",
                code=each.code,
                about=_name(each),
                what=each.what,
                todo=each.todo,
            )
        for each in cleared:
            _log.warning("alert_cleared", code=each.code, about=_name(each))
        self._raised = {**found, **waiting}
        if raised or cleared:
            await self._keep(raised, cleared)

    async def _keep(self, raised: Sequence[Raised], cleared: Sequence[Raised]) -> None:
        events = [
            *(self._event(each, over=False) for each in raised),
            *(self._event(each, over=True) for each in cleared),
        ]
        if self._forward():
            # Not sent when the disk is full; the log and the status page have it.
            with contextlib.suppress(StoreFull):
                await self._store.change(Page.of(events), raised, cleared)
                self._announce()
                return
        with contextlib.suppress(StoreFull):
            await self._store.change(None, raised, cleared)

    def _event(self, alert: Raised, *, over: bool) -> AuditEvent:
        return alert_event(
            source=ALERTS,
            code=alert.code,
            about=alert.about,
            what=alert.what,
            todo=alert.todo,
            over=over,
            now=self._clock.now(),
        )


def _about(finding: Finding) -> str:
    return f"{finding.kind} {finding.name}"


def _name(alert: Raised) -> str:
    return alert.about.partition(" ")[2]
