"""
Measure a backfill: a long past range of a slow source, with several slices at a time.

    python benchmarks/backfill.py [--events 1000000] [--delay 0.1] [--concurrency 1 8]

The sandbox serves the history in a separate process, each page *delay* seconds late; the command is
the real `auditrelay backfill` without a service, so it reads, delivers to Elasticsearch, and exits
when everything is stored. Events per second count from its start to its exit; CPU seconds are the
command's alone, user and system; peak memory is its largest resident set.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PAGE = 1000
RECORD_BYTES = 700
SPAN = timedelta(days=16)
UNTIL = timedelta(days=2)
CONFIG = """\
state_dir = "{folder}/state"
[sources.voice]
type = "cekura"
base_url = "{cekura[url]}"
organization_id = "{cekura[organization_id]}"
api_key = "{cekura[api_key]}"
page_size = 1000
[sinks.elastic]
type = "elasticsearch"
urls = ["{elastic[url]}"]
api_key = "{elastic[api_key]}"
"""


@contextlib.contextmanager
def sandbox(events: int, delay: float) -> Iterator[dict[str, Any]]:
    """Serve a history of *events* records; the stored counts are under ``totals`` at the end."""
    command = [sys.executable, "-m", "auditrelay.sandbox", "--vendor", "cekura", "--lean"]
    command += ["--events", str(events), "--record-bytes", str(RECORD_BYTES)]
    command += ["--page-cap", str(PAGE), "--delay", str(delay)]
    command += ["--span", f"{SPAN.days}d", "--until", f"{UNTIL.days}d"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        yield addresses
        process.send_signal(signal.SIGTERM)
        addresses["totals"] = json.loads(process.stdout.readline())


def measure(events: int, delay: float, concurrency: int) -> str:
    """Backfill *events* events, check that all arrived exactly once, and return a table row."""
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-bench-"))
    try:
        with sandbox(events, delay) as addresses:
            config = folder / "config.toml"
            config.touch(mode=0o600)
            config.write_text(CONFIG.format(**addresses, folder=folder))
            now = datetime.now(UTC)
            start, end = now - UNTIL - SPAN - timedelta(hours=1), now - UNTIL + timedelta(hours=1)
            command = [sys.executable, "-m", "auditrelay", "-c", str(config)]
            command += ["--log-level", "warning", "backfill", "voice"]
            command += ["--from", start.isoformat(), "--to", end.isoformat()]
            command += ["--concurrency", str(concurrency)]
            began = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = status
        if status:
            sys.exit(f"the backfill exited with status {os.waitstatus_to_exitcode(status)}")
        stored = addresses["totals"]["stored"]["elastic"]
        if (stored["uids"], stored["repeated"]) != (events, 0):
            sys.exit(f"{stored['uids']} of {events} arrived, {stored['repeated']} repeated")
    finally:
        shutil.rmtree(folder)
    cpu = (usage.ru_utime + usage.ru_stime) / events * 100_000
    peak = usage.ru_maxrss / 1024
    return (
        f"| {events:,} | {concurrency} | {events / seconds:,.0f} | {seconds:,.0f} | {cpu:.2f} "
        f"| {peak:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds before each page")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8])
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"Pages of {PAGE:,}, each {options.delay:g} s late, {RECORD_BYTES} bytes a record.\n")
    print("| events | slices at once | events/s | seconds | CPU s/100k | peak MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for concurrency in options.concurrency:
        print(measure(options.events, options.delay, concurrency), flush=True)


if __name__ == "__main__":
    main()
