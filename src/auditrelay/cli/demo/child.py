"""The daemon that is shown: a child process with a configuration and a state of its own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from auditrelay.config.names import PREFIX
from auditrelay.errors import RelayError
from auditrelay.sandbox import Intake, Sandbox, Vendor

_CONFIG = """\
state_dir = {state}
{shared}[status]
listen = "127.0.0.1:0"
[log]
format = "json"
{sources}
{sinks}\
"""
# Much faster than one would poll a vendor, so that there is something to watch. Some descriptions
# have a ceiling of requests, which would slow it down.
_PACE = """\
poll_interval = "2s"
settle = "1s"
overlap = "5s"
resweep = ["8s"]
initial_lookback = "1h"
requests_per_minute = 6000
"""


class Daemon:
    """
    The daemon for *sandbox*, with its configuration in *folder* and its state in *state*.

    *logged* is called with each line of its log. With *store*, the address of a shared store, it is
    the replica *name* of several.
    """

    def __init__(
        self,
        folder: Path,
        state: Path,
        sandbox: Sandbox,
        logged: Callable[[dict[str, Any]], None],
        *,
        name: str = "",
        store: str | None = None,
    ) -> None:
        self.name = name
        self._config = folder / f"auditrelay{name and '-'}{name}.toml"
        shared = {} if store is None else {"store": store, "replica": name}
        self._config.touch(mode=0o600)
        self._config.write_text(
            _CONFIG.format(
                state=json.dumps(str(state)),
                shared=_toml(shared),
                sources="".join(
                    _source_table(name, vendor) for name, vendor in sandbox.vendors.items()
                ),
                sinks="".join(map(_sink_table, sandbox.siems.values())),
            )
        )
        self._logged = logged
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """Start it, without waiting for anything."""
        self._started = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            *self._command("run"),
            env=_environment(),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the daemon
        )
        self._reading = asyncio.create_task(self._read(self._process, self._started))

    async def start(self) -> None:
        """Start it, and wait until it logs that it is running. Raises RelayError if it ends."""
        await self.begin()
        await self.started()

    async def started(self) -> None:
        """Wait until it logs that it is running. Raises RelayError if it ends."""
        assert self._started is not None  # noqa: S101  # begin() comes first
        await self._started

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.returncode is not None

    async def kill(self) -> None:
        """End it at once, wherever it is."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it as an operator would."""
        await self._end(signal.SIGTERM)

    async def run(self, *arguments: str) -> tuple[bool, str]:
        """Run another command on its state; return whether it succeeded, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *self._command(*arguments),
            env=_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode == 0, output.decode(errors="replace")

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return sys.executable, "-m", "auditrelay", "-c", str(self._config), *arguments

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._reading is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        await self._reading
        self._process = None

    async def _read(
        self, process: asyncio.subprocess.Process, started: asyncio.Future[None]
    ) -> None:
        assert process.stderr is not None  # noqa: S101  # it is a pipe
        async for text in process.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"level": "error", "event": text.decode(errors="replace").rstrip()}
            self._logged(line)
            if line.get("event") == "started" and not started.done():
                started.set_result(None)
        if not started.done():
            started.set_exception(RelayError("the daemon did not start; see the lines above"))
            started.exception()  # marked as seen: a kill during the start is no error


class Fleet:
    """*count* daemons for *sandbox*, which share *store*; or the one daemon, on its own disk."""

    def __init__(
        self,
        folder: Path,
        state: Path,
        sandbox: Sandbox,
        logged: Callable[[dict[str, Any]], None],
        *,
        store: str | None,
        count: int,
    ) -> None:
        if store is None:
            self.daemons = [Daemon(folder, state, sandbox, logged)]
            return

        def named(name: str) -> Callable[[dict[str, Any]], None]:
            return lambda line: logged({**line, "replica": name})

        names = [f"r{number}" for number in range(1, count + 1)]
        self.daemons = [
            Daemon(folder, state / name, sandbox, named(name), name=name, store=store)
            for name in names
        ]

    async def start(self) -> None:
        """Start all, and wait until they log that they run. Raises RelayError if one ends."""
        for daemon in self.daemons:
            await daemon.begin()
        await self.started()

    async def started(self) -> None:
        """Wait until each logs that it is running. Raises RelayError if one ends."""
        for daemon in self.daemons:
            await daemon.started()

    async def stop(self) -> None:
        """End all of them as an operator would, at the same time."""
        await asyncio.gather(*(daemon.stop() for daemon in self.daemons))


def _environment() -> dict[str, str]:
    """
    Return the environment of the daemon: ours without the keys of a configuration.

    They would override its own: made events in the state, and in the SIEM, of the real service.
    """
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)
    }


def _source_table(name: str, vendor: Vendor) -> str:
    """Return the table of a source *name* that reads *vendor*."""
    return f"[sources.{json.dumps(name)}]\n{_toml(vendor.settings())}{_PACE}"


def _sink_table(intake: Intake) -> str:
    """Return the table of a sink that sends to *intake*."""
    return f"[sinks.{intake.NAME}]\n{_toml(intake.settings())}"


def _toml(settings: Mapping[str, Any]) -> str:
    # The JSON of texts, numbers, booleans and lists is also TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
