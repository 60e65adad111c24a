"""
The description of Loki against VictoriaLogs, which speaks its push API.

It is built by Go's own tools, from the version that is named here. It is not Loki: it takes events
of any age, and has no streams that run ahead. What it shows is the form: that a server that is not
ours reads every line, its time, its labels and its uid. It keeps lines as they are, as Loki does;
otherwise it would take JSON apart, and drop one of 3,000 fields with a 204.
"""

import asyncio
import calendar
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.support import daemon

from auditrelay.sandbox import Sandbox
from interop import golang, vendors
from interop.cluster import once
from interop.findings import Findings

_PROGRAM = "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.1"


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """Run VictoriaLogs with *words* for the length of a ``with`` block. Raises Missing."""
    program = golang.build("victorialogs", _PROGRAM)
    address = golang.free_address()
    with tempfile.TemporaryDirectory(prefix="interop-victorialogs-") as folder:
        options = (f"-httpListenAddr={address}", f"-storageDataPath={folder}", *words)
        with golang.serving(program, address, *options) as url:
            yield url


def _stored(url: str) -> list[dict[str, Any]]:
    """Return all that it has stored, after what it keeps in memory can be searched."""
    httpx.get(f"{url}/internal/force_flush").raise_for_status()
    reply = httpx.get(f"{url}/select/logsql/query", params={"query": "*", "limit": "100000"})
    reply.raise_for_status()
    return [json.loads(line) for line in reply.content.split(b"\n") if line]


async def prove(findings: Findings) -> None:
    """Send everything through the description of Loki, and look for it."""
    with serving("-loki.disableMessageParsing") as url:
        await _everything(url, findings)


async def _everything(url: str, findings: Findings) -> None:
    print("every event, through the description of Loki")
    async with Sandbox() as sandbox:
        vendors.fill(sandbox)
        made = {(each.source, each.id): each for each in vendors.made(sandbox)}
        with tempfile.TemporaryDirectory() as folder:
            # A path behind the host is the operator's own: there the API is below /insert.
            sinks = {"loki": {"type": "loki", "url": f"{url}/insert", "format": "raw"}}
            config = daemon.configure(Path(folder), vendors.sources(sandbox), sinks)
            ended = await daemon.command(config, "check")
            findings.check("check exits with 0", ok=ended.status == 0, seen=ended.stdout)
            await once(config, findings)
            ended = await daemon.command(config, "status", "--json")
            [sink] = json.loads(ended.stdout)["sinks"]
            findings.same("no dead letters", sink["dead_letters"], 0)
            findings.same("what a success proves", sink["proves"], "taken")
    rows = [row for row in await asyncio.to_thread(_stored, url) if row["source"] in _names(made)]
    keys = Counter((row["source"], _native_id(row)) for row in rows)
    findings.none("every event is stored", made.keys() - keys.keys())
    findings.none("nothing else is stored", keys.keys() - made.keys())
    findings.none("every event is stored once", [key for key, count in keys.items() if count > 1])
    findings.same("each has its own uid", len({row["uid"] for row in rows}), len(made))
    wrong = [
        key
        for row in rows
        if _milliseconds(row) != made[key := (row["source"], _native_id(row))].at // 1000
    ]
    findings.none("every event has its own time", wrong)
    lines = [json.loads(row["_msg"])["auditrelay"]["uid"] == row["uid"] for row in rows]
    findings.check("the uid beside a line is that in it", ok=all(lines), seen=lines.count(False))
    findings.same("the labels of the streams", {row["job"] for row in rows}, {"auditrelay"})


def _names(made: Any) -> set[str]:
    return {source for source, _ in made}


def _native_id(row: dict[str, Any]) -> str:
    """Return the vendor's id, of the line."""
    return str(json.loads(row["_msg"])["record"]["id"])


def _milliseconds(row: dict[str, Any]) -> int:
    """Return the time of *row*, which has up to nine digits of a second."""
    seconds, _, fraction = row["_time"].rstrip("Z").partition(".")
    whole = calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S"))
    return whole * 1000 + int(fraction.ljust(3, "0")[:3])
