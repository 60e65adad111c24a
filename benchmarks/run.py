"""
Measure the whole relay: pages from a vendor, durable spool, batches to each sink, gzip on.

    python benchmarks/run.py [--quick] [--events 200000] [--memory]

The sandbox generates the load in a separate process; the daemon is the real `auditrelay run
--once`. Events per second count from the daemon's start to its exit, start-up included; CPU seconds
are the daemon's alone, user and system, minus the start-up measured with one event. Peak memory is
the largest resident set of the daemon. The limit of the generator itself is measured with a client
that discards all it receives.
"""

import argparse
import compileall
import contextlib
import gzip
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import auditrelay

RECORD_BYTES = 700
SINKS = {
    "splunk_hec": 'url = "{splunk[url]}"\ntoken = "{splunk[token]}"',
    "datadog": 'url = "{datadog[url]}"\napi_key = "{datadog[api_key]}"',
    "elasticsearch": 'urls = ["{elastic[url]}"]\napi_key = "{elastic[api_key]}"',
    "file": 'path = "{folder}/out.ndjson"',
}
SOURCE = """\
state_dir = "{folder}/state"
[sources.voice]
type = "cekura"
base_url = "{cekura[url]}"
organization_id = "{cekura[organization_id]}"
api_key = "{cekura[api_key]}"
page_size = {page}
initial_lookback = "2h"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """The cost of one run of the daemon."""

    seconds: float
    cpu: float
    peak_mb: float


@contextlib.contextmanager
def sandbox(events: int, page: int) -> Iterator[dict[str, Any]]:
    """Serve *events* records in pages of up to *page*; check at the end that all arrived."""
    command = [sys.executable, "-m", "auditrelay.sandbox", "--vendor", "cekura", "--lean"]
    command += ["--events", str(events), "--record-bytes", str(RECORD_BYTES)]
    command += ["--page-cap", str(page), "--span", "1h", "--until", "2m"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        yield addresses
        process.send_signal(signal.SIGTERM)
        addresses["totals"] = json.loads(process.stdout.readline())


def relay(events: int, page: int, sinks: list[str]) -> Run:
    """Run the daemon once over *events* events into *sinks*, and check that none is missing."""
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-bench-"))
    try:
        with sandbox(events, page) as addresses:
            values = {**addresses, "folder": folder, "page": page}
            text = SOURCE.format(**values)
            for sink in sinks:
                text += f'[sinks.{sink}]\ntype = "{sink}"\n{SINKS[sink].format(**values)}\n'
            config = folder / "config.toml"
            config.touch(mode=0o600)
            config.write_text(text)
            command = [sys.executable, "-m", "auditrelay", "-c", str(config)]
            began = time.perf_counter()
            process = subprocess.Popen([*command, "--log-level", "warning", "run", "--once"])
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = status
        if status:
            sys.exit(f"the daemon exited with status {os.waitstatus_to_exitcode(status)}")
        _all_arrived(addresses["totals"]["stored"], events, sinks)
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    finally:
        shutil.rmtree(folder)


def outage(events: int, page: int) -> tuple[Run, Run]:
    """
    Run the service while one of three sinks is down, then with it back.

    The first run lasts from the start until the other two have all *events*, the second from the
    start until the one that was down has them.
    """
    three = ["splunk_hec", "elasticsearch", "datadog"]
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-bench-"))
    try:
        with sandbox(events, page) as addresses, socket.socket() as closed_port:
            closed_port.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
            unreachable = {"url": f"http://127.0.0.1:{closed_port.getsockname()[1]}"}
            runs = []
            for datadog, waited_for in ((unreachable, three[:2]), ({}, three[2:])):
                values = {
                    **addresses,
                    "datadog": {**addresses["datadog"], **datadog},
                    "folder": folder,
                    "page": page,
                }
                text = SOURCE.format(**values)
                text += '[status]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n'
                for sink in three:
                    text += f'[sinks.{sink}]\ntype = "{sink}"\n{SINKS[sink].format(**values)}\n'
                runs.append(_serve_until(folder, text, waited_for, events))
        _all_arrived(addresses["totals"]["stored"], events, three)
        return runs[0], runs[1]
    finally:
        shutil.rmtree(folder)


def _serve_until(folder: Path, text: str, sinks: list[str], events: int) -> Run:
    """Run the service until *events* were delivered to each of *sinks*, then stop it."""
    config = folder / "config.toml"
    config.touch(mode=0o600)
    config.write_text(text)
    log = folder / "log"
    command = [sys.executable, "-m", "auditrelay", "-c", str(config), "run"]
    began = time.perf_counter()
    with log.open("w") as stderr:
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
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        sys.exit(f"the daemon exited with status {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _all_arrived(stored: dict[str, Any], events: int, sinks: list[str]) -> None:
    for sink in sinks:
        books = stored.get({"splunk_hec": "splunk", "elasticsearch": "elastic"}.get(sink, sink))
        if books is not None and (books["uids"], books["repeated"]) != (events, 0):
            sys.exit(f"{sink} has {books['uids']} of {events}, {books['repeated']} repeated")


def ceiling(events: int, page: int) -> tuple[float, float]:
    """Return the events/s that the sandbox serves and accepts, with a trivial client."""
    with sandbox(events, page) as addresses:
        vendor = addresses["cekura"]
        connection = http.client.HTTPConnection(urlsplit(vendor["url"]).netloc)
        end = time.time() - 100
        span = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end - back)) for back in (7200, 0)]
        path = (
            f"/user/v1/audit-logs/?organization_id={vendor['organization_id']}"
            f"&start_time={span[0]}&end_time={span[1]}&page_size={page}&page="
        )
        began = time.perf_counter()
        for number in range(1, events // page + 1):
            connection.request("GET", path + str(number), headers=_key(vendor))
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


def _key(vendor: dict[str, str]) -> dict[str, str]:
    return {"X-CEKURA-API-KEY": vendor["api_key"]}


def _bulk(start: int) -> bytes:
    filler = "x" * 900
    return "".join(
        f'{{"create":{{"_index":"logs-a-b","_id":"{number}"}}}}\n'
        f'{{"@timestamp":"2026-01-01T00:00:00.000Z","event":{{"id":"{number}"}},"f":"{filler}"}}\n'
        for number in range(start, start + 1000)
    ).encode()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, once")
    parser.add_argument("--repeat", type=int, default=3, help="runs a row; the median is shown")
    parser.add_argument(
        "--memory", action="store_true", help="only 20,000 against 1,000,000 events"
    )
    parser.add_argument("--sinks", nargs="*", default=list(SINKS), help="only these sinks")
    options = parser.parse_args()
    # As an installer does; without stored bytecode each start would compile the source.
    compileall.compile_dir(Path(auditrelay.__path__[0]), quiet=1)
    events, repeat = options.events, options.repeat
    if options.quick:
        events, repeat = events // 10, 1
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    start = statistics.median(relay(1, 1000, ["elasticsearch"]).cpu for _ in range(3))
    print(f"Start-up and end, with one event: {start:.2f} CPU s, subtracted below.\n")
    if options.memory:
        memory(start)
        return
    print("| page | sinks | events/s | CPU s/100k | peak MB |\n| --- | --- | --- | --- | --- |")
    rows = [[sink] for sink in options.sinks]
    three = [sink for sink in options.sinks if sink != "file"]
    for page in (1000, 100):
        for sinks in [*rows, *([three] if len(three) == 3 else [])]:
            runs = [relay(events, page, sinks) for _ in range(repeat)]
            print(_row(f"{page:,} | {' + '.join(sinks)}", events, runs, start), flush=True)
    if len(three) == 3:
        pairs = [outage(events, 1000) for _ in range(repeat)]
        title = "1,000 | splunk_hec + elasticsearch, while datadog is down"
        print(_row(title, events, [down for down, _ in pairs], start))
        title = "- | datadog, from the spool, when it is back"
        print(_row(title, events, [back for _, back in pairs], start), flush=True)
    for page in (1000, 100):
        given, taken = ceiling(20_000, page)
        print(
            f"\nThe generator alone, pages of {page:,}: gives {given:,.0f} events/s, takes "
            f"{taken:,.0f} events/s."
        )


def memory(start: float) -> None:
    """Print the memory of a fifty times longer history."""
    print("| events | events/s | CPU s/100k | peak MB |\n| --- | --- | --- | --- |")
    for events in (20_000, 1_000_000):
        print(_row(f"{events:,}", events, [relay(events, 1000, ["elasticsearch"])], start))


def _row(title: str, events: int, runs: list[Run], start: float) -> str:
    rate = statistics.median(events / run.seconds for run in runs)
    cpu = statistics.median((run.cpu - start) / events * 100_000 for run in runs)
    peak = max(run.peak_mb for run in runs)
    return f"| {title} | {rate:,.0f} | {cpu:.2f} | {peak:.0f} |"


if __name__ == "__main__":
    main()
