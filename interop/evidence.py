"""
The evidence against a real cluster, in an environment without auditrelay.

Heads and uids are taken out as docs/evidence.md says, and the auditor's program checks them.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import daemon

from interop.findings import Findings

if TYPE_CHECKING:
    from interop.cluster import Cluster

ROOT = Path(__file__).parents[1]
HEADS = "logs-auditrelay.auditrelay-default"
EVENTS = "logs-auditrelay.*-default"
FIELDS = ["auditrelay.uid", "event.hash", "event.created"]


async def prove(cluster: "Cluster", folder: Path, findings: Findings) -> None:
    """Check an export of the instance that has delivered to *cluster* against what that holds."""
    print("the evidence, against what the cluster holds")
    config = folder / "gzip" / "auditrelay.toml"
    # What the first run has delivered is in the entries of the next seal.
    ended = await daemon.command(config, "run", "--once", within=400)
    findings.same("run --once seals again", ended.status, 0)
    export, checker = folder / "export", folder / "auditrelay-evidence.pyz"
    ended = await daemon.command(config, "evidence", "export", "--out", str(export), "--uids")
    findings.check("evidence export", ok=ended.status == 0, seen=ended.stderr)
    heads, uids = folder / "heads.ndjson", folder / "uids.ndjson"
    query = {"term": {"event.action": "auditrelay.ledger_sealed"}}
    found = list(_search(cluster, HEADS, query, ["message", "event.created"]))
    _write(heads, found)
    findings.check(f"the documented search finds heads ({len(found)})", ok=len(found) > 1)
    events = list(_search(cluster, EVENTS, {"match_all": {}}, FIELDS))
    _write(uids, events)
    await asyncio.to_thread(_build, checker)
    words = [str(export), "--witness", str(heads), "--siem", f"cluster={uids}", "--json"]
    status, report = await asyncio.to_thread(_check, checker, words)
    bad = [each for each in report["findings"] if each["level"] == "bad"]
    findings.none("the zipapp finds nothing that does not fit", bad)
    findings.same("and its exit status is", status, 0)
    findings.same("every head fits", report["heads"]["fit"], len(found))
    _write(uids, events[1:])
    status, report = await asyncio.to_thread(_check, checker, words)
    codes = {each["code"] for each in report["findings"] if each["level"] == "bad"}
    findings.same("a deleted event is named", (status, codes), (1, {"not_in_siem"}))


def _search(
    cluster: "Cluster", names: str, query: Any, fields: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield what a search with a point in time and ``search_after`` finds, *fields* of each."""
    cluster.ask("POST", f"/{names}/_refresh")
    if cluster.flavour == "opensearch":
        path = f"/{names}/_search/point_in_time"
        opened = cluster.ask("POST", path, keep_alive="1m")["pit_id"]
    else:
        opened = cluster.ask("POST", f"/{names}/_pit", keep_alive="1m")["id"]
    after: list[Any] | None = None
    while True:
        body = {
            "size": 500,
            "query": query,
            "_source": fields,
            "pit": {"id": opened, "keep_alive": "1m"},
            "sort": [{"auditrelay.uid": "asc"}],
            **({} if after is None else {"search_after": after}),
        }
        hits = cluster.ask("POST", "/_search", body)["hits"]["hits"]
        if not hits:
            return
        yield from (hit["_source"] for hit in hits)
        after = hits[-1]["sort"]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _build(checker: Path) -> None:
    words = ["make", "--no-print-directory", "evidence-checker", f"CHECKER={checker}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)


def _check(checker: Path, words: list[str]) -> tuple[int, Any]:
    """Run the program in a Python that has nothing but the standard library."""
    command = [sys.executable, "-I", "-S", str(checker), *words]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return ended.returncode, json.loads(ended.stdout or '{"findings": [], "heads": {"fit": -1}}')
