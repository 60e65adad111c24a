"""Trouble is told once when it begins and once when it ends, also in the sinks that still work."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, command, configure, eventually, made, sinks, sources

from auditrelay.config import load
from auditrelay.errors import ConfigError
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


async def test_a_sink_that_is_held_is_told_to_the_others_once_and_once_when_it_is_over(
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
        (line,) = daemon.said("alert_raised", code="held", about="splunk")
        assert line["todo"]
        sandbox.splunk.rotate(sinks(sandbox)["splunk"]["token"])
        assert not daemon.said("alert_cleared")
        told = json.loads((await command(config, "status", "--json")).stdout)
        assert [row["name"] for row in told["sources"]] == ["bland"], "alerts are no source"
        assert await daemon.end() == 0


async def test_trouble_that_is_over_is_told_too(sandbox: Sandbox, tmp_path: Path) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox), alerts={"events": True})
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 3)
        refused = sandbox.bland.faults.add(faults.empty(401), times=None)
        await eventually(lambda: daemon.said("alert_raised", code="held", about="bland"))
        await eventually(lambda: alerts(sandbox.splunk.stored.documents, "raised"))
        sandbox.bland.faults.clear()
        await eventually(lambda: daemon.said("alert_cleared", code="held", about="bland"))
        await eventually(lambda: alerts(sandbox.splunk.stored.documents, "cleared"))
        assert len(daemon.said("alert_raised")) == 1
        assert refused
        assert await daemon.end() == 0


async def test_alerts_can_be_kept_out_of_the_sinks(sandbox: Sandbox, tmp_path: Path) -> None:
    config = configure(tmp_path, only_bland(sandbox), sinks(sandbox), alerts={"events": False})
    async with Daemon(config) as daemon:
        await eventually(lambda: sandbox.elastic.stored.total == 3)
        sandbox.bland.faults.add(faults.empty(401), times=None)
        await eventually(lambda: daemon.said("alert_raised"))
        sandbox.bland.faults.clear()
        await eventually(lambda: daemon.said("alert_cleared"))
        sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: sandbox.elastic.stored.total == 4)
        assert not alerts(sandbox.elastic.stored.documents, "raised")


def test_no_source_may_have_the_name_of_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[sources.auditrelay]\ntype = "bland"\napi_key = "some-key-1"\n[sinks.out]\ntype = "file"\n'
        'path = "-"\n'
    )
    with pytest.raises(ConfigError, match="choose another"):
        load(file, {})
