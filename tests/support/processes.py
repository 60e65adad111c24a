"""
``auditrelay`` in processes that are forked from one that has imported all of it.

The imports take half a second of processor time, more than most commands. multiprocessing's fork
server does them once. A child then runs the same ``main`` as ``python -m auditrelay``, with its own
arguments, environment and files, and its waits are faster. The tests of the container, of
supervision and of the idle service start the real program.
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path

import auditrelay
from auditrelay.clock import Clock

SOURCE = Path(auditrelay.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.relative_to(SOURCE).parts[0] not in ("sandbox", "__main__.py")
)

LATER = ["anyio._backends._asyncio"]
"""Modules of libraries that are imported only at the first request."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES + LATER)

SPEED = 5.0
"""How many times faster waits between attempts are in a child, such as that of a held sink."""

Fault = Callable[[], None]
"""Called in the child before ``main``, to replace parts of the product; must be picklable."""


class Child:
    """A running ``auditrelay``, with the interface of asyncio's ``Process`` and output in files."""

    def __init__(
        self,
        *arguments: str,
        stdout: Path | str,
        stderr: Path | str,
        environ: Mapping[str, str],
        speed: float = SPEED,
        fault: Fault | None = None,
    ) -> None:
        sys.audit("os.fork")  # for the guard in conftest.py, which does not see a server's forks
        self._process = _context.Process(
            target=_run,
            args=(
                *(arguments, str(stdout), str(stderr)),
                *(dict(environ), str(Path.cwd()), speed, fault),
            ),
            daemon=True,
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send the signal *number*, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for the end, and return the exit status."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        assert self.returncode is not None
        return self.returncode


def _run(
    arguments: tuple[str, ...],
    stdout: str,
    stderr: str,
    environ: dict[str, str],
    folder: str,
    speed: float,
    fault: Fault | None,
) -> None:
    """Do what ``python -m auditrelay arguments...`` does."""
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, (path, flags) in enumerate(
        ((os.devnull, os.O_RDONLY), (stdout, write), (stderr, write))
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["auditrelay", *arguments]

    async def sleep(_: Clock, seconds: float) -> None:
        await asyncio.sleep(seconds / speed)

    setattr(Clock, "sleep", sleep)  # noqa: B010  # main builds its clock by itself
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    if fault is not None:
        fault()
    importlib.import_module("auditrelay.cli").main()


def _end_with_the_tests() -> None:
    """
    End this process as soon as the tests have ended, however they did.

    Tests that are killed cannot end it, and it would go on asking ports of loopback, which other
    tests get one day.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
