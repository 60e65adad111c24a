"""A problem raises one alert when it begins and clears it when it ends, also in healthy sinks."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, made, sinks, sources

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        sandbox.bland.fill(3, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def only_bland(sandbox: Sandbox) -> dict[str, Any]:
    return {"bland": sources(sandbox)["bland"]}


def alerts(documents: list[Any], state: str) -> list[Any]:
    return [text for text in map(json.dumps, documents) if f"auditrelay.alert_{state}" in text]


async def test_a_held_sink_raises_one_alert_in_the_other_sinks(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox), alerts={"events": True})
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 3)
        sandbox.splunk.rotate("00000000-0000-0000-0000-000000000009")
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: alerts(sandbox.elastic.stored.documents, "raised"))
        await eventually(lambda: alerts(sandbox.datadog.stored.documents, "raised"))
        for _ in range(3):
            sandbox.bland.add(datetime.now(UTC))
            await eventually(lambda: not sandbox.elastic.stored.lost(made(sandbox)))
        (alert,) = alerts(sandbox.elastic.stored.documents, "raised")
        assert "splunk" in alert
        assert "held" in alert
        (line,) = daemon.logged("alert_raised", code="held", about="splunk")
        assert line["todo"]
        sandbox.splunk.rotate(sinks(sandbox)["splunk"]["token"])
        assert not daemon.logged("alert_cleared")
        shown = json.loads((await command(config, "status", "--json")).stdout)
        assert [row["name"] for row in shown["sources"]] == ["bland"], (
            "alerts are not listed as a source"
        )
        assert await daemon.end() == 0


async def test_the_end_of_a_problem_clears_the_alert(sandbox: Sandbox, tmp_path: Path) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox), alerts={"events": True})
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 3)
        refused = sandbox.bland.faults.add(faults.empty(401), times=None)
        await eventually(lambda: daemon.logged("alert_raised", code="held", about="bland"))
        await eventually(lambda: alerts(sandbox.splunk.stored.documents, "raised"))
        sandbox.bland.faults.clear()
        await eventually(lambda: daemon.logged("alert_cleared", code="held", about="bland"))
        await eventually(lambda: alerts(sandbox.splunk.stored.documents, "cleared"))
        assert len(daemon.logged("alert_raised")) == 1
        assert refused
        assert await daemon.end() == 0


async def test_alerts_can_be_kept_out_of_the_sinks(sandbox: Sandbox, tmp_path: Path) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox), alerts={"events": False})
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 3)
        sandbox.bland.faults.add(faults.empty(401), times=None)
        await eventually(lambda: daemon.logged("alert_raised"))
        sandbox.bland.faults.clear()
        await eventually(lambda: daemon.logged("alert_cleared"))
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: sandbox.elastic.stored.total == 4)
        assert not alerts(sandbox.elastic.stored.documents, "raised")
