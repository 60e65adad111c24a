"""Rows of `replicas.py` with daemons that run, next to doubles in this process."""

import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from tests.support.postgres import Server

from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.faults import too_many
from load import folder
from postgres import COMMITS, WAL, Options, connected, number, process_cpu, server_cpu

PACE = {
    "settle": "1s",
    "overlap": "5s",
    "initial_lookback": "1h",
    "requests_per_minute": 60_000,
}
PATIENCE = 60.0
_STILL = 3.0
"""Seconds without a move after which there are no more."""
Watching = psycopg.Connection[tuple[Any, ...]]


class Replica:
    """A daemon with the store at *address*: *sources* and *sinks* are its tables, by name."""

    def __init__(self, where: Path, name: str, address: str, tables: Mapping[str, Any]) -> None:
        self.name = name
        self._config = where / f"{name}.toml"
        self._config.touch(mode=0o600)
        head = {"state_dir": str(where / name), "store": address, "replica": name}
        text = _toml(head) + '[log]\nlevel = "error"\n[status]\nlisten = "127.0.0.1:0"\n'
        text += "".join(f"[{table}]\n{_toml(settings)}" for table, settings in tables.items())
        self._config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for anything."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "auditrelay", "-c", str(self._config), "run"]
        )

    def end(self, number: int) -> None:
        """Send it a signal, and wait for its end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()

    @property
    def cpu(self) -> float:
        """The CPU seconds that it has used."""
        return 0.0 if self.process is None else process_cpu(self.process.pid)


def _toml(settings: Mapping[str, Any]) -> str:
    # The JSON of texts, numbers and lists is also TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def _tables(
    sandbox: Sandbox,
    sources: Mapping[str, str],
    sinks: Collection[str],
    poll: str,
    parts: int = 1,
) -> dict[str, Any]:
    """Return the tables of *sources*, by name the vendor of each, and of *sinks* in *parts*."""
    pace = {**PACE, "poll_interval": poll}
    tables: dict[str, Any] = {
        f"sources.{name}": {**sandbox.vendors[vendor].settings(), **pace}
        for name, vendor in sources.items()
    }
    for name in sinks:
        tables[f"sinks.{name}"] = {**sandbox.siems[name].settings(), "parts": parts}
    return tables


@contextlib.asynccontextmanager
async def running(
    server: Server, database: str, count: int, tables: Mapping[str, Any]
) -> AsyncIterator[tuple[list[Replica], Watching]]:
    """Run *count* replicas until the end of the block, which begins once each has its share."""
    with folder() as where:
        address = server.address(database)
        replicas = [Replica(where, f"r{each}", address, tables) for each in range(count)]
        replicas[0].start()
        try:
            await _until(lambda: _has_tables(server, database))
            for each in replicas[1:]:
                each.start()
            with connected(server, database) as watching:
                units = sum(table.get("parts", 1) for table in tables.values()) + 1  # the keeper
                await _shared_out(watching, units, count)
                yield replicas, watching
        finally:
            for each in replicas:
                each.end(signal.SIGTERM)


def _has_tables(server: Server, database: str) -> bool:
    with psycopg.connect(server.address(database), autocommit=True) as connection:
        row = connection.execute("select to_regclass('auditrelay.raised') is not null").fetchone()
    return bool(row and row[0])


async def _shared_out(watching: Watching, units: int, count: int) -> None:
    """Wait until each of *count* replicas holds some of the *units*, and no more of them move."""
    before, since = None, time.monotonic()

    def holds() -> bool:
        nonlocal before, since
        held = watching.execute(
            "select unit, holder from lease where holder is not null and wanted_by is null "
            "order by unit"
        ).fetchall()
        if held != before:
            before, since = held, time.monotonic()
        is_whole = len(held) == units and len({row[1] for row in held}) == count
        return is_whole and time.monotonic() > since + _STILL

    await _until(holds)


async def _until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("it takes too long")
        await asyncio.sleep(0.1)


# --- more replicas --------------------------------------------------------------------------------


def scale(server: Server, options: Options) -> Iterator[str]:
    """Run 1, 2 and 3 replicas: 3 sources, 3 sinks; 300 sources, one sink, in 1 part and in 3."""
    yield (
        "| sources | sinks | parts | replicas | events/s | relay, CPU µs | server, CPU µs "
        "| of one's |"
    )
    yield "| --- " * 8 + "|"
    first: dict[tuple[int, int], float] = {}
    for sources, sinks, parts in ((3, 3, 1), (300, 1, 1), (300, 1, 3)):
        for count in (1, 2, 3):
            database = server.create()
            shape = (sources, sinks, parts)
            rate, ours, theirs = asyncio.run(
                _scaled(server, database, options.events, shape, count)
            )
            server.drop(database)
            of_one = first.setdefault((sources, sinks), rate)
            yield (
                f"| {sources} | {sinks} | {parts} | {count} | {rate:,.0f} | {ours:.1f} "
                f"| {theirs:.1f} | {rate / of_one:.2f} |"
            )


async def _scaled(
    server: Server, database: str, events: int, shape: tuple[int, int, int], count: int
) -> tuple[float, float, float]:
    """
    Return the events/s read, and CPU µs an event of all replicas and of the server.

    The *shape* is how many sources and sinks there are, and in how many parts these are.
    """
    sources, sinks, parts = shape
    vendors = ["bland", "jitsudo", "cekura"]
    async with Sandbox(only=vendors) as sandbox:
        taken = list(sandbox.siems)[:sinks]
        now = datetime.now(UTC)
        each = events // sources
        for vendor in sandbox.vendors.values():
            vendor.fill(each, now - timedelta(minutes=50), now - timedelta(minutes=10))
            vendor.faults.add(too_many(retry_after="1"), times=None)  # until all is shared out
        for siem in sandbox.siems.values():
            siem.lean = True
        named = {f"s{place}": vendors[place % len(vendors)] for place in range(sources)}
        tables = _tables(sandbox, named, taken, "2s", parts)
        async with running(server, database, count, tables) as (replicas, _):
            before = sum(replica.cpu for replica in replicas), server_cpu(server)
            for vendor in sandbox.vendors.values():
                vendor.faults.clear()
            wanted = each * sources
            marks: list[float] = []
            while len(marks) < 2:
                least = min(sandbox.siems[name].stored.total for name in taken)
                if least >= (wanted // 10, wanted)[len(marks)]:
                    marks.append(time.monotonic())
                    continue
                await asyncio.sleep(0.02)
            ours = sum(replica.cpu for replica in replicas) - before[0]
            theirs = server_cpu(server) - before[1]
    rate = 0.9 * wanted / (marks[1] - marks[0])
    return rate, ours / wanted * 1e6, theirs / wanted * 1e6


# --- taking over ----------------------------------------------------------------------------------


def takeover(server: Server, options: Options) -> Iterator[str]:
    """Kill, and stop, one of three replicas: seconds until the others hold what it held."""
    database = server.create()
    found = asyncio.run(_taken_over(server, database, options.kills))
    server.drop(database)
    yield "| what | times | median, s | worst, s |\n| --- | --- | --- | --- |"
    for what, seconds in found.items():
        yield f"| {what} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |"


async def _taken_over(server: Server, database: str, kills: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"kill -9": [], "SIGTERM": []}
    async with Sandbox(only=["bland", "jitsudo", "cekura"]) as sandbox:
        named = {name: name for name in sandbox.vendors}
        tables = _tables(sandbox, named, list(sandbox.siems), "2s")
        async with running(server, database, 3, tables) as (replicas, watching):
            for _ in range(kills):
                for what, number_of in (("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)):
                    holder = watching.execute(
                        "select r.name, r.id from lease l join replica r on r.id = l.holder "
                        "where unit = 'source bland'"
                    ).fetchone()
                    assert holder is not None
                    name, identity = holder
                    victim = next(each for each in replicas if each.name == name)
                    began = time.monotonic()
                    await asyncio.to_thread(victim.end, number_of)
                    await _until(partial(_all_held_by_others, watching, identity))
                    found[what].append(time.monotonic() - began)
                    victim.start()
                    await _shared_out(watching, len(tables) + 1, 3)
    return found


def _all_held_by_others(watching: Watching, gone: object) -> bool:
    row = watching.execute(
        "select count(*) from lease where holder is null or holder = %s", (gone,)
    ).fetchone()
    return row is not None and not row[0]


# --- at rest --------------------------------------------------------------------------------------


def at_rest(server: Server, options: Options) -> Iterator[str]:
    """Run one replica that has next to nothing to do; sources are polled once a minute."""
    yield "| sources | relay, % of a core | server, % of a core | commits/min | WAL, kB/min |"
    yield "| --- " * 5 + "|"
    for sources in (5, 300):
        database = server.create()
        yield asyncio.run(_resting(server, database, sources, options.minutes / 2))
        server.drop(database)


async def _resting(server: Server, database: str, sources: int, minutes: float) -> str:
    async with Sandbox(only=["bland"]) as sandbox:
        named = {f"s{place}": "bland" for place in range(sources)}
        tables = _tables(sandbox, named, list(sandbox.siems)[:1], "60s")
        async with running(server, database, 1, tables) as (replicas, watching):
            await asyncio.sleep(15)
            before = _used(server, replicas[0], watching)
            began = time.monotonic()
            await asyncio.sleep(60 * minutes)
            after = _used(server, replicas[0], watching)
            took = time.monotonic() - began
    ours, theirs, commits, wal = (b - a for a, b in zip(before, after, strict=True))
    return (
        f"| {sources} | {100 * ours / took:.2f} | {100 * theirs / took:.2f} "
        f"| {commits * 60 / took:.0f} | {wal * 60 / took / 1000:.0f} |"
    )


def _used(server: Server, replica: Replica, watching: Watching) -> tuple[float, ...]:
    return (
        replica.cpu,
        server_cpu(server),
        number(watching, COMMITS),
        number(watching, WAL),
    )
