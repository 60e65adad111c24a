"""
Tell of trouble once, when it begins and when it ends: in the log, and in sinks that still work.

What trouble is, is judged as on the status page (``status.findings``). A gap is told by an event
of its own (``collect.reader``), in the transaction that declares it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import structlog

from auditrelay.errors import StoreFull
from auditrelay.events.notices import alert_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.status.findings import Finding
from auditrelay.store import Store

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
        "backlogs",
        "behind",
    }
)
"""The codes of findings that are worth an alert; the others are told elsewhere."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_Key = tuple[str, str, str]


class Alerts:
    """
    What is being complained of.

    *report* returns what ``status`` tells, *clock* now in UTC. With *forward* each alert is an
    event too; *announce* is called when one lies in the spool.
    """

    def __init__(
        self,
        report: Callable[[], Awaitable[dict[str, Any]]],
        store: Store,
        *,
        clock: Callable[[], datetime],
        forward: Callable[[], bool],
        announce: Callable[[], None],
    ) -> None:
        self.due = asyncio.Event()
        """Set when somebody's condition may have changed."""
        self._report = report
        self._store = store
        self._clock = clock
        self._forward = forward
        self._announce = announce
        self._known: dict[_Key, Finding] = {}

    async def keep_alerting(self) -> None:
        """Look whenever it is due, until cancelled."""
        while True:
            await self.due.wait()
            self.due.clear()
            await self.look()

    async def look(self) -> None:
        """Tell of every trouble that is new, and of every one that is over."""
        report = await self._report()
        found: dict[_Key, Finding] = {
            (finding.code, finding.kind, finding.name): finding
            for finding in [Finding(**each) for each in report["findings"]]
            if finding.level == "act" and finding.code in ALERTING
        }
        for key in found.keys() - self._known.keys():
            finding = found[key]
            _log.error(
                "alert_raised",
                code=finding.code,
                about=finding.name,
                what=finding.what,
                todo=finding.do,
            )
            await self._tell(finding, over=False)
        for key in self._known.keys() - found.keys():
            finding = self._known[key]
            _log.warning("alert_cleared", code=finding.code, about=finding.name)
            await self._tell(finding, over=True)
        self._known = found

    async def _tell(self, finding: Finding, *, over: bool) -> None:
        if not self._forward():
            return
        event = alert_event(
            source=ALERTS,
            code=finding.code,
            about=f"{finding.kind} {finding.name}",
            what=finding.what,
            todo=finding.do,
            over=over,
            now=self._clock(),
        )
        # On a full disk it stays untold here; the log and the page have it.
        with contextlib.suppress(StoreFull):
            await self._store.add(ALERTS, [event], via="alerts")
            self._announce()
