"""
``auditrelay demo``: the real daemon against the built-in sandbox, with injected faults.

The doubles of the vendors and of the SIEMs run in this process; the daemon is a child process
with a configuration and a state directory of its own, so that it can be killed like a real one.
At the end the doubles' own records are compared: the events made, and those that each SIEM stored.
"""

import asyncio
import contextlib
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from auditrelay.errors import ConfigError, RelayError
from auditrelay.sandbox import Intake, Sandbox, Vendor, faults
from auditrelay.settings.values import parse_duration
from auditrelay.status.model import Report

_CONFIG = """\
state_dir = "{state}"
[status]
listen = "127.0.0.1:0"
[log]
format = "json"
{sources}
{sinks}\
"""
# Much faster than one would poll a vendor, so that there is something to watch.
_PACE = """\
poll_interval = "2s"
settle = "1s"
overlap = "5s"
resweep = ["8s"]
initial_lookback = "1h"
"""
_PAST_EVENTS = 2000
_EVENTS_A_SECOND = 20
_LATE_SHARE = 0.01
_LATE_BY = timedelta(seconds=6)
_CATCH_UP = 60.0
"""Most seconds to wait at the end until everything has arrived."""


def demo(
    duration: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to make events, such as 30s or 10m.")
    ] = "20s",
) -> None:
    """Run everything against the built-in sandbox: no credentials, nothing left behind."""
    try:
        length = parse_duration(duration)
    except ValueError as error:
        raise ConfigError(f"--duration: {error}") from error
    if not asyncio.run(_demo(length)):
        raise typer.Exit(1)


async def _demo(length: timedelta) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="auditrelay-demo-") as folder:
        async with Sandbox() as sandbox:
            view = _View(sandbox)
            async with _running(_Daemon(Path(folder), sandbox, view), view) as daemon:
                await _story(sandbox, daemon, view, length, stop)
                await _caught_up(sandbox, view)
            return _print_result(sandbox, view)


async def _story(
    sandbox: Sandbox, daemon: "_Daemon", view: "_View", length: timedelta, stop: asyncio.Event
) -> None:
    """Make events for *length* or until *stop*, and inject a fault every few seconds."""
    now = datetime.now(UTC)
    vendors = list(sandbox.vendors.values())
    for vendor in vendors:
        vendor.fill(_PAST_EVENTS // len(vendors), now - timedelta(minutes=55), now)
    injections = deque(_injections(sandbox, daemon, view))
    between = length / (len(injections) + 1)
    rng = random.Random(7)  # noqa: S311  # a demonstration, not a secret
    began = time.monotonic()
    due = between.total_seconds()
    for vendor in itertools.cycle(vendors):
        passed = time.monotonic() - began
        if passed >= length.total_seconds() or stop.is_set():
            return
        now = datetime.now(UTC)
        late = rng.random() < _LATE_SHARE
        vendor.add(now, visible_from=now + _LATE_BY if late else None)
        if injections and passed >= due:
            due += between.total_seconds()
            await injections.popleft()()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1 / _EVENTS_A_SECOND)


def _injections(sandbox: Sandbox, daemon: "_Daemon", view: "_View") -> Iterator[Callable[[], Any]]:
    def of_vendors(count: int) -> Callable[[], Any]:
        """Let the next *count* vendors fail, each in the next way."""

        async def fail() -> None:
            for name, vendor in itertools.islice(vendors, count):
                text, *actions = next(ways)
                view.announce(f"{name} {text}")
                for action in actions:
                    vendor.faults.add(action)

        return fail

    vendors: Iterator[tuple[str, Vendor]] = itertools.cycle(sandbox.vendors.items())
    ways: Iterator[tuple[Any, ...]] = itertools.cycle(
        (
            ("answers 429 with Retry-After: 2", faults.too_many(retry_after=2)),
            (
                "answers half a page, then HTML with status 200",
                faults.truncated(),
                faults.html(200),
            ),
            ("breaks two connections instead of answering", faults.reset(), faults.reset()),
            ("answers 503, then a body that is not JSON", faults.html(503), faults.empty()),
            ("answers with a redirect to another host", faults.redirect("http://127.0.0.1:9")),
        )
    )

    async def refuse_items() -> None:
        view.announce("Elasticsearch rejects one event permanently and one temporarily")
        sandbox.elastic.fail_items(400, kind="document_parsing_exception", reason="a demonstration")
        sandbox.elastic.fail_items(429)

    async def be_down() -> None:
        view.announce("Splunk is down: 503 with an HTML page, three times")
        sandbox.splunk.faults.add(faults.html(503), method="POST", times=3)

    async def kill() -> None:
        view.announce("the daemon is killed (SIGKILL) and started again")
        await daemon.kill()
        await daemon.start()

    async def lose_reply() -> None:
        view.announce("Datadog stores a batch, and the connection breaks before it answers")
        sandbox.datadog.faults.add(faults.store_then_reset(), method="POST")

    half = len(sandbox.vendors) // 2
    yield of_vendors(half)
    yield from (refuse_items, be_down, kill, lose_reply)
    yield of_vendors(len(sandbox.vendors) - half)


