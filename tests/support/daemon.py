"""The daemon as a child process against the sandbox, for the tests that prove things end to end."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from types import TracebackType
from typing import Any, Self

import httpx
from tests.support.processes import SPEED, Child, Fault

from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.stored import Stored

TIMEOUT = 90.0
"""Most seconds to wait for a condition, on a machine that is busy with other things."""

Table = dict[str, Any]

FAST = {"poll_interval": "1s", "settle": "0s", "overlap": "10s", "initial_lookback": "1h"}
"""A source that is polled so often that a test need not wait, without resweeps."""

TWO = ("cekura", "bland")
"""The vendors of most of these tests; ``contract`` proves that all vendors behave alike."""


def sources(sandbox: Sandbox, *, of: Iterable[str] = TWO, **changes: Any) -> Table:
    """Return the tables of these vendors, with short intervals."""
    common = {**FAST, "resweep": [], **changes}
    return {name: {**sandbox.vendors[name].settings(), **common} for name in of}


def sinks(sandbox: Sandbox, **changes: Any) -> Table:
    """Return the tables of sinks that send to the intakes, with a short linger."""
    common = {"linger": "20ms", **changes}
    return {name: {**intake.settings(), **common} for name, intake in sandbox.siems.items()}


def configure(folder: Path, sources: Table, sinks: Table, **top: Any) -> Path:
    """Write a configuration into *folder*, and the state next to it; return its path."""
    config = {
        "state_dir": str(folder / "state"),
        "status": {"listen": "127.0.0.1:0"},
        "log": {"format": "json"},
        "alerts": {"events": False},  # tests count what arrives
        "sources": sources,
        "sinks": sinks,
        **top,
    }
    path = folder / "auditrelay.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(_toml(config)) + "\n")
    return path


def _toml(table: Mapping[str, Any], name: str = "") -> list[str]:
    # for texts, numbers, booleans and lists the output of json.dumps is also TOML
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(v)}" for key, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml(value, f"{name}.{key}" if name else key)
    return lines


async def eventually(
    condition: Callable[[], object | Awaitable[object]],
    *,
    within: float = TIMEOUT,
    what: str = "",
) -> None:
    """Wait until *condition* is true, or what it awaits is; fail after *within* seconds."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < deadline, f"still not, after {within} s: {what or condition}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit status, the output and the log of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log, line by line."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]


async def command(
    config: Path,
    *arguments: str,
    within: float = 60.0,
    environ: Mapping[str, str] | None = None,
    fault: Fault | None = None,
) -> Ended:
    """Run ``auditrelay -c config arguments...`` to its end, with a *fault* if there is one."""
    with TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        child = Child(
            *("-c", str(config), *arguments),
            stdout=stdout,
            stderr=stderr,
            environ={**os.environ, **(environ or {})},
            fault=fault,
        )
        try:
            async with asyncio.timeout(within):
                status = await child.wait()
        finally:
            child.kill()
        return Ended(status, _text(stdout), _text(stderr))


def _text(path: Path) -> str:
    return path.read_text("utf-8")


class Daemon:
    """
    ``auditrelay run`` during a ``with`` block; it is killed at the end if it still runs.

    It is forked, with waits *speed* times faster and a *fault* if there is one; or it is the real
    *program*, to which the arguments are appended.
    """

    def __init__(
        self,
        config: Path,
        *,
        program: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        speed: float = SPEED,
        fault: Fault | None = None,
    ) -> None:
        self.config = config
        self.address = ""
        self._program = program
        self._environ = {**os.environ, **(environ or {})}
        self._speed = speed
        self._fault = fault
        self._process: asyncio.subprocess.Process | Child | None = None
        handle, path = mkstemp(".log", "daemon-", config.parent)
        os.close(handle)
        self._log = Path(path)
        self._lines: list[dict[str, Any]] = []
        self._parsed = 0

    @property
    def process(self) -> asyncio.subprocess.Process | Child:
        """The child; it must have been started."""
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """Its whole stderr, over all its starts."""
        return self._log.read_text("utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log, line by line."""
        with self._log.open("rb") as file:
            file.seek(self._parsed)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._parsed += len(line)
                if line.startswith(b"{"):
                    self._lines.append(json.loads(line))
        return self._lines

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log lines called *event* that have all of *fields*."""
        wanted = {"event": event, **fields}.items()
        return [line for line in self.lines if all(line.get(key) == value for key, value in wanted)]

    async def start(self) -> None:
        """Start it, and wait until it has logged ``started``."""
        before = len(self.logged("started"))
        arguments = ("-c", str(self.config), "run")
        if self._program:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._program,
                    *arguments,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=log,
                    env=self._environ,
                )
        else:
            self._process = Child(
                *arguments,
                stdout=os.devnull,
                stderr=self._log,
                environ=self._environ,
                speed=self._speed,
                fault=self._fault,
            )
        process = self._process
        await eventually(
            lambda: len(self.logged("started")) > before or process.returncode is not None,
            what="started",
        )
        assert len(self.logged("started")) > before, self.log
        self.address = self.logged("started")[-1]["status"].rstrip("/")

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within: float = 15.0) -> int:
        """Send *number*, wait for the end, and return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def get(self, path: str) -> httpx.Response:
        """Send a GET to the status port."""
        # plain HTTP on loopback: loading the certificates would take longer than the request
        async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT, verify=False) as client:
            try:
                return await client.get(self.address + path)
            except httpx.TransportError as error:
                await asyncio.sleep(0.5)  # it may be ending
                error.add_note(f"exit status {self.process.returncode}, and its log ends with:")
                error.add_note(self.log[-4000:])
                raise

    async def metric(self, name: str, **labels: str) -> float:
        """Return a sample of ``/metrics``; 0 if there is none."""
        for line in (await self.get("/metrics")).text.splitlines():
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and all(f'{k}="{v}"' in rest for k, v in labels.items()):
                return float(value)
        return 0.0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def made(sandbox: Sandbox) -> set[str]:
    """Return the native ids of all events that the vendors have recorded."""
    return {native for vendor in sandbox.vendors.values() for native in vendor.records.ids()}


def intakes(sandbox: Sandbox) -> dict[str, Stored]:
    """Return the store of each intake, by the name of its sink."""
    return {name: intake.stored for name, intake in sandbox.siems.items()}


def missing(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return the ids that each intake lacks, for those that lack any."""
    wanted = made(sandbox)
    lost = {name: stored.lost(wanted) for name, stored in intakes(sandbox).items()}
    return {name: ids for name, ids in lost.items() if ids}
