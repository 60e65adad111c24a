"""
Measure the daemon when there is nothing to do: what it costs merely to be there.

    python benchmarks/rest.py [--quick] [--minutes 3] [--polls 60]

Five sources, polled once a minute, two sinks and the status port; the sandbox answers from a
process of its own. CPU time is the scheduler's count of nanoseconds (`/proc/PID/task/*/schedstat`),
a wake-up is a voluntary switch of any thread (`/proc/PID/task/*/status`): a thread that sleeps and
is called costs one. Memory is `/proc/PID/smaps_rollup`. The hour of polls is made shorter: sixty
polls of each source, a second apart.
"""

import argparse
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

SOURCES = 5
IMPORTS = (
    "import auditrelay.cli, auditrelay.app, auditrelay.sources.cekura, auditrelay.sources.bland, "
    "auditrelay.sinks.splunk_hec, auditrelay.sinks.elasticsearch"
)
"""What `run` imports, with the parts that the configuration below names."""

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
    """What a process has used up to one moment."""

    at: float
    cpu: float
    wakeups: int

    @classmethod
    def by(cls, process: int) -> "Spent":
        """Read it for the process of that id."""
        cpu = wakeups = 0
        for task in Path(f"/proc/{process}/task").iterdir():
            cpu += int((task / "schedstat").read_text().split()[0])
            found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)
            assert found is not None
            wakeups += int(found[1])
        return cls(time.monotonic(), cpu / 1e9, wakeups)


def memory(process: int) -> tuple[float, float]:
    """Return the resident megabytes of a process, and those of them that it shares with nobody."""
    sizes: Counter[str] = Counter()
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        sizes[name.strip(":")] = int(size)
    return sizes["Rss"] / 1024, (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024


# --- imports ---------------------------------------------------------------------------------


def imports(repeat: int) -> tuple[float, float, Counter[str]]:
    """Return the CPU seconds of a bare interpreter, those with our imports, and µs by package."""
    bare = statistics.median(_cpu("pass") for _ in range(repeat))
    ours = statistics.median(_cpu(IMPORTS) for _ in range(repeat))
    best: dict[str, int] = {}
    for _ in range(repeat):
        told = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", IMPORTS],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", told, re.M):
            best[name] = min(best.get(name, int(own)), int(own))
    by_package: Counter[str] = Counter()
    for name, own in best.items():
        by_package[name.partition(".")[0]] += own
    return bare, ours, by_package


def _cpu(statements: str) -> float:
    process = subprocess.Popen([sys.executable, "-c", statements])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return usage.ru_utime + usage.ru_stime


# --- the daemon ------------------------------------------------------------------------------


@contextlib.contextmanager
def sandbox() -> Iterator[dict[str, Any]]:
    """Serve a few events of the past hour, and nothing after that."""
    command = [sys.executable, "-m", "auditrelay.sandbox", "--events", "100"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        process.stdout.read()


@contextlib.contextmanager
def daemon(addresses: dict[str, Any], poll: str) -> Iterator[int]:
    """Run the service with five sources; yield its process id."""
    folder = Path(tempfile.mkdtemp(prefix="auditrelay-rest-"))
    text = f'state_dir = "{folder}/state"\n[status]\nlisten = "127.0.0.1:0"\n'
    for number in range(SOURCES):
        vendor = ("cekura", "bland")[number % 2]
        keys = (COMMON + SOURCE[vendor]).format(poll=poll, **addresses[vendor])
        text += f'[sources.{vendor}-{number}]\ntype = "{vendor}"\n{keys}'
    config = folder / "config.toml"
    config.touch(mode=0o600)
    config.write_text(text + SINKS.format(**addresses))
    command = [sys.executable, "-m", "auditrelay", "-c", str(config)]
    process = subprocess.Popen([*command, "--log-level", "warning", "run"])
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        shutil.rmtree(folder)
    if status:
        sys.exit(f"the daemon ended with status {status}")


def first_poll(addresses: dict[str, Any]) -> float:
    """Return the seconds from the start of the daemon to its first connection to a vendor."""
    with socket.create_server(("127.0.0.1", 0)) as vendor:
        ours = dict(addresses)
        for name in SOURCE:
            ours[name] = {**ours[name], "url": f"http://127.0.0.1:{vendor.getsockname()[1]}"}
        began = time.perf_counter()
        with daemon(ours, "1m"):
            connection, _ = vendor.accept()
            seconds = time.perf_counter() - began
            connection.close()
    return seconds


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="half a minute of rest, ten polls")
    parser.add_argument("--minutes", type=float, default=3, help="how long it rests")
    parser.add_argument("--polls", type=int, default=60, help="polls of each source for the hour")
    options = parser.parse_args()
    minutes, polls, repeat = options.minutes, options.polls, 5
    if options.quick:
        minutes, polls, repeat = 0.5, 10, 3
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    bare, ours, by_package = imports(repeat)
    print(f"imports: {1000 * (ours - bare):.0f} ms of CPU, beside {1000 * bare:.0f} of Python's own")
    most = ", ".join(f"{name} {own / 1000:.0f}" for name, own in by_package.most_common(12))
    print(f"  of it, in ms: {most}")
    with sandbox() as addresses:
        starts = [first_poll(addresses) for _ in range(repeat)]
        print(f"start to first poll: {statistics.median(starts):.2f} s (best {min(starts):.2f})")
        with daemon(addresses, "1m") as process:
            time.sleep(10)
            print("rest, after start: {:.0f} MB, {:.0f} its own".format(*memory(process)))
            before = Spent.by(process)
            time.sleep(60 * minutes)
            after = Spent.by(process)
        seconds = after.at - before.at
        print(
            f"rest, over {minutes:g} min: {100 * (after.cpu - before.cpu) / seconds:.3f} % of a core, "
            f"{60 * (after.wakeups - before.wakeups) / seconds:.0f} wake-ups a minute"
        )
        with daemon(addresses, "1s") as process:
            time.sleep(5)
            before = Spent.by(process)
            time.sleep(polls)
            after = Spent.by(process)
            print(
                "after {} polls of each source: {:.0f} MB, {:.0f} its own".format(
                    polls, *memory(process)
                )
            )
        made = polls * SOURCES
        print(
            f"a poll: {1000 * (after.cpu - before.cpu) / made:.1f} ms of CPU, "
            f"{(after.wakeups - before.wakeups) / made:.0f} wake-ups"
        )


if __name__ == "__main__":
    main()
