"""What a command does to its own process first: it can be ended, and its memory stays its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import auditrelay.__main__ as entry
import auditrelay.cli

pytestmark = pytest.mark.process

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]
"""Begins a program as process 1 of a namespace of its own."""


def output(program: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return ended.stdout.strip()


def test_its_memory_goes_into_no_core_dump_and_no_other_process_may_read_it() -> None:
    program = (
        "from auditrelay.process import begin; begin(); import resource, ctypes; "
        "print(*resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    assert output(program) == "0 0 0"


def test_that_comes_before_what_takes_long_to_import() -> None:
    program = "import auditrelay.__main__, sys; print(*sys.modules)"
    slow = {"asyncio", "httpx", "msgspec", "structlog", "typer", "auditrelay.cli"}
    assert not slow & set(output(program).split())


def test_every_command_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(entry, "begin", lambda: called.append("begin"))
    monkeypatch.setattr(auditrelay.cli, "main", lambda: called.append("main"))
    entry.main()
    assert called == ["begin", "main"]


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether the process *pid* has a handler for the signal *number*."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def test_as_process_1_it_can_be_ended_while_it_is_being_imported() -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare --pid is not permitted here")
    program = (
        "import time\n"
        "import auditrelay.__main__ as entry\n"
        "begin = entry.begin\n"
        "entry.begin = lambda: (begin(), time.sleep(60))\n"
        "entry.main()\n"
    )
    with (
        subprocess.Popen([*UNSHARE, sys.executable, "-c", program]) as outside,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(outside.kill)
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        deadline = time.monotonic() + 20
        while not (inside := children.read_text().split()) or not catches(
            int(inside[0]), signal.SIGTERM
        ):
            assert time.monotonic() < deadline
            assert outside.poll() is None
            time.sleep(0.01)
        os.kill(int(inside[0]), signal.SIGTERM)
        assert outside.wait(5) == 128 + signal.SIGTERM


ORPHAN = """
import functools, os, time
from tests.support.processes import Child
sleep = functools.partial(time.sleep, 60)
print(Child("run", stdout=os.devnull, stderr=os.devnull, environ={}, fault=sleep).pid, flush=True)
time.sleep(60)
"""


def test_a_daemon_of_tests_that_are_killed_ends_with_them() -> None:
    """It would ask ports of loopback that other tests get."""
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        daemon = Path(f"/proc/{int(tests.stdout.readline())}")
        assert daemon.exists()
        tests.kill()
    until = time.monotonic() + 20
    while daemon.exists():
        assert time.monotonic() < until, "the daemon is still there"
        time.sleep(0.05)
