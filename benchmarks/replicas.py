"""
Measure replicas that share a store in PostgreSQL.

    make bench-replicas BENCH="[--rows NAME ...] [--list] [--quick]"

The server is one of the benchmark's own, on loopback, with fsync, in a temporary folder (`TMPDIR`
decides on which disk). Its CPU is that of all of its processes, from `/proc`, and apart from the
relay's. Each row is a table of its own and takes two to three minutes at most on two cores; with
`--known 10000000`, `--minutes 10` or `--kills 20` it takes longer.
"""

import argparse
import compileall
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tests.support.postgres import Server
from tests.support.wire import Wire

import auditrelay
from load import Load, Run, check_arrived, configure, folder, once, sandbox, unit
from postgres import Options, server_cpu, started
from replicas_running import at_rest, scale, takeover
from replicas_store import known_uids, old_snapshot, round_trips

ONE, THREE = ("splunk_hec",), ("splunk_hec", "datadog", "elasticsearch")


@dataclass(frozen=True, slots=True)
class Cost:
    """A run of the relay, the CPU seconds of the server meanwhile, and the unit around it."""

    run: Run
    server: float
    unit: float


def carried(
    server: Server | None, load: Load, sinks: tuple[str, ...], events: int, delay: float = 0
) -> Cost:
    """
    Carry *events* events to *sinks* with the state on *server*, or in files without one.

    A round trip to the server takes *delay* seconds more.
    """
    before, used = unit(load.vendor), 0.0
    with folder() as where, sandbox(load, events) as addresses:
        if server is None:
            run = once(sys.executable, configure(where, load, sinks, addresses))
        else:
            database = server.create()
            with Wire(server.address(database)) as wire:
                wire.delay(delay)
                # Without a delay the wire is not in between.
                address = server.address(database)
                address = wire.through(address) if delay else address
                more = f'store = "{address}"\n'
                config = configure(where, load, sinks, addresses, more)
                used = -server_cpu(server)
                run = once(sys.executable, config)
                used += server_cpu(server)
            server.drop(database)
    check_arrived(addresses, events, sinks)
    return Cost(run, used, (before + unit(load.vendor)) / 2)


def cost(server: Server, options: Options) -> Iterator[str]:
    """Run the whole relay once, with SQLite and with PostgreSQL in turn."""
    yield (
        "| page | sinks | store | events/s | relay, CPU s/100k | units | of SQLite's "
        "| server, CPU s/100k | peak MB |"
    )
    yield "| --- " * 9 + "|"
    stores = (None, server)
    starts = {store: _start(store) for store in stores}
    found: dict[tuple[int, tuple[str, ...], Server | None], list[Cost]] = {}
    for _ in range(options.repeat):
        for page, sinks, store in product((1000, 100), (ONE, THREE), stores):
            each = carried(store, Load("cekura", page), sinks, options.events)
            found.setdefault((page, sinks, store), []).append(each)
    for (page, sinks, store), runs in found.items():
        ours = [_without(each, starts[store]) for each in runs]
        theirs = [_without(each, starts[None]) for each in found[page, sinks, None]]
        ratio = statistics.median(
            one.run.cpu / one.unit / (other.run.cpu / other.unit)
            for one, other in zip(ours, theirs, strict=True)
        )
        yield (
            f"| {page:,} | {len(sinks)} | {'SQLite' if store is None else 'PostgreSQL'} "
            f"| {options.events / statistics.median(each.run.seconds for each in runs):,.0f} "
            f"| {_each(options, [each.run.cpu for each in ours], 1e5):.2f} "
            f"| {_each(options, [each.run.cpu / each.unit for each in ours], 1):.2f} "
            f"| {ratio:.2f} | {_each(options, [each.server for each in ours], 1e5):.2f} "
            f"| {max(each.run.peak_mb for each in runs):.0f} |"
        )


def _start(store: Server | None) -> Cost:
    """Return what a run with one event costs: the start, and the tables."""
    runs = [carried(store, Load("cekura", 1000), ONE, 1) for _ in range(3)]
    cpu = statistics.median(each.run.cpu for each in runs)
    return Cost(Run(0.0, cpu, 0.0), statistics.median(each.server for each in runs), 1.0)


def _without(each: Cost, start: Cost) -> Cost:
    run = Run(each.run.seconds, each.run.cpu - start.run.cpu, each.run.peak_mb)
    return Cost(run, each.server - start.server, each.unit)


def _each(options: Options, values: list[float], of: float) -> float:
    return statistics.median(values) / options.events * of


def latency(server: Server, options: Options) -> Iterator[str]:
    """Run one replica whose round trip to the server takes longer; pages of 1,000, one sink."""
    yield "| round trip, ms more | events/s | relay, CPU s/100k, start and all |"
    yield "| --- | --- | --- |"
    for delay in (0, 0.001, 0.005, 0.02):
        made = carried(server, Load("cekura", 1000), ONE, options.events, delay)
        yield (
            f"| {delay * 1000:g} | {options.events / made.run.seconds:,.0f} "
            f"| {made.run.cpu / options.events * 1e5:.2f} |"
        )


Row = Callable[[Server, Options], Iterator[str]]
ROWS: Mapping[str, Row] = {
    "cost": cost,
    "latency": latency,
    "scale": scale,
    "takeover": takeover,
    "known": known_uids,
    "rest": at_rest,
    "snapshot": old_snapshot,
    "trips": round_trips,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--quick", action="store_true", help="one round, a third of everything")
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds of cost; medians are shown")
    parser.add_argument("--known", type=int, default=1_000_000, help="uids that are known")
    parser.add_argument("--minutes", type=float, default=2, help="how long rest and snapshot take")
    parser.add_argument("--kills", type=int, default=2, help="how often a holder is killed")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name}: {row.__doc__}" for name, row in ROWS.items()))
        return
    less, repeat = (3, 1) if asked.quick else (1, asked.repeat)
    options = Options(
        events=asked.events // less,
        repeat=repeat,
        known=asked.known // less,
        minutes=asked.minutes / less,
        kills=max(1, asked.kills // less),
    )
    compileall.compile_dir(Path(auditrelay.__path__[0]), quiet=1)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    server = started()
    try:
        for name in asked.rows:
            row, began = ROWS[name], time.monotonic()
            print(f"\n{name}: {row.__doc__}\n")
            for line in row(server, options):
                print(line, flush=True)
            print(f"\n({time.monotonic() - began:.0f} s)")
    finally:
        server.close()


if __name__ == "__main__":
    main()
