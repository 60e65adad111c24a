"""A bug in the real process: in a source it costs that source, in the store the process."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, configure, eventually, missing, sinks, sources

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

MINUTE = timedelta(minutes=1)


def in_bland() -> None:
    """Let the reader of one vendor divide by zero."""
    from auditrelay.events.vendors import bland  # noqa: PLC0415  # in the child

    vars(bland)["read"] = lambda _: 1 / 0


def in_the_store() -> None:
    """Let every write of a page divide by zero."""
    from auditrelay.store.sqlite import intake  # noqa: PLC0415  # in the child

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


async def test_a_bug_in_the_store_ends_the_process_with_a_traceback(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        sandbox.vendors["bland"].add(datetime.now(UTC) - MINUTE)
        config = configure(tmp_path, sources(sandbox), sinks(sandbox))
        async with Daemon(config, fault=in_the_store) as daemon:
            await eventually(lambda: daemon.process.returncode is not None)
            assert daemon.process.returncode == 1
            assert "ZeroDivisionError: division by zero" in daemon.log
            assert not daemon.logged("peer_bug_caught")
