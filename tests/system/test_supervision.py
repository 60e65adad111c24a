"""The real process under a service manager: its notifications, and when its watchdog stops."""

import itertools
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.daemon import Daemon, configure, eventually, missing, sinks, sources
from tests.system.stall import Stall

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

WATCHDOG_USEC = "200000"
"""Microseconds within which the daemon has to send a watchdog ping."""

SILENCE = 1.0
"""Seconds without a ping after which systemd would have acted, five times over."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(10, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


class Manager:
    """Receives the daemon's datagrams; the newest last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)

    def receive(self) -> list[str]:
        """Return all datagrams so far."""
        while True:
            try:
                self.received.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return self.received

    def pings(self) -> int:
        return self.receive().count("WATCHDOG=1")

    def status(self) -> str:
        """Return the newest STATUS."""
        lines = [line for each in self.receive() for line in each.splitlines()]
        return [line for line in lines if line.startswith("STATUS=")][-1].removeprefix("STATUS=")

    async def keeps_pinging(self) -> None:
        """Wait for a few more pings."""
        wanted = self.pings() + 3
        await eventually(lambda: self.pings() >= wanted, what="pings")

    async def stops_pinging(self) -> None:
        """Wait until no ping has come for *SILENCE*."""
        seen, since = -1, 0.0

        def silent() -> bool:
            nonlocal seen, since
            if (count := self.pings()) != seen:
                seen, since = count, time.monotonic()
            return time.monotonic() - since > SILENCE

        await eventually(silent, what="silent")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def supervised(config: Path, manager: Manager, *, stalls: bool = False) -> Daemon:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": WATCHDOG_USEC}
    if stalls:
        return Daemon(config, environ=environ, fault=Stall(config.parent))
    return Daemon(config, environ=environ, program=(sys.executable, "-m", "auditrelay"))


async def test_the_manager_is_notified_of_start_health_and_stop(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    tables = sinks(sandbox)
    sandbox.splunk.faults.add(faults.answer(403, b'{"text":"Invalid token","code":4}'), times=None)
    async with supervised(configure(tmp_path, sources(sandbox), tables), manager) as daemon:
        await eventually(manager.receive)  # sent just after the log line
        first = manager.received[0]
        assert first.startswith("READY=1\nSTATUS=")
        await eventually(
            lambda: manager.status().startswith("splunk is blocked, action required: POST http")
        )
        sandbox.splunk.faults.clear()
        await eventually(
            lambda: manager.status() == "All healthy: cekura, bland, splunk, datadog, elastic"
        )
        await manager.keeps_pinging()
        changes = [each for each in manager.received if each.startswith("STATUS=")]
        assert all(one != other for one, other in itertools.pairwise(changes))
        assert await daemon.end(signal.SIGTERM) == 0
    last = manager.receive()[-1]
    assert last.startswith("STOPPING=1\n")
    assert not [each for each in manager.received if each.startswith("RELOADING")]


async def test_a_stuck_loop_stops_the_watchdog_pings_and_fails_the_health_check(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox, timeout="100ms"), sinks(sandbox))
    async with supervised(config, manager, stalls=True) as daemon:
        await eventually(lambda: not missing(sandbox))
        await manager.keeps_pinging()
        (tmp_path / "stuck").touch()
        await manager.stops_pinging()
        health = await daemon.get("/healthz")
        assert (health.status_code, health.json()["ok"]) == (503, False)
        await eventually(
            lambda: set(daemon.logged("loop_stuck")[-1]["loops"]) == {"cekura", "bland"}
        )
        assert set((await daemon.get("/healthz")).json()["stuck"]) == {"cekura", "bland"}
        (tmp_path / "stuck").unlink()
        await manager.keeps_pinging()
        assert (await daemon.get("/healthz")).status_code == 200
        assert await daemon.end() == 0


async def test_polls_that_are_no_longer_scheduled_stop_the_watchdog_pings(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with supervised(config, manager, stalls=True) as daemon:
        await eventually(lambda: not missing(sandbox))
        (tmp_path / "unscheduled").touch()
        await manager.stops_pinging()

        async def both() -> bool:
            return set((await daemon.get("/healthz")).json()["stuck"]) == {"cekura", "bland"}

        await eventually(both)
        (tmp_path / "unscheduled").unlink()
        await manager.keeps_pinging()


async def test_a_blocked_event_loop_stops_the_watchdog_pings(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with supervised(config, manager, stalls=True) as daemon:
        await manager.keeps_pinging()
        (tmp_path / "blocked").touch()
        await manager.stops_pinging()
        assert not daemon.logged("loop_stuck")
        (tmp_path / "blocked").unlink()
        await manager.keeps_pinging()
        assert await daemon.end() == 0


async def test_a_slow_peer_is_not_a_stuck_loop(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    # 1 second is STUCK there: without an allowance for its timeouts it would be exceeded.
    sandbox.bland.faults.add(faults.hang(), times=None)
    config = configure(tmp_path, sources(sandbox, timeout="1500ms"), sinks(sandbox))
    async with supervised(config, manager, stalls=True) as daemon:
        await eventually(lambda: len(daemon.logged("request_retried", peer="bland")) >= 2)
        assert not daemon.logged("loop_stuck")
        await manager.keeps_pinging()
