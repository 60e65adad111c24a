"""What the service manager is told, on a socket of the test's own."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from auditrelay.service.systemd import LONGEST, Supervisor


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0)

    def told(self) -> list[str]:
        """Return the datagrams that have come since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


class Instance:
    """An instance that fares as it is told."""

    def __init__(self) -> None:
        self.held_up: list[str] = []
        self.sentence = "All work: cekura, splunk"

    def stuck(self) -> list[str]:
        return self.held_up

    def summary(self) -> str:
        return self.sentence


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    manager = Manager(path if request.param == "path" else f"@{path}")
    yield manager
    manager.close()


def environ(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


def test_it_is_told_that_everything_runs_and_that_it_ends(manager: Manager) -> None:
    supervisor = Supervisor(environ(manager))
    assert supervisor.restart_command == "systemctl restart auditrelay"
    supervisor.ready("cekura has\nnot worked yet: wait")
    supervisor.stopping()
    ready, stopping = manager.told()
    assert ready == "READY=1\nSTATUS=cekura has not worked yet: wait"
    assert stopping.splitlines()[0] == "STOPPING=1"


def test_a_reload_is_told_with_the_time_of_the_clock_that_systemd_reads(manager: Manager) -> None:
    supervisor = Supervisor(environ(manager))
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    supervisor.reloading()
    supervisor.ready("All work: cekura")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading, ready = manager.told()
    first, second = reloading.splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after
    assert ready.startswith("READY=1\n")


async def test_signs_of_life_stop_while_a_loop_is_stuck_and_the_log_names_it_once(
    manager: Manager,
) -> None:
    instance = Instance()
    supervisor = Supervisor(environ(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid())))
    telling = asyncio.ensure_future(supervisor.keep_telling(instance))
    await asyncio.sleep(0.1)
    assert "WATCHDOG=1" in manager.told()
    instance.held_up = ["bland"]
    with capture_logs() as logs:
        await asyncio.sleep(0.03)
        manager.told()
        await asyncio.sleep(0.1)
    assert manager.told() == []
    assert logs == [{"event": "loop_stuck", "log_level": "error", "loops": ["bland"]}]
    instance.held_up = []
    await asyncio.sleep(0.1)
    assert "WATCHDOG=1" in manager.told()
    telling.cancel()


async def test_the_sentence_is_told_when_it_changes_and_only_then(manager: Manager) -> None:
    instance = Instance()
    supervisor = Supervisor(environ(manager, WATCHDOG_USEC="40000"))
    supervisor.ready(instance.summary())
    telling = asyncio.ensure_future(supervisor.keep_telling(instance))
    await asyncio.sleep(0.1)
    told = manager.told()  # the kernel holds ten of them at most
    instance.sentence = "splunk is held: 403 " + "\N{SNOWMAN}" * 5000
    await asyncio.sleep(0.1)
    telling.cancel()
    first, *rest = [each for each in (*told, *manager.told()) if each != "WATCHDOG=1"]
    assert first == "READY=1\nSTATUS=All work: cekura, splunk"
    (second,) = rest
    assert second.startswith("STATUS=splunk is held: 403 ")
    assert len(second.removeprefix("STATUS=")) == LONGEST
    assert len(second.encode()) < 4096


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
async def test_without_a_wish_for_signs_of_life_nothing_wakes_up(
    manager: Manager, more: dict[str, str]
) -> None:
    async with asyncio.timeout(1):
        await Supervisor(environ(manager, **more)).keep_telling(Instance())
    assert manager.told() == []


async def test_without_a_service_manager_nobody_is_told_anything() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "20000"})
    assert supervisor.restart_command is None
    with capture_logs() as logs:
        supervisor.ready("All work")
        supervisor.reloading()
        supervisor.stopping()
        async with asyncio.timeout(1):
            await supervisor.keep_telling(Instance())
    assert logs == []


def test_a_service_manager_that_is_gone_costs_one_warning(tmp_path: Path) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with capture_logs() as logs:
        supervisor.ready("All work")
        supervisor.stopping()
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("supervisor_unreachable", "warning")
    ]
