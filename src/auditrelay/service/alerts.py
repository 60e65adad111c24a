"""
Report each problem once when it begins and once when it ends: in the log, and to the sinks.

The problems are those of the status page (``status.findings``). A gap has an event of its own
(``collect.page_writer``), written in the transaction that declares it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.ledger import Intake
from auditrelay.errors import StoreFull
from auditrelay.events.notices import alert_event
from auditrelay.events.page import Page
from auditrelay.settings.reserved import ALERTS
from auditrelay.status.model import Finding, Report

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
    }
)
"""The codes of findings that are worth an alert; the others are reported elsewhere."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_Key = tuple[str, str, str]


class Alerts:
    """
    The alerts that are raised now.

    *report* returns what ``status --json`` prints. While *forward* returns true
    each alert is also an event; *announce* is called when one is in the spool.
    """

    def __init__(
        self,
        report: Callable[[], Awaitable[Report]],
        store: Intake,
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
        self._raised: dict[_Key, Finding] = {}

    async def keep_alerting(self) -> None:
        """Update the alerts whenever that is due, until cancelled."""
        while True:
            await self.due.wait()
            self.due.clear()
            await self.update()

    async def update(self) -> None:
        """Raise an alert for each new problem, and clear those whose problem is over."""
        found: dict[_Key, Finding] = {
            (finding.code, finding.kind, finding.name): finding
            for finding in (await self._report()).findings
            if finding.level == "action_required" and finding.code in ALERTING
        }
        for key in found.keys() - self._raised.keys():
            finding = found[key]
            _log.error(
                "alert_raised",
                code=finding.code,
                about=finding.name,
                what=finding.what,
                todo=finding.do,
            )
            await self._forward_alert(finding, over=False)
        for key in self._raised.keys() - found.keys():
            finding = self._raised[key]
            _log.warning("alert_cleared", code=finding.code, about=finding.name)
            await self._forward_alert(finding, over=True)
        self._raised = found

    async def _forward_alert(self, finding: Finding, *, over: bool) -> None:
        if not self._forward():
            return
        event = alert_event(
            source=ALERTS,
            code=finding.code,
            about=f"{finding.kind} {finding.name}",
            what=finding.what,
            todo=finding.do,
            over=over,
            now=self._clock.now(),
        )
        # Not sent when the disk is full; the log and the status page have it.
        with contextlib.suppress(StoreFull):
            await self._store.add(ALERTS, Page.of([event]), via="alerts")
            self._announce()
