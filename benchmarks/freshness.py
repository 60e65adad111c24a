"""
Measure how soon an event is in the SIEM: from when it occurs to when the sink acknowledges it.

    python benchmarks/freshness.py [--minutes 10] [--poll 60] [--settle 20]

The real daemon, in real time, against the sandbox in this process: two vendors that get an event a
second each, shown from the moment when it occurs, and two SIEMs. Printed are p50 and p99 by source
and sink, once as the benchmark sees it (when the event is among those that the double has stored)
and once as `auditrelay status --json` reports it. The exit status is 1 unless

    p50 <= settle + poll / 2 + 2 s        p99 <= settle + poll + 5 s

The first poll and what it catches up on are left out of the benchmark's own figures.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from auditrelay.sandbox import Sandbox

VENDORS = ("bland", "cekura")
SIEMS = ("splunk", "elastic")
COMMAND = (sys.executable, "-m", "auditrelay")


async def main() -> int:
    """Run the daemon beside the load, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description="How soon an event is in the SIEM.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--poll", type=int, default=60, help="seconds")
    parser.add_argument("--settle", type=int, default=20, help="seconds")
    asked = parser.parse_args()
    most = asked.settle + asked.poll / 2 + 2, asked.settle + asked.poll + 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Sandbox() as sandbox:
            write_config(sandbox, folder / "auditrelay.toml", asked.poll, asked.settle)
            daemon = await asyncio.create_subprocess_exec(
                *COMMAND, "-c", str(folder / "auditrelay.toml"), "--log-level", "error", "run"
            )
            try:
                seen = await load(sandbox, 60 * asked.minutes, 2 * asked.poll + asked.settle)
            finally:
                daemon.terminate()
                await daemon.wait()
            shown = await status(folder / "auditrelay.toml")
    print(f"an event a second, polls every {asked.poll} s, settle {asked.settle} s")
    print(f"allowed: p50 {most[0]:.0f} s, p99 {most[1]:.0f} s\n")
    print("| source | sink | events | p50 | p99 | as status shows them |")
    print("| --- | --- | --- | --- | --- | --- |")
    late = False
    for (vendor, siem), ages in sorted(seen.items()):
        p50, p99 = below(0.5, ages), below(0.99, ages)
        late |= p50 > most[0] or p99 > most[1]
        own = shown[vendor, siem]
        print(
            f"| {vendor} | {siem} | {len(ages)} | {p50:.1f} s | {p99:.1f} s "
            f"| {own['p50_seconds']:.1f} s, {own['p99_seconds']:.1f} s |"
        )
    return int(late)


def write_config(sandbox: Sandbox, path: Path, poll: int, settle: int) -> None:
    """Write the configuration of the daemon to *path*."""
    lines = [f'state_dir = "{path.parent / "state"}"', "[status]", 'listen = "127.0.0.1:0"']
    times = {"poll_interval": f"{poll}s", "settle": f"{settle}s", "initial_lookback": "5m"}
    for name in VENDORS:
        lines.append(f"[sources.{name}]")
        table = sandbox.vendors[name].settings() | times
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    for name in SIEMS:
        lines.append(f"[sinks.{name}]")
        table = sandbox.siems[name].settings()
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")


async def load(sandbox: Sandbox, seconds: float, rest: float) -> dict[tuple[str, str], list[float]]:
    """
    Add events for so many *seconds*, and wait for the *rest*.

    Returns by source and sink the seconds that each took from when it occurred until it was stored.
    """
    begun = time.monotonic()
    occurred: dict[str, tuple[str, float]] = {}
    ages: dict[tuple[str, str], list[float]] = {(v, s): [] for v in VENDORS for s in SIEMS}
    waiting: dict[str, set[str]] = {siem: set() for siem in SIEMS}
    added = 0
    while (passed := time.monotonic() - begun) < seconds + rest:
        if passed < seconds and passed >= added:
            added += 1
            for vendor in VENDORS:
                native_id = sandbox.vendors[vendor].add(datetime.now(UTC))
                occurred[native_id] = vendor, time.monotonic()
                for each in waiting.values():
                    each.add(native_id)
        for siem, names in waiting.items():
            stored = sandbox.siems[siem].stored.by_native_id
            for native_id in [name for name in names if name in stored]:
                names.remove(native_id)
                vendor, at = occurred[native_id]
                ages[vendor, siem].append(time.monotonic() - at)
        if passed >= seconds and not any(waiting.values()):
            break
        await asyncio.sleep(0.1)
    for siem, names in waiting.items():
        if names:
            raise SystemExit(f"{len(names)} events did not arrive at {siem}")
    return ages


async def status(config: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return by source and sink what ``status --json`` reports."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "-c", str(config), "status", "--json", stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    return {
        (each["source"], sink["name"]): each
        for sink in json.loads(text)["sinks"]
        for each in sink["freshness"]
    }


def below(share: float, ages: Sequence[float]) -> float:
    """Return the age that this *share* of *ages* does not exceed."""
    return sorted(ages)[math.ceil(share * len(ages)) - 1]


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
