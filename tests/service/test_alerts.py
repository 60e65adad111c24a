"""Alerts: one when a problem begins and one when it ends, in the log and as an event."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.stores import backlog, opened

from auditrelay.errors import StoreFull
from auditrelay.service.alerts import Alerts
from auditrelay.settings.reserved import ALERTS
from auditrelay.status.model import Finding, Report, SpoolStatus
from auditrelay.store.sql.store import SqlStore

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


class Problems:
    """A report whose findings a test sets, and the alerts that are raised from it."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.findings: list[Finding] = []
        self.forward = True
        self.announced = 0
        self.clock = FakeClock(NOW)
        self.alerts = Alerts(
            self.report,
            store.alerts,
            clock=self.clock,
            forward=lambda: self.forward,
            announce=self.announce,
        )

    async def report(self) -> Report:
        return Report(
            version="1.0",
            at=NOW.isoformat(),
            config=None,
            sources=(),
            sinks=(),
            spool=SpoolStatus(0, 1),
            stuck=(),
            clock_ahead_seconds={},
            restart_command=None,
            findings=tuple(self.findings),
        )

    def announce(self) -> None:
        self.announced += 1

    async def update(self, *findings: Finding) -> list[tuple[str, str, str]]:
        """Set the findings, update the alerts, and return what was logged."""
        self.findings = [*findings]
        self.clock.advance(timedelta(minutes=1))
        with capture_logs() as logs:
            await self.alerts.update()
        return [(line["event"], line["code"], line["about"]) for line in logs]

    async def sent(self) -> list[str]:
        pages = await backlog(self.store, "out")
        return [event.native_action for page in pages for event in page.events]


def finding(code: str = "held", name: str = "voice", **changes: Any) -> Finding:
    usual = Finding("action_required", "source", name, "it refuses our key", code=code)
    return replace(usual, **changes)


@pytest.fixture
async def problems(tmp_path: Path) -> AsyncIterator[Problems]:
    store = await opened(tmp_path)
    await store.start_source(ALERTS, NOW)
    await store.start_sink("out", [ALERTS])
    yield Problems(store)
    await store.close()


async def test_a_problem_raises_one_alert_and_its_end_clears_it(problems: Problems) -> None:
    assert await problems.update() == []
    assert await problems.update(finding()) == [("alert_raised", "held", "voice")]
    assert await problems.update(finding(what="it still refuses our key")) == []
    assert await problems.update() == [("alert_cleared", "held", "voice")]
    assert await problems.update() == []
    assert await problems.update(finding()) == [("alert_raised", "held", "voice")]
    assert await problems.sent() == [
        "auditrelay.alert_raised",
        "auditrelay.alert_cleared",
        "auditrelay.alert_raised",
    ]
    assert problems.announced == 3


async def test_each_problem_of_each_source_and_sink_has_its_own_alert(problems: Problems) -> None:
    first = await problems.update(finding(), finding(name="calls"), finding(kind="sink"))
    assert len(first) == 3
    assert await problems.update(finding(), finding("silent"), finding(kind="sink")) == [
        ("alert_raised", "silent", "voice"),
        ("alert_cleared", "held", "calls"),
    ]


async def test_what_requires_no_action_or_is_reported_elsewhere_raises_none(
    problems: Problems,
) -> None:
    assert await problems.update(finding(level="recovering"), finding("gap")) == []
    assert await problems.sent() == []


async def test_alerts_that_are_not_forwarded_are_only_logged(problems: Problems) -> None:
    problems.forward = False
    assert await problems.update(finding()) == [("alert_raised", "held", "voice")]
    problems.forward = True
    assert await problems.update() == [("alert_cleared", "held", "voice")]
    assert await problems.sent() == ["auditrelay.alert_cleared"]


async def test_a_full_disk_does_not_stop_the_alerts(
    problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(problems.store.alerts, "change", full)
    assert await problems.update(finding()) == [("alert_raised", "held", "voice")]
    assert problems.announced == 0
    assert await problems.update() == [("alert_cleared", "held", "voice")]


async def test_alerts_are_updated_whenever_that_is_due(problems: Problems) -> None:
    alerting = asyncio.ensure_future(problems.alerts.keep_alerting())
    problems.findings = [finding()]
    await asyncio.sleep(0)
    assert problems.announced == 0
    problems.alerts.due.set()
    await eventually(lambda: problems.announced)
    assert not problems.alerts.due.is_set()
    alerting.cancel()
    await asyncio.wait([alerting])
