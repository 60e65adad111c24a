"""A bug in the real process: in a source it costs that source, in the store the process."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import FAST, Daemon, configure, eventually, missing, sinks, sources

from auditrelay.descriptions import FOLDER, PAGES
from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.described import Described

pytestmark = pytest.mark.process

MINUTE = timedelta(minutes=1)


def in_bland() -> None:
    """Let the reader of one vendor divide by zero."""
    from auditrelay.events.vendors import bland  # noqa: PLC0415  # in the child

    vars(bland)["read"] = lambda _: 1 / 0


def in_okta() -> None:
    """Let the code for described vendors divide by zero at the replies of one."""
    from auditrelay.sources.described import refusals  # noqa: PLC0415  # in the child

    hear = refusals.Refusals.hear

    def broken(self: Any, reply: Any) -> None:
        1 / ("/api/v1/logs" not in reply.where)
        hear(self, reply)

    refusals.Refusals.hear = broken  # type: ignore[method-assign]  # a bug


def in_the_store() -> None:
    """Let every write of a page divide by zero."""
    from auditrelay.store.sql import intake  # noqa: PLC0415  # in the child

    vars(intake)["add"] = lambda *_, **__: 1 / 0


async def test_a_source_with_a_bug_stops_neither_the_others_nor_the_process(
    tmp_path: Path,
) -> None:
    async with Sandbox() as sandbox:
        for vendor in ("bland", "cekura"):
            sandbox.vendors[vendor].add(datetime.now(UTC) - MINUTE)
        config = configure(tmp_path, sources(sandbox), sinks(sandbox))
        async with Daemon(config, fault=in_bland) as daemon:
            await eventually(lambda: daemon.logged("source_held", source="bland"))
            await eventually(lambda: sandbox.splunk.stored.total)
            (line,) = daemon.logged("peer_bug_caught", peer="bland")
            assert "ZeroDivisionError" in line["exception"]
            ready = await daemon.get("/readyz")
            assert (ready.status_code, "bland" in ready.text) == (503, True)
            assert (await daemon.get("/healthz")).status_code == 200
            assert await daemon.end() == 0
        assert not [each for each in daemon.log.splitlines() if each.startswith("Traceback")]
        async with Daemon(config) as daemon:
            await eventually(lambda: not missing(sandbox))
            assert not daemon.logged("peer_bug_caught")


async def test_a_bug_at_one_described_vendor_stops_no_other(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, AsyncExitStack() as stack:
        doubles = {}
        for name in ("okta", "tailscale"):
            double = Described(FOLDER / f"{name}.toml", page=PAGES / f"{name}.json")
            doubles[name] = await stack.enter_async_context(double)
            double.add(datetime.now(UTC) - MINUTE)
        tables = {name: {**double.settings(), **FAST} for name, double in doubles.items()}
        config = configure(tmp_path, tables, sinks(sandbox))
        async with Daemon(config, fault=in_okta) as daemon:
            await eventually(lambda: daemon.logged("source_held", source="okta"))
            await eventually(lambda: sandbox.splunk.stored.total)
            (line,) = daemon.logged("peer_bug_caught")
            assert (line["peer"], "ZeroDivisionError" in line["exception"]) == ("okta", True)
            assert await daemon.metric("auditrelay_unforeseen_errors_total", peer="okta") >= 1
            assert await daemon.metric("auditrelay_source_up", source="tailscale") == 1
        async with Daemon(config):
            await eventually(lambda: sandbox.splunk.stored.total >= 2)


async def test_a_bug_in_the_store_ends_the_process_with_a_traceback(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        sandbox.vendors["bland"].add(datetime.now(UTC) - MINUTE)
        config = configure(tmp_path, sources(sandbox), sinks(sandbox))
        async with Daemon(config, fault=in_the_store) as daemon:
            await eventually(lambda: daemon.process.returncode is not None)
            assert daemon.process.returncode == 1
            assert "ZeroDivisionError: division by zero" in daemon.log
            assert not daemon.logged("peer_bug_caught")
