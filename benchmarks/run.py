"""
Measure the whole relay: pages from a vendor, durable spool, batches to each sink, gzip on.

    python benchmarks/run.py [--rows GLOB ...] [--events 60000] [--repeat 3] [--quick]
    python benchmarks/run.py --list | --memory | --against PYTHON

The sandbox generates the load in a separate process; the daemon is the real `auditrelay run
--once`. The rounds go through all rows in turn, so that a slow minute does not fall on one row; the
medians are printed, and the largest peak. What is counted:

* events/s, from the daemon's start to its exit;
* CPU seconds of the daemon alone, user and system, without its start-up (measured with one event);
* units: the same over what the standard library's json takes to decode and encode those records
  once, measured before and after each run. Compare these between machines;
* the largest resident set of the daemon;
* requests to the vendor, and records that it served, over the distinct ones in the range.

With --against, each run is repeated by the auditrelay of another environment, right after it. The
limit of the generator itself is measured with a client that discards all it receives.
"""

import argparse
import compileall
import gzip
import http.client
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import auditrelay
from load import (
    MORE,
    Load,
    Run,
    Served,
    check_arrived,
    configure,
    finished,
    folder,
    once,
    sandbox,
    served,
    unit,
)

THREE = ("splunk_hec", "datadog", "elasticsearch")
FLAT = {page: Load("cekura", page) for page in (1000, 250, 100)}
OVERLAPPING = Load("cekura", 1000, overlap="3h")
NESTED = Load("bland", 100)
UNIFORM = Load("jitsudo", 250, span="719h", lookback="30d")
# Three times the events: more than one window may have, of a vendor that tells no total.
BURST = Load("jitsudo", 250, span="2h", until="15d", lookback="30d")


@dataclass(frozen=True, slots=True)
class Row:
    """
    A line of the table: *load* is carried to *sinks*; if *known*, it was before.

    It has *times* the number of events that is asked for.
    """

    name: str
    load: Load
    sinks: tuple[str, ...]
    known: bool = False
    times: int = 1


