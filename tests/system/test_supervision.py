"""The real process under a service manager: what it is told, and what silences it."""

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

from auditrelay.sandbox import Sandbox, faults

pytestmark = pytest.mark.process

PULSE_USEC = "200000"
"""Within so many microseconds it has to give a sign of life."""

SILENCE = 1.0
"""Seconds without a sign of life after which systemd would have acted, five times over."""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        now = datetime.now(UTC)
        for vendor in (sandbox.cekura, sandbox.bland):
            vendor.fill(10, now - timedelta(minutes=50), now - timedelta(minutes=1))
        yield sandbox


class Manager:
    """Where the daemon's datagrams go; the newest last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)

    def listen(self) -> list[str]:
        """Return all that was told so far."""
        while True:
            try:
                self.told.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return self.told

    def signs_of_life(self) -> int:
        return self.listen().count("WATCHDOG=1")

    def sentence(self) -> str:
        """Return the newest STATUS."""
        lines = [line for told in self.listen() for line in told.splitlines()]
        return [line for line in lines if line.startswith("STATUS=")][-1].removeprefix("STATUS=")

    async def goes_on(self) -> None:
        """Wait for a few more signs of life."""
        wanted = self.signs_of_life() + 3
        await eventually(lambda: self.signs_of_life() >= wanted, what="signs of life")

    async def falls_silent(self) -> None:
        """Wait until no sign of life has come for *SILENCE*."""
        seen, since = -1, 0.0

        def silent() -> bool:
            nonlocal seen, since
            if (count := self.signs_of_life()) != seen:
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


def supervised(config: Path, manager: Manager, *, falters: bool = False) -> Daemon:
    program = [str(Path(__file__).with_name("faltering.py"))] if falters else ["-m", "auditrelay"]
    return Daemon(
        config,
        program=(sys.executable, *program),
        environ={
            "NOTIFY_SOCKET": str(manager.path),
            "WATCHDOG_USEC": PULSE_USEC,
            "FALTER_IN": str(config.parent),
        },
    )


async def test_the_manager_is_told_when_it_runs_how_it_fares_and_that_it_ends(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    tables = sinks(sandbox)
    sandbox.splunk.faults.add(faults.answer(403, b'{"text":"Invalid token","code":4}'), times=None)
    async with supervised(configure(tmp_path, sources(sandbox), tables), manager) as daemon:
        await eventually(manager.listen)  # the log said so a moment before
        first = manager.told[0]
        assert first.startswith("READY=1\nSTATUS=")
        await eventually(
            lambda: manager.sentence().startswith("splunk is blocked, action required: POST http")
        )
        sandbox.splunk.faults.clear()
        await eventually(
            lambda: manager.sentence() == "All healthy: cekura, bland, splunk, datadog, elastic"
        )
        await manager.goes_on()
        said = [told for told in manager.told if told.startswith("STATUS=")]
        assert all(one != other for one, other in itertools.pairwise(said))
        assert await daemon.end(signal.SIGTERM) == 0
    last = manager.listen()[-1]
    assert last.startswith("STOPPING=1\n")
    assert not [told for told in manager.told if told.startswith("RELOADING")]


async def test_a_stuck_loop_silences_the_signs_of_life_and_fails_the_health_check(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox, timeout="100ms"), sinks(sandbox))
    async with supervised(config, manager, falters=True) as daemon:
        await eventually(lambda: not missing(sandbox))
        await manager.goes_on()
        (tmp_path / "stuck").touch()
        await manager.falls_silent()
        health = await daemon.get("/healthz")
        assert (health.status_code, health.json()["ok"]) == (503, False)
        await eventually(lambda: set(daemon.said("loop_stuck")[-1]["loops"]) == {"cekura", "bland"})
        assert set((await daemon.get("/healthz")).json()["stuck"]) == {"cekura", "bland"}
        (tmp_path / "stuck").unlink()
        await manager.goes_on()
        assert (await daemon.get("/healthz")).status_code == 200
        assert await daemon.end() == 0


async def test_polls_that_do_not_come_any_more_silence_the_signs_of_life(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with supervised(config, manager, falters=True) as daemon:
        await eventually(lambda: not missing(sandbox))
        (tmp_path / "unscheduled").touch()
        await manager.falls_silent()

        async def both() -> bool:
            return set((await daemon.get("/healthz")).json()["stuck"]) == {"cekura", "bland"}

        await eventually(both)
        (tmp_path / "unscheduled").unlink()
        await manager.goes_on()


async def test_a_blocked_event_loop_silences_the_signs_of_life(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    config = configure(tmp_path, sources(sandbox), sinks(sandbox))
    async with supervised(config, manager, falters=True) as daemon:
        await manager.goes_on()
        (tmp_path / "blocked").touch()
        await manager.falls_silent()
        assert not daemon.said("loop_stuck")
        (tmp_path / "blocked").unlink()
        await manager.goes_on()
        assert await daemon.end() == 0


async def test_a_peer_that_is_merely_slow_is_not_taken_for_stuck(
    tmp_path: Path, sandbox: Sandbox, manager: Manager
) -> None:
    # 1 second is STUCK there: without an allowance for its timeouts it would be exceeded.
    sandbox.bland.faults.add(faults.hang(), times=None)
    config = configure(tmp_path, sources(sandbox, timeout="1500ms"), sinks(sandbox))
    async with supervised(config, manager, falters=True) as daemon:
        await eventually(lambda: len(daemon.said("request_retried", peer="bland")) >= 2)
        assert not daemon.said("loop_stuck")
        await manager.goes_on()
