"""
Measure replicas that share a store in PostgreSQL.

    python benchmarks/replicas.py [--rows NAME ...] [--quick] [--list] [--events 30000] [--repeat 3]

The server is one of the benchmark's own, on loopback, with fsync, in a temporary folder (`TMPDIR`
decides on which disk). Its CPU is that of all of its processes, from `/proc`, and apart from the
relay's. Each row is a table of its own and takes two to three minutes; `--quick` takes less.
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
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from tests.support.postgres import Server, programs

import auditrelay
from load import Load, Run, check_arrived, configure, folder, once, sandbox, unit

ONE, THREE = ("splunk_hec",), ("splunk_hec", "datadog", "elasticsearch")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Options:
    """How much is to be measured."""

    events: int
    repeat: int
    quick: bool


# --- the server -----------------------------------------------------------------------------------


def started() -> Server:
    """Start a server whose commits are on disk."""
    found = programs()
    if found is None:
        sys.exit("there is no PostgreSQL here; tests/README.md says how to get it")
    return Server(found, fsync=True, settings={"max_wal_size": "1GB"})


def server_cpu(server: Server) -> float:
    """Return the CPU seconds of all processes of *server* so far, those that have ended too."""
    ticks = 0
    for number, pid in enumerate(server.pids()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:13]))
        if not number:  # it waits for its children
            ticks += sum(map(int, fields[13:15]))
    return ticks / _TICK


# --- (a) the cost of one replica ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """A run of the relay, the CPU seconds of the server meanwhile, and the unit around it."""

    run: Run
    server: float
    unit: float


def carried(server: Server | None, load: Load, sinks: tuple[str, ...], events: int) -> Cost:
    """Carry *events* events to *sinks* with the state on *server*, or in files without one."""
    before = unit(load.vendor)
    database = None if server is None else server.create()
    with folder() as where:
        with sandbox(load, events) as addresses:
            address = "" if server is None or database is None else server.address(database)
            more = f'store = "{address}"\n' if address else ""
            config = configure(where, load, sinks, addresses, more)
            used = 0.0 if server is None else -server_cpu(server)
            run = once(sys.executable, config)
            used += 0.0 if server is None else server_cpu(server)
        check_arrived(addresses, events, sinks)
    if server is not None and database is not None:
        server.drop(database)
    return Cost(run, used, (before + unit(load.vendor)) / 2)


def cost(server: Server, options: Options) -> Iterator[str]:
    """The whole relay, `run --once`, with SQLite and with PostgreSQL in turn."""
    yield (
        "| page | sinks | store | events/s | relay, CPU s/100k | units | of SQLite's "
        "| server, CPU s/100k | peak MB |"
    )
    yield "| --- " * 9 + "|"
    starts = {
        store: statistics.median(
            carried(store, Load("cekura", 1000), ONE, 1).run.cpu for _ in range(3)
        )
        for store in (None, server)
    }
    found: dict[tuple[int, int, Server | None], list[Cost]] = {}
    for _ in range(options.repeat):
        for page in (1000, 100):
            for sinks in (ONE, THREE):
                for store in (None, server):
                    load = Load("cekura", page)
                    each = carried(store, load, sinks, options.events)
                    found.setdefault((page, len(sinks), store), []).append(each)
    for (page, sinks_count, store), runs in found.items():
        units = [_units(each, starts[store], options.events) for each in runs]
        base = [
            _units(each, starts[None], options.events) for each in found[page, sinks_count, None]
        ]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(units, base, strict=True))
        cpu = statistics.median(each.run.cpu - starts[store] for each in runs)
        rate = statistics.median(options.events / each.run.seconds for each in runs)
        theirs = statistics.median(each.server for each in runs)
        yield (
            f"| {page:,} | {sinks_count} | {'SQLite' if store is None else 'PostgreSQL'} "
            f"| {rate:,.0f} | {cpu / options.events * 1e5:.2f} | {statistics.median(units):.2f} "
            f"| {ratio:.2f} | {theirs / options.events * 1e5:.2f} "
            f"| {max(each.run.peak_mb for each in runs):.0f} |"
        )


def _units(each: Cost, start: float, events: int) -> float:
    return (each.run.cpu - start) / events / each.unit


Row = Callable[[Server, Options], Iterator[str]]
ROWS: Mapping[str, Row] = {"cost": cost}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--quick", action="store_true", help="one round, a third of the events")
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the medians are shown")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name}: {(row.__doc__ or '').strip()}" for name, row in ROWS.items()))
        return
    options = Options(asked.events, asked.repeat, asked.quick)
    if asked.quick:
        options = Options(asked.events // 3, 1, quick=True)
    compileall.compile_dir(Path(auditrelay.__path__[0]), quiet=1)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    server = started()
    try:
        for name in asked.rows:
            row, began = ROWS[name], time.monotonic()
            print(f"\n{name}: {(row.__doc__ or '').strip()}\n")
            for line in row(server, options):
                print(line, flush=True)
            print(f"\n({time.monotonic() - began:.0f} s)")
    finally:
        server.close()


if __name__ == "__main__":
    main()
