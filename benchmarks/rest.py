"""
Measure the idle daemon.

    python benchmarks/rest.py [--quick] [--minutes 3] [--polls 60]

Five sources, polled once a minute, two sinks and the status port; the sandbox runs in a separate
process. CPU time is the scheduler's count of nanoseconds (`/proc/PID/task/*/schedstat`), a wake-up
is a voluntary context switch of any thread (`/proc/PID/task/*/status`). Memory is
`/proc/PID/smaps_rollup`, which only root may read of a process that lets no other read its memory.
The hour of polls is shortened: sixty polls of each source, a second apart.
"""

import argparse
import compileall
import contextlib
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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import auditrelay

SOURCES = 5
COMMON = 'initial_lookback = "1h"\npoll_interval = "{poll}"\n'
SOURCE = {
    "cekura": 'base_url = "{url}"\norganization_id = "{organization_id}"\napi_key = "{api_key}"\n',
    "bland": 'base_url = "{url}"\napi_key = "{api_key}"\n',
}
SINKS = """\
[sinks.splunk]
type = "splunk_hec"
url = "{splunk[url]}"
token = "{splunk[token]}"
[sinks.elastic]
type = "elasticsearch"
urls = ["{elastic[url]}"]
api_key = "{elastic[api_key]}"
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """Resources that a process has used so far."""

    at: float
    cpu: float
    wakeups: int

    @classmethod
    def by(cls, process: int) -> "Spent":
        """Read the figures of the process with this id."""
        cpu = wakeups = 0
        for task in Path(f"/proc/{process}/task").iterdir():
            cpu += int((task / "schedstat").read_text().split()[0])
            status = dict(line.split(":") for line in (task / "status").read_text().splitlines())
            wakeups += int(status["voluntary_ctxt_switches"])
        return cls(time.monotonic(), cpu / 1e9, wakeups)


def memory(process: int) -> tuple[float, float]:
    """Return the resident megabytes of a process, and its private ones."""
    sizes: Counter[str] = Counter()
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        sizes[name.strip(":")] = int(size)
    return sizes["Rss"] / 1024, (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024


# --- the daemon ------------------------------------------------------------------------------


@contextlib.contextmanager
def sandbox() -> Iterator[dict[str, Any]]:
    """Serve a few events of the past hour, and no later ones."""
    command = [sys.executable, "-m", "auditrelay.sandbox", "--events", "100"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        process.stdout.read()


@contextlib.contextmanager
def daemon(addresses: dict[str, Any], poll: str, *, log: int | None = None) -> Iterator[int]:
    """
    Run the service with five sources; yield its process id.

    With the file descriptor *log*, its import times are written there.
    """
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-rest-"))
    text = f'state_dir = "{folder}/state"\n[status]\nlisten = "127.0.0.1:0"\n'
    for number in range(SOURCES):
        vendor = ("cekura", "bland")[number % 2]
        keys = (COMMON + SOURCE[vendor]).format(poll=poll, **addresses[vendor])
        text += f'[sources.{vendor}-{number}]\ntype = "{vendor}"\n{keys}'
    config = folder / "config.toml"
    config.touch(mode=0o600)
    config.write_text(text + SINKS.format(**addresses))
    command = [sys.executable, *(["-X", "importtime"] if log else []), "-m", "auditrelay"]
    command += ["-c", str(config), "--log-level", "error", "run"]
    process = subprocess.Popen(command, stderr=log)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        shutil.rmtree(folder)
    if status:
        sys.exit(f"the daemon exited with status {status}")


def first_poll(addresses: dict[str, Any], *, log: int | None = None) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, from the start to a vendor's first connection."""
    with socket.create_server(("127.0.0.1", 0)) as vendor:
        ours = dict(addresses)
        for name in SOURCE:
            ours[name] = {**ours[name], "url": f"http://127.0.0.1:{vendor.getsockname()[1]}"}
        began = time.perf_counter()
        with daemon(ours, "1m", log=log) as process:
            connection, _ = vendor.accept()
            seconds, cpu = time.perf_counter() - began, Spent.by(process).cpu
            connection.close()
    return seconds, cpu


def start(addresses: dict[str, Any], repeat: int) -> None:
    """Print the time between the start and the first poll, and the share of the imports."""
    runs = [first_poll(addresses) for _ in range(repeat)]
    best: dict[str, int] = {}
    for _ in range(repeat):
        with tempfile.TemporaryFile("w+") as log:
            first_poll(addresses, log=log.fileno())
            log.seek(0)
            timings = log.read()
        for own, name in re.findall(
            r"^import time: +(\d+) \| +\d+ \| +(\S+)$", timings, re.MULTILINE
        ):
            best[name] = min(best.get(name, int(own)), int(own))
    packages: Counter[str] = Counter()
    for name, own in best.items():
        packages[name.partition(".")[0]] += own
    seconds, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"start to first poll: {seconds:.2f} s, {cpu:.2f} of CPU")
    most = ", ".join(f"{name} {own / 1000:.0f}" for name, own in packages.most_common(12))
    print(f"  imports: {len(best)} modules, {sum(best.values()) / 1000:.0f} ms; of it {most}")


def rest(addresses: dict[str, Any], minutes: float) -> None:
    """Print the cost of the daemon while next to nothing happens."""
    with daemon(addresses, "1m") as process:
        time.sleep(10)
        print("after the start: {:.1f} MB, {:.1f} of them private".format(*memory(process)))
        before = Spent.by(process)
        time.sleep(60 * minutes)
        after = Spent.by(process)
    seconds = after.at - before.at
    share = 100 * (after.cpu - before.cpu) / seconds
    wakeups = 60 * (after.wakeups - before.wakeups) / seconds
    print(f"over {minutes:g} min: {share:.3f} % of a core, {wakeups:.0f} wake-ups a minute")


def hour(addresses: dict[str, Any], polls: int) -> None:
    """Print the cost and the memory of *polls* of each source."""
    with daemon(addresses, "1s") as process:
        time.sleep(5)
        before = Spent.by(process)
        time.sleep(polls)
        after = Spent.by(process)
        megabytes = memory(process)
    cpu = 1000 * (after.cpu - before.cpu) / polls / SOURCES
    wakeups = (after.wakeups - before.wakeups) / polls / SOURCES
    print(f"a poll that finds nothing: {cpu:.1f} ms of CPU, {wakeups:.0f} wake-ups")
    print("after {} polls of each: {:.1f} MB, {:.1f} of them private".format(polls, *megabytes))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="half a minute idle, ten polls")
    parser.add_argument("--minutes", type=float, default=3, help="idle time")
    parser.add_argument("--polls", type=int, default=60, help="polls of each source for the hour")
    options = parser.parse_args()
    minutes, polls, repeat = options.minutes, options.polls, 7
    if options.quick:
        minutes, polls, repeat = 0.5, 10, 3
    # As an installer does; without stored bytecode each start would compile the source.
    compileall.compile_dir(Path(auditrelay.__path__[0]), quiet=1)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    with sandbox() as addresses:
        start(addresses, repeat)
        rest(addresses, minutes)
        hour(addresses, polls)


if __name__ == "__main__":
    main()
