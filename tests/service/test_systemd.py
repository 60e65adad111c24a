"""The notifications to the service manager, on a socket of the test."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from auditrelay.clock import Clock
from auditrelay.service.systemd import MAX_STATUS, Supervisor


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0)

    def received(self) -> list[str]:
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
    """An instance whose health the test sets."""

    def __init__(self) -> None:
        self.stuck_loops: list[str] = []
        self.sentence = "All healthy: cekura, splunk"

    def stuck(self) -> list[str]:
        return self.stuck_loops

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


def test_readiness_and_stopping_are_notified(manager: Manager) -> None:
    supervisor = Supervisor(environ(manager), Clock())
    assert supervisor.restart_command == "systemctl restart auditrelay"
    supervisor.ready("cekura:\nno response yet")
    supervisor.stopping()
    ready, stopping = manager.received()
    assert ready == "READY=1\nSTATUS=cekura: no response yet"
    assert stopping == "STOPPING=1\nSTATUS=Stopping: draining requests in flight"


def test_a_reload_is_notified_with_the_time_of_the_clock_that_systemd_reads(
    manager: Manager,
) -> None:
    supervisor = Supervisor(environ(manager), Clock())
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    supervisor.reloading()
    supervisor.ready("All healthy: cekura")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading, ready = manager.received()
    first, second = reloading.splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after
    assert ready.startswith("READY=1\n")


async def test_watchdog_pings_stop_while_a_loop_is_stuck_and_the_log_names_it_once(
    manager: Manager,
) -> None:
    instance = Instance()
    supervisor = Supervisor(
        environ(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid())), Clock()
    )
    notifying = asyncio.ensure_future(supervisor.keep_notifying(instance))
    await asyncio.sleep(0.1)
    assert "WATCHDOG=1" in manager.received()
    instance.stuck_loops = ["bland"]
    with capture_logs() as logs:
        await asyncio.sleep(0.03)
        manager.received()
        await asyncio.sleep(0.1)
    assert manager.received() == []
    assert logs == [{"event": "loop_stuck", "log_level": "error", "loops": ["bland"]}]
    instance.stuck_loops = []
    await asyncio.sleep(0.1)
    assert "WATCHDOG=1" in manager.received()
    notifying.cancel()


async def test_the_status_line_is_sent_when_it_changes_and_only_then(manager: Manager) -> None:
    instance = Instance()
    supervisor = Supervisor(environ(manager, WATCHDOG_USEC="40000"), Clock())
    supervisor.ready(instance.summary())
    notifying = asyncio.ensure_future(supervisor.keep_notifying(instance))
    await asyncio.sleep(0.1)
    before = manager.received()  # the kernel queues ten of them at most
    instance.sentence = "splunk is blocked, action required: 403 " + "\N{SNOWMAN}" * 5000
    await asyncio.sleep(0.1)
    notifying.cancel()
    first, *rest = [each for each in (*before, *manager.received()) if each != "WATCHDOG=1"]
    assert first == "READY=1\nSTATUS=All healthy: cekura, splunk"
    (second,) = rest
    assert second.startswith("STATUS=splunk is blocked, action required: 403 ")
    assert len(second.removeprefix("STATUS=")) == MAX_STATUS
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
async def test_without_a_watchdog_nothing_wakes_up(manager: Manager, more: dict[str, str]) -> None:
    async with asyncio.timeout(1):
        await Supervisor(environ(manager, **more), Clock()).keep_notifying(Instance())
    assert manager.received() == []


async def test_without_a_service_manager_nothing_is_sent() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "20000"}, Clock())
    assert supervisor.restart_command is None
    with capture_logs() as logs:
        supervisor.ready("All healthy")
        supervisor.reloading()
        supervisor.stopping()
        async with asyncio.timeout(1):
            await supervisor.keep_notifying(Instance())
    assert logs == []


def test_a_service_manager_that_is_gone_costs_one_warning(tmp_path: Path) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}, Clock())
    with capture_logs() as logs:
        supervisor.ready("All healthy")
        supervisor.stopping()
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("supervisor_unreachable", "warning")
    ]
