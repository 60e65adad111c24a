"""
Count the instructions that the relay takes for an event, with valgrind.

    python benchmarks/instructions.py [--rows GLOB ...] [--against PYTHON] [--events 2000]

Seconds of CPU differ by a tenth from run to run where other machines share the processor; this
number differs by about a hundredth, so it tells whether a change costs something. It leaves out
what the operating system does, and counts more than a processor needs for SHA-256, since valgrind
has no instructions for that. Each row is run with so many events and with three times as many: the
difference has no start in it. Both programs run at the same time, each on a core.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from load import check_arrived, configure, folder, once, sandbox
from run import ROWS, Row

VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no")
_COUNTED: Final = re.compile(r"I\s+refs:\s+([\d,]+)")


def instructions(python: str, row: Row, events: int) -> int:
    """Return how many instructions the relay takes for *events* events of *row*, start included."""
    events *= row.times
    with folder() as where:
        with sandbox(row.load, events, row.sinks) as addresses:
            config = configure(where, row.load, row.sinks, addresses)
            if row.known:
                once(python, config)
            counted = _counted([python, "-m", "auditrelay", "-c", str(config)], where)
        check_arrived(addresses, events, row.sinks)
    return counted


def _counted(command: Sequence[str], where: Path) -> int:
    log = where / "valgrind.log"
    made = f"--cachegrind-out-file={where / 'cachegrind.out'}"
    done = subprocess.run(
        [*VALGRIND, f"--log-file={log}", made, *command, "--log-level", "error", "run", "--once"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=False,
    )
    found = _COUNTED.search(log.read_text())
    if done.returncode or found is None:
        sys.exit(f"{' '.join(command)} exited with status {done.returncode}:\n{log.read_text()}")
    return int(found[1].replace(",", ""))


def of_one_event(python: str, row: Row, events: int) -> float:
    """Return the instructions for one event of *row*."""
    few, many = (instructions(python, row, count) for count in (events, 3 * events))
    return (many - few) / (2 * events * row.times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--events", type=int, default=2_000)
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="GLOB", help="only these rows")
    parser.add_argument("--against", metavar="PYTHON", help="another environment's interpreter")
    options = parser.parse_args()
    programs = [sys.executable, *([options.against] if options.against else [])]
    print("| what | thousand instructions an event | of the other's |\n| --- | --- | --- |")
    with ThreadPoolExecutor(len(programs)) as threads:
        for row in ROWS:
            if not any(fnmatch(row.name, f"*{glob}*") for glob in options.rows):
                continue
            found = list(
                threads.map(
                    lambda python, row=row: of_one_event(python, row, options.events), programs
                )
            )
            share = f"{found[0] / found[1]:.3f}" if len(found) > 1 else "-"
            print(f"| {row.name} | {found[0] / 1000:.1f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
