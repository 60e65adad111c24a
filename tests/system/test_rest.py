"""The idle service: it sleeps, and has imported only what it needs."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, configure, eventually, intakes, sinks, sources

from auditrelay.cli.lazy import COMMANDS
from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

PRINT_MODULES = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps({"event": "modules", "names": list(sys.modules)}),
                              file=sys.stderr))
from auditrelay.cli import main
main()
"""
"""The daemon, with one more line at its end: the modules that it has imported."""

NOT_NEEDED = {
    *("rich", "pygments"),  # for tables; httpx and structlog import them if they can
    *("pydantic_settings", "dotenv", "argparse"),  # for variables, of which none is set
    "httpcore",  # httpx's own transport, for a proxy
    *("click", "uvicorn.main", "uvicorn.supervisors"),  # uvicorn's command line
    *("concurrent.futures.process", "multiprocessing.connection"),  # APScheduler's processes
    *("http.server", "wsgiref"),  # the server of the metrics library
    *("cryptography", "cffi"),  # for signed claims, which a few described vendors want
    *(
        "sqlalchemy",
        "redis",
        "pytz",
        "watchfiles",
        "websockets",
    ),  # what libraries import if they can
    *("numpy", "unittest", "xml", "xmlrpc", "distutils"),
    "auditrelay.sandbox",
}
"""Megabytes that the service at rest does not have."""

HEAVY = {"structlog", "httpx", "pydantic", "sqlite3", "prometheus_client", "auditrelay.config"}
"""Modules that ``--help`` does not need."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(5, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


def wakeups(process: int) -> int:
    """Return how often a thread of *process* has gone to sleep, and was or will be woken."""
    statuses = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/status")]
    found = [
        re.search(r"^voluntary_ctxt_switches:\s+(\d+)", each, re.MULTILINE) for each in statuses
    ]
    return sum(int(each[1]) for each in found if each)


async def quiet(process: int) -> bool:
    """Return whether nothing wakes *process* for a second."""
    before = wakeups(process)
    await asyncio.sleep(1)  # real time: the kernel counts the switches
    return wakeups(process) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the switches of a process")
async def test_nothing_wakes_the_service_between_two_polls(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = configure(tmp_path, sources(sandbox, poll_interval="1h"), sinks(sandbox))
    async with Daemon(config, program=(sys.executable, "-m", "auditrelay")) as daemon:
        await eventually(lambda: all(stored.total == 10 for stored in intakes(sandbox).values()))
        assert wakeups(daemon.process.pid) > 0
        # One quiet second is the proof: a slower timer costs too little to matter, and a loaded
        # machine can only delay that second.
        await eventually(lambda: quiet(daemon.process.pid))
        assert await daemon.end() == 0


async def test_the_status_port_still_sends_the_date(tmp_path: Path, sandbox: Sandbox) -> None:
    async with Daemon(configure(tmp_path, sources(sandbox), sinks(sandbox))) as daemon:
        date = parsedate_to_datetime((await daemon.get("/healthz")).headers["date"])
        assert abs(datetime.now(UTC) - date) < timedelta(seconds=10)


def test_the_commands_are_listed_without_importing_any_of_them() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PRINT_MODULES, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert " backfill " in ended.stdout
    names = set(json.loads(ended.stderr)["names"])
    assert "auditrelay.cli.lazy" in names
    assert HEAVY & names == set()
    assert not {f"auditrelay.cli.{name.replace('-', '_')}" for name in COMMANDS} & names


async def test_the_service_imports_nothing_that_only_commands_and_tests_need(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with Daemon(config, program=(sys.executable, "-c", PRINT_MODULES)) as daemon:
        await eventually(lambda: all(stored.total == 10 for stored in intakes(sandbox).values()))
        assert await daemon.end() == 0
        (line,) = daemon.logged("modules")
    names = set(line["names"])
    assert {"auditrelay.service.app", "httpx", "sqlite3"} <= names
    assert names & NOT_NEEDED == set()
