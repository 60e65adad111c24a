"""The daemon as a child process against the sandbox, for the tests that prove things end to end."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from auditrelay.sandbox import Sandbox

TIMEOUT = 20.0
"""Most seconds to wait for a condition."""

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
    """Return the tables of the three intakes, with a short linger."""
    common = {"linger": "20ms", **changes}
    splunk, datadog, elastic = sandbox.splunk, sandbox.datadog, sandbox.elastic
    return {
        "splunk": {"type": "splunk_hec", "url": splunk.url, "token": splunk.token, **common},
        "datadog": {"type": "datadog", "url": datadog.url, "api_key": datadog.api_key, **common},
        "elastic": {
            "type": "elasticsearch",
            "urls": [elastic.url],
            "api_key": elastic.api_key,
            **common,
        },
    }


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
    config: Path, *arguments: str, within: float = 60.0, environ: Mapping[str, str] | None = None
) -> Ended:
    """Run ``auditrelay -c config arguments...`` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditrelay", "-c", str(config), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )
    try:
        async with asyncio.timeout(within):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Daemon:
    """
    ``auditrelay run`` during a ``with`` block; it is killed at the end if it still runs.

    *log* is its whole stderr, over all its starts.
    """

    def __init__(
        self,
        config: Path,
        *,
        program: Sequence[str] = (sys.executable, "-m", "auditrelay"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.log = ""
        self.address = ""
        self._program = program
        self._environ = {**os.environ, **(environ or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._seen = 0

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The child; it must have been started."""
        assert self._process is not None
        return self._process

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log, line by line."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log lines called *event* that have all of *fields*."""
        wanted = {"event": event, **fields}.items()
        return [line for line in self.lines if all(line.get(key) == value for key, value in wanted)]

    async def start(self) -> None:
        """Start it, and wait until it has logged ``started``."""
        before = len(self.logged("started"))
        self._process = await asyncio.create_subprocess_exec(
            *(*self._program, "-c", str(self.config), "run"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        process = self._process
        await eventually(
            lambda: len(self.logged("started")) > before or process.returncode is not None,
            what="started",
        )
        assert len(self.logged("started")) > before, self.log
        self.address = self.logged("started")[-1]["status"].rstrip("/")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while chunk := await process.stderr.read(65536):
            self.log += chunk.decode()

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within: float = 15.0) -> int:
        """Send *number*, wait for the end, and return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(within):
            status = await self.process.wait()
            if self._reading is not None:
                await self._reading
        return status

    async def get(self, path: str) -> httpx.Response:
        """Send a GET to the status port."""
        # plain HTTP on loopback: loading the certificates would take longer than the request
        async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:
            return await client.get(self.address + path)

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
        async with AsyncExitStack() as stack:
            if self._reading is not None:
                stack.push_async_callback(asyncio.wait, [self._reading])
            if self.process.returncode is None:
                self.process.kill()
                stack.push_async_callback(self.process.wait)


def made(sandbox: Sandbox) -> set[str]:
    """Return the native ids of all events that the vendors have recorded."""
    return {native for vendor in sandbox.vendors.values() for native in vendor.records.ids()}


def intakes(sandbox: Sandbox) -> dict[str, Any]:
    """Return the store of each intake, by the name of its sink."""
    return {name: getattr(sandbox, name).stored for name in ("splunk", "datadog", "elastic")}


def missing(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return the ids that each intake lacks, for those that lack any."""
    wanted = made(sandbox)
    lost = {name: stored.lost(wanted) for name, stored in intakes(sandbox).items()}
    return {name: ids for name, ids in lost.items() if ids}