async def _caught_up(sandbox: Sandbox, view: "_View") -> None:
    """Wait until every intake has everything, or for _CATCH_UP."""
    view.announce("no more events are made; waiting for the backlog and late events")
    deadline = time.monotonic() + _CATCH_UP
    await view.count_dead_letters()
    while time.monotonic() < deadline and any(row.missing for row in _accounts(sandbox, view)):
        await asyncio.sleep(0.2)
        await view.count_dead_letters()


# -- the daemon ------------------------------------------------------------------------------------


class _Daemon:
    """The daemon as a child process; its log goes to the view."""

    def __init__(self, folder: Path, sandbox: Sandbox, view: "_View") -> None:
        self._config = folder / "auditrelay.toml"
        self._config.touch(mode=0o600)
        self._config.write_text(
            _CONFIG.format(
                state=folder / "state",
                sources="".join(map(_source_table, sandbox.vendors.values())),
                sinks="".join(map(_sink_table, sandbox.siems.values())),
            )
        )
        self._view = view
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and wait until it logs that it is running."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "auditrelay", "-c", str(self._config), "run"),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the daemon
        )
        self._reading = asyncio.create_task(self._read(self._process, started))
        await started

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it as an operator would."""
        await self._end(signal.SIGTERM)

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
            if line.get("event") == "started":
                self._view.address = line["status"]
                started.set_result(None)
            self._view.logged(line)
        if not started.done():
            started.set_exception(RelayError("the daemon did not start; see the lines above"))


def _source_table(vendor: Vendor) -> str:
    """Return the table of a source that reads *vendor*."""
    settings = vendor.settings()
    return f"[sources.{settings['type']}]\n{_toml(settings)}{_PACE}"


def _sink_table(intake: Intake) -> str:
    """Return the table of a sink that sends to *intake*."""
    return f"[sinks.{intake.NAME}]\n{_toml(intake.settings())}"


def _toml(settings: Mapping[str, Any]) -> str:
    # The JSON of texts, numbers, booleans and lists is also TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


@contextlib.asynccontextmanager
async def _running(daemon: _Daemon, view: "_View") -> AsyncIterator[_Daemon]:
    try:
        await daemon.start()
        view.announce(f"the status page is at {view.address}")
        async with view:
            yield daemon
    finally:
        await daemon.stop()


# -- output ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """The records of one intake, compared with those of the vendors."""

    sink: str
    made: int
    stored: int
    repeated: int
    dead: int
    missing: int


def _accounts(sandbox: Sandbox, view: "_View") -> list[_Row]:
    made = {native for vendor in sandbox.vendors.values() for native in vendor.records.ids()}
    rows = []
    for sink, intake in sandbox.siems.items():
        stored = intake.stored
        dead = view.dead.get(sink, 0)
        rows.append(
            _Row(
                sink,
                len(made),
                len(stored.by_uid),
                sum(stored.repeated().values()) - len(stored.repeated()),
                dead,
                max(0, len(stored.lost(made)) - dead),
            )
        )
    return rows


@dataclass(slots=True)
class _View:
    """A live view on a terminal, plain lines elsewhere."""

    sandbox: Sandbox
    address: str = ""
    dead: dict[str, int] = field(default_factory=dict)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=14))
    _drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._drawing = asyncio.create_task(self._draw())

    async def __aexit__(self, *_: object) -> None:
        assert self._drawing is not None  # noqa: S101  # __aenter__ made it
        self._drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._drawing

    def announce(self, text: str) -> None:
        """Print an action of the sandbox."""
        self._print(f">> {text}")

    def logged(self, line: dict[str, Any]) -> None:
        """Print a log line of the daemon, if it is important."""
        event, level = line.get("event", ""), line.get("level", "")
        if event == "event_dead_lettered":
            self.dead[line["sink"]] = self.dead.get(line["sink"], 0) + 1
        if level in ("warning", "error") or event in ("started", "stopped"):
            rest = " ".join(
                f"{key}={value}"
                for key, value in line.items()
                if key not in ("timestamp", "level", "event") and value is not None
            )
            self._print(f"   {level} {event} {rest}")

    async def count_dead_letters(self) -> None:
        """Get their number from the daemon: if it was killed, its last log lines may be missing."""
        with contextlib.suppress(httpx.HTTPError):
            # Plain HTTP on loopback: loading the certificates would take longer than the request.
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # noqa: S501
                answer = await client.get(f"{self.address}api/status")
            report = msgspec.json.decode(answer.content, type=Report)
            self.dead = {sink.name: sink.dead_letters for sink in report.sinks}

    def _print(self, text: str) -> None:
        self.lines.append(f"{datetime.now(UTC):%H:%M:%S} {text}")
        if not sys.stdout.isatty():
            typer.echo(self.lines[-1])

    async def _draw(self) -> None:
        if sys.stdout.isatty():
            with Live(refresh_per_second=4, transient=True) as live:
                while True:
                    live.update(self._picture())
                    await asyncio.sleep(0.25)
        while True:
            await asyncio.sleep(5)
            counts = ", ".join(
                f"{row.sink} {row.stored}/{row.made}" for row in _accounts(self.sandbox, self)
            )
            self._print(f"   stored of made: {counts}")

    def _picture(self) -> RenderableType:
        return Group(
            Text(f"auditrelay demo   status page: {self.address}   Ctrl-C ends it\n", style="bold"),
            _table(_accounts(self.sandbox, self), missing="in transit"),
            Text("\n" + "\n".join(self.lines), no_wrap=True, overflow="ellipsis"),
        )


def _table(rows: list[_Row], *, missing: str) -> RenderableType:
    table = Table()
    table.add_column("SIEM")
    for title in ("made", "stored", "dead letters", missing, "repeated"):
        table.add_column(title, justify="right")
    for row in rows:
        counts = (row.made, row.stored, row.dead, row.missing, row.repeated)
        table.add_row(row.sink, *(f"{count:,}" for count in counts))
    return table


def _vendors_table(sandbox: Sandbox) -> RenderableType:
    """Return the events made, requests and faults of each vendor, and what each SIEM stored."""
    table = Table()
    table.add_column("vendor")
    for title in ("made", "requests", "faults", *sandbox.siems):
        table.add_column(title, justify="right")
    for name, vendor in sandbox.vendors.items():
        made = list(vendor.records.ids())
        stored = [len(made) - len(siem.stored.lost(made)) for siem in sandbox.siems.values()]
        counts = (len(made), vendor.requests, sum(seen.fault for seen in vendor.seen), *stored)
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _who_deduplicates(sandbox: Sandbox) -> str:
    names = {True: list[str](), False: list[str]()}
    for name, intake in sandbox.siems.items():
        names[intake.DEDUPLICATES].append(name)
    return f"Deduplicated by {', '.join(names[True])}; not by {', '.join(names[False])}."


def _print_result(sandbox: Sandbox, view: _View) -> bool:
    """Print the final count; return whether nothing is lost."""
    rows = _accounts(sandbox, view)
    typer.echo("\nThe final count, by the records of the vendors and of the SIEMs themselves:")
    Console().print(_vendors_table(sandbox))
    Console().print(_table(rows, missing="lost"))
    typer.echo(
        "Stored in addition to what was made: auditrelay's own alerts, which are also events."
    )
    typer.echo(
        "Repeated: sent again after a reply was lost or the daemon was killed, with the same "
        f"event id.\n{_who_deduplicates(sandbox)}"
    )
    lost = sum(row.missing for row in rows)
    typer.echo("Nothing is lost." if not lost else f"LOST: {lost} events did not arrive.")
    return not lost
