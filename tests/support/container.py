"""
A container of the image, made of namespaces and bind mounts.

An engine needs a daemon or rights on cgroups, which many machines that run tests do not give. This
has what the image relies on of an engine: process 1, a read-only root with one volume, a user
without any right, an environment and a network. See ``contain.py``.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import pytest
from tests.support import contain
from tests.support.daemon import eventually
from tests.support.image import Image

VARIABLE: Final = "TEST_RELEASE"
"""``required``: what is released must be tested, and a test that cannot be done fails."""
REQUIRED: Final = "required"
_UNSHARE: Final = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


def forbidden() -> str:
    """Return why no container can be made here; nothing if one can."""
    if os.geteuid() != 0:
        return "only root can make a container"
    try:
        subprocess.run([*_UNSHARE, "--net", "true"], capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"namespaces are not permitted here: {error}"
    return ""


def untested(why: str) -> NoReturn:
    """Skip this test because of *why*, or fail it where what is released must be tested."""
    if os.environ.get(VARIABLE) == REQUIRED:
        pytest.fail(f"{why}, and {VARIABLE}={REQUIRED}", pytrace=False)
    pytest.skip(why)


class Container:
    """
    A container of *image* with the folder *volume* as its state; it is killed at the end.

    *user* is its uid and gid, without one those of the image; *command* what follows the
    entrypoint, as for ``docker run``. It shares the network, as the doubles are on loopback, or has
    one of its own with a loopback and no more.
    """

    def __init__(
        self,
        image: Image,
        volume: Path,
        environ: Mapping[str, str] | None = None,
        *,
        user: tuple[int, int] | None = None,
        command: Sequence[str] | None = None,
        own_network: bool = False,
    ) -> None:
        uid, gid = image.settings["User"].split(":")
        self.image = image
        self.user = user or (int(uid), int(gid))
        known = user is None
        self.environ = {
            **image.environ,
            "HOME": image.state if known else "/",  # what engines set for a uid with no name
            **(environ or {}),
        }
        self.log_file = volume.with_name(f"{volume.name}.log")
        self._own_network = own_network
        self._before = 0
        self._asked = {
            "root": str(image.root),
            "volume": str(volume),
            "at": image.state,
            "folder": image.settings["WorkingDir"],
            "user": self.user,
            "own_network": own_network,
            "command": [
                *image.settings["Entrypoint"],
                *(image.settings["Cmd"] if command is None else command),
            ],
            "environ": self.environ,
        }
        self._outside: asyncio.subprocess.Process | None = None

    # --- outside -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        with self.log_file.open("ab") as log:
            self._before = len(self.logged("started"))
            self._outside = await asyncio.create_subprocess_exec(
                *_UNSHARE,
                *(("--net",) if self._own_network else ()),
                *(sys.executable, contain.__file__, json.dumps(self._asked)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            # A process that has changed its user is not killed with its parent.
            if (inside := self._program()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inside, signal.SIGKILL)
            self.process.kill()
            await self.process.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process that waits for process 1 and has its exit status."""
        assert self._outside is not None
        return self._outside

    @property
    def log(self) -> str:
        """All that was printed over all containers with this volume."""
        return self.log_file.read_text("utf-8", "replace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of the log that are called *event*."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    async def started(self) -> None:
        """Wait until the service in it has logged ``started`` once more."""
        await eventually(
            lambda: (
                len(self.logged("started")) > self._before or self.process.returncode is not None
            ),
            what="started",
        )
        assert self.process.returncode is None, self.log

    async def wait(self, within: float = 15.0) -> int:
        """Wait for its end; return the exit status."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    # --- inside ------------------------------------------------------------------------------

    def _program(self) -> int | None:
        outside = self.process.pid
        with contextlib.suppress(OSError, ValueError):  # it has not begun, or is ending
            children = Path(f"/proc/{outside}/task/{outside}/children").read_text()
            (inside,) = children.split()
            command = Path(f"/proc/{inside}/cmdline").read_bytes()
            if command and b"unshare" not in command and b"contain.py" not in command:
                return int(inside)
        return None

    async def process_1(self) -> int:
        """Return the id that process 1 of the container has outside, once it is the program."""
        found: int | None = None

        def look() -> bool:
            nonlocal found
            found = self._program()
            return found is not None or self.process.returncode is not None

        await eventually(look)
        assert found is not None, self.log
        return found

    async def status(self) -> dict[str, str]:
        """Return what the kernel says of process 1, ``/proc/1/status``."""
        return _status(await self.process_1())

    async def send(self, number: signal.Signals) -> None:
        """Send *number* to process 1, as an engine does."""
        os.kill(await self.process_1(), number)

    async def exec(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the container, as ``docker exec`` does."""
        uid, gid = self.user
        enter = ["nsenter", "--target", str(await self.process_1()), "--mount", "--pid", "--ipc"]
        enter += ["--net"] if self._own_network else []
        enter += ["--root", "--wd", f"--setgid={gid}", f"--setuid={uid}"]
        path = self.environ["PATH"]
        inside = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in (self.environ | environ).items())]
        process = await asyncio.create_subprocess_exec(
            *enter,
            *inside,
            *command,
            env={"PATH": f"{path}:{os.environ['PATH']}"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        status = process.returncode
        assert status is not None
        return subprocess.CompletedProcess(command, status, output.decode(), errors.decode())


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)