ROWS = (
    *(Row(f"{sink}, pages of 1,000", FLAT[1000], (sink,)) for sink in (*THREE, "file")),
    Row("splunk_hec, pages of 250", FLAT[250], ("splunk_hec",)),
    *(Row(f"{sink}, pages of 100", FLAT[100], (sink,)) for sink in THREE),
    *(Row(f"{sink}, nested, pages of 100", NESTED, (sink,)) for sink in THREE),
    *(Row(f"{sink}, pages of 1,000", FLAT[1000], (sink,)) for sink in MORE),
    Row("three sinks, pages of 1,000", FLAT[1000], THREE),
    Row("three sinks, pages of 100", FLAT[100], THREE),
    Row("cursors over 30 days, pages of 250", UNIFORM, ("splunk_hec",), times=3),
    Row("cursors, 2 hours of 30 days, pages of 250", BURST, ("splunk_hec",), times=3),
    Row("all known, pages of 1,000", OVERLAPPING, ("splunk_hec",), known=True),
)
OUTAGE = ("two sinks, while datadog is down", "datadog from the spool, when it is back")
HEAD = "| what | events/s | CPU s/100k | units | peak MB | requests | served/distinct |"
MEMORY_ROWS = (
    Row("splunk_hec, pages of 250", FLAT[250], ("splunk_hec",)),
    Row("splunk_hec, pages of 1,000", FLAT[1000], ("splunk_hec",)),
    Row("three sinks, pages of 1,000", FLAT[1000], THREE),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A run over *events*, what was served (None: unknown), and the unit of CPU around it."""

    run: Run
    events: int
    served: Served | None
    unit: float


def relay(python: str, row: Row, events: int) -> Measured:
    """Run the daemon once over *events* events of *row*, and check that none is missing."""
    events, before = events * row.times, unit(row.load.vendor)
    with folder() as where:
        with sandbox(row.load, events, row.sinks) as addresses:
            config = configure(where, row.load, row.sinks, addresses)
            run = once(python, config)
            if row.known:
                run = once(python, config)
        check_arrived(addresses, events, row.sinks)
    found = served(addresses, row.load)
    if row.known:  # half of it was the first look
        found = Served(found.requests // 2, found.records // 2)
    return Measured(run, events, found, (before + unit(row.load.vendor)) / 2)


def outage(python: str, events: int) -> tuple[Measured, Measured]:
    """
    Run the service while one of three sinks is down, then with it back.

    The first run lasts from the start until the other two have all *events*, the second from the
    start until the one that was down has them.
    """
    load, before = FLAT[1000], unit("cekura")
    with folder() as where:
        with sandbox(load, events) as addresses, socket.socket() as closed_port:
            closed_port.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
            unreachable = {"url": f"http://127.0.0.1:{closed_port.getsockname()[1]}"}
            runs = []
            for change, waited_for in (
                (unreachable, ("splunk_hec", "elasticsearch")),
                ({}, ("datadog",)),
            ):
                ours = {**addresses, "datadog": {**addresses["datadog"], **change}}
                more = '[status]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n'
                config = configure(where, load, THREE, ours, more)
                runs.append(_serve_until(python, where, config, waited_for, events))
        check_arrived(addresses, events, THREE)
    around = (before + unit("cekura")) / 2
    down, back = runs
    return Measured(down, events, None, around), Measured(back, events, None, around)


def _serve_until(
    python: str, where: Path, config: Path, sinks: tuple[str, ...], events: int
) -> Run:
    """Run the service until *events* were delivered to each of *sinks*, then stop it."""
    log = where / "log"
    began = time.perf_counter()
    with log.open("w") as stderr:
        command = [python, "-m", "auditrelay", "-c", str(config), "run"]
        process = subprocess.Popen(command, stderr=stderr)
    while '"started"' not in (logged := log.read_text()):
        time.sleep(0.02)
    line = next(line for line in logged.splitlines() if '"started"' in line)
    connection = http.client.HTTPConnection(urlsplit(json.loads(line)["status"]).netloc)
    while True:
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        delivered = [
            float(number)
            for sink in sinks
            for number in re.findall(
                rf'auditrelay_events_delivered_total{{.*sink="{sink}".*}} (.+)', metrics
            )
        ]
        if len(delivered) == len(sinks) and min(delivered) >= events:
            break
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    process.terminate()
    run = finished(process, began)
    return Run(seconds, run.cpu, run.peak_mb)


def ceiling(load: Load, events: int) -> tuple[float, float]:
    """Return the events/s that the sandbox serves and accepts, with a trivial client."""
    with sandbox(load, events) as addresses:
        vendor = addresses["cekura"]
        connection = http.client.HTTPConnection(urlsplit(vendor["url"]).netloc)
        end = time.time() - 100
        span = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end - back)) for back in (7200, 0)]
        path = (
            f"/user/v1/audit-logs/?organization_id={vendor['organization_id']}"
            f"&start_time={span[0]}&end_time={span[1]}&page_size={load.page}&page="
        )
        key = {"X-CEKURA-API-KEY": vendor["api_key"]}
        began = time.perf_counter()
        for number in range(1, events // load.page + 1):
            connection.request("GET", path + str(number), headers=key)
            connection.getresponse().read()
        given = events / (time.perf_counter() - began)
        elastic = addresses["elastic"]
        connection = http.client.HTTPConnection(urlsplit(elastic["url"]).netloc)
        headers = {
            "Authorization": f"ApiKey {elastic['api_key']}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
        }
        bodies = [gzip.compress(_bulk(start), 1) for start in range(0, 20_000, 1000)]
        began = time.perf_counter()
        for body in bodies:
            connection.request("POST", "/_bulk", body, headers)
            connection.getresponse().read()
        taken = 20_000 / (time.perf_counter() - began)
    return given, taken


def _bulk(start: int) -> bytes:
    filler = "x" * 900
    return "".join(
        f'{{"create":{{"_index":"logs-a-b","_id":"{number}"}}}}\n'
        f'{{"@timestamp":"2026-01-01T00:00:00.000Z","event":{{"id":"{number}"}},"f":"{filler}"}}\n'
        for number in range(start, start + 1000)
    ).encode()


# --- the tables -----------------------------------------------------------------------------------


def line(title: str, runs: list[Measured], start: float) -> str:
    """Return a line of the table: the medians of *runs*, without *start* seconds of CPU."""
    cpu = [(each.run.cpu - start) / each.events for each in runs]
    rate = statistics.median(each.events / each.run.seconds for each in runs)
    units = statistics.median(used / each.unit for used, each in zip(cpu, runs, strict=True))
    asked = runs[-1].served
    requests = f"{asked.requests:,} | {asked.records / runs[-1].events:.2f}" if asked else "- | -"
    return (
        f"| {title} | {rate:,.0f} | {statistics.median(cpu) * 100_000:.2f} | {units:.2f} "
        f"| {max(each.run.peak_mb for each in runs):.0f} | {requests} |"
    )


def startup(python: str, times: int = 3) -> list[float]:
    """Return the CPU seconds that the daemon takes for one event, so many times."""
    runs = [relay(python, Row("", FLAT[1000], ("splunk_hec",)), 1) for _ in range(times)]
    return [each.run.cpu for each in runs]


Found = dict[tuple[str, str], list[Measured]]
"""The runs of each row, by its name and the interpreter."""


def rounds(
    options: argparse.Namespace,
    rows: list[Row],
    programs: Sequence[str],
    *,
    with_outage: bool,
) -> tuple[dict[str, float], Found]:
    """Run all in turn; return the CPU of a start of each program, and the runs."""
    starts: dict[str, list[float]] = {python: [] for python in programs}
    found: Found = {}
    for number in range(options.repeat):
        print(f"round {number + 1} of {options.repeat}", file=sys.stderr)
        # In each round, like the rows: the machine is not as fast all the time.
        for python in [*programs] * 3:
            starts[python] += startup(python, 1)
        for row in rows:
            for python in programs:
                found.setdefault((row.name, python), []).append(relay(python, row, options.events))
        for python in programs if with_outage else []:
            for name, each in zip(OUTAGE, outage(python, options.events), strict=True):
                found.setdefault((name, python), []).append(each)
    return {python: statistics.median(each) for python, each in starts.items()}, found


def table(options: argparse.Namespace, rows: list[Row], with_outage: bool) -> Iterator[str]:  # noqa: FBT001
    """Yield the lines, after all rounds."""
    programs = [sys.executable, *([options.against] if options.against else [])]
    starts, found = rounds(options, rows, programs, with_outage=with_outage)
    for python, seconds in starts.items():
        yield f"Start-up and end, with one event: {seconds:.2f} CPU s, subtracted ({python})."
    yield f"\n{HEAD}\n| --- | --- | --- | --- | --- | --- | --- |"
    for (name, python), runs in found.items():
        title = name if python == sys.executable else f"- the other, {name}"
        yield line(title, runs, starts[python])
    if options.against:
        for name in dict.fromkeys(name for name, _ in found):
            pairs = zip(*(found[name, python] for python in programs), strict=True)
            yield share(name, pairs, [starts[python] for python in programs])


def share(title: str, pairs: Iterable[tuple[Measured, ...]], starts: Sequence[float]) -> str:
    """Return a line that compares the CPU of two programs, of which each round has a pair."""
    (own, other), found = starts, []
    for one, second in pairs:
        found.append((one.run.cpu - own) / (second.run.cpu - other))
    return (
        f"{title}: {statistics.median(found):.2f} of the other's CPU, the median of rounds from "
        f"{min(found):.2f} to {max(found):.2f}"
    )


def memory() -> Iterator[str]:
    """Yield the lines about a fifty times longer history."""
    start = statistics.median(startup(sys.executable))
    yield f"{HEAD}\n| --- | --- | --- | --- | --- | --- | --- |"
    for row in MEMORY_ROWS:
        for events in (20_000, 1_000_000):
            found = relay(sys.executable, row, events)
            yield line(f"{row.name}, {events:,} events", [found], start)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the medians are shown")
    parser.add_argument("--quick", action="store_true", help="one round, a third of the events")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="GLOB", help="only these rows")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--memory", action="store_true", help="only 20,000 and 1,000,000 events")
    parser.add_argument("--against", metavar="PYTHON", help="another environment's interpreter")
    options = parser.parse_args()
    wanted = [
        name
        for name in (*(row.name for row in ROWS), *OUTAGE)
        if any(fnmatch(name, f"*{glob}*") for glob in options.rows)
    ]
    if options.list:
        print("\n".join(wanted))
        return
    if options.quick:
        options.events, options.repeat = options.events // 3, 1
    # As an installer does; without stored bytecode each start would compile the source.
    compileall.compile_dir(Path(auditrelay.__path__[0]), quiet=1)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if options.memory:
        for text in memory():
            print(text, flush=True)
        return
    rows = [row for row in ROWS if row.name in wanted]
    for text in table(options, rows, with_outage=bool(set(OUTAGE) & set(wanted))):
        print(text, flush=True)
    for load in (FLAT[1000], FLAT[100]):
        given, taken = ceiling(load, 20_000)
        print(
            f"\nThe generator alone, pages of {load.page:,}: serves {given:,.0f} events/s, accepts "
            f"{taken:,.0f} events/s."
        )


if __name__ == "__main__":
    main()
