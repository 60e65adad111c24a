"""What the demo prints: a live view on a terminal, plain lines elsewhere, and the final count."""

import asyncio
import contextlib
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from auditrelay.sandbox import Sandbox
from auditrelay.status.model import Report


@dataclass(frozen=True, slots=True)
class Row:
    """The records of one intake, compared with those of the vendors."""

    sink: str
    made: int
    stored: int
    repeated: int
    dead: int
    missing: int


def accounts(sandbox: Sandbox, view: "View") -> list[Row]:
    """Return the records of each intake."""
    made = {native for vendor in sandbox.vendors.values() for native in vendor.known_ids()}
    rows = []
    for sink, intake in sandbox.siems.items():
        stored = intake.stored
        dead = view.dead.get(sink, 0)
        rows.append(
            Row(
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
class View:
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
        if event == "started":
            self.address = line["status"]
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
                f"{row.sink} {row.stored}/{row.made}" for row in accounts(self.sandbox, self)
            )
            self._print(f"   stored of made: {counts}")

    def _picture(self) -> RenderableType:
        return Group(
            Text(f"auditrelay demo   status page: {self.address}   Ctrl-C ends it\n", style="bold"),
            _table(accounts(self.sandbox, self), missing="in transit"),
            Text("\n" + "\n".join(self.lines), no_wrap=True, overflow="ellipsis"),
        )


def _table(rows: list[Row], *, missing: str) -> RenderableType:
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
    table.add_column("vendor", overflow="fold")
    for title in ("made", "requests", "faults", *sandbox.siems):
        table.add_column(title, justify="right")
    for name, vendor in sandbox.vendors.items():
        made = list(vendor.known_ids())
        stored = [len(made) - len(siem.stored.lost(made)) for siem in sandbox.siems.values()]
        counts = (len(made), vendor.requests, sum(seen.fault for seen in vendor.seen), *stored)
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _who_deduplicates(sandbox: Sandbox) -> str:
    names = {True: list[str](), False: list[str]()}
    for name, intake in sandbox.siems.items():
        names[intake.DEDUPLICATES].append(name)
    return f"Deduplicated by {', '.join(names[True])}; not by {', '.join(names[False])}."


def print_counts(sandbox: Sandbox, view: View) -> None:
    """Print the final count of each vendor and of each intake."""
    typer.echo("\nThe final count, by the records of the vendors and of the SIEMs themselves:")
    Console().print(_vendors_table(sandbox))
    Console().print(_table(accounts(sandbox, view), missing="lost"))
    typer.echo(
        "Stored in addition to what was made: auditrelay's own alerts, which are also events,\n"
        "and a reduced copy of each dead letter, in the SIEM that has refused it."
    )
    typer.echo(
        "Repeated: sent again after a reply was lost or the daemon was killed, with the same "
        f"event id.\n{_who_deduplicates(sandbox)}"
    )
