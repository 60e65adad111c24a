"""
The state that the last version before 0.2.0 has written is gone on with.

``d5f3f41/state.db.gz`` was written by commit d5f3f41, schema 2, and not by a test: its service read
24 records of each vendor from its sandbox until SIGTERM, with six hours of lookback and, for bland,
a ``catch_up_limit`` of three. Splunk answered 503 all the time; Elasticsearch refused one event for
good. ``written.json`` has the records, the uids that Elasticsearch had stored, and the refused one.
"""

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import TWO, Daemon, command, configure, eventually, sinks, sources

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

WRITTEN = Path(__file__).parent / "d5f3f41"


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    """What was written, with the state in its place."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    state = folder / "state.db"
    state.touch(mode=0o600)
    state.write_bytes(gzip.decompress(WRITTEN.joinpath("state.db.gz").read_bytes()))
    read: dict[str, Any] = json.loads(WRITTEN.joinpath("written.json").read_text("utf-8"))
    return read


def show(sandbox: Sandbox, records: dict[str, list[dict[str, Any]]]) -> None:
    """Let the vendors show what they showed then."""
    for vendor, entries in records.items():
        for each in entries:
            at = datetime.fromisoformat(each["at"])
            sandbox.vendors[vendor].history.add(each["record"], id=each["id"], at=at)


async def test_a_state_of_d5f3f41_loses_nothing_repeats_nothing_and_keeps_what_it_says(
    written: dict[str, Any], tmp_path: Path
) -> None:
    stored, (refused,) = set(written["in_elastic"]), written["dead"]
    async with Sandbox(only=TWO) as sandbox:
        show(sandbox, written["records"])
        tables = {name: each for name, each in sinks(sandbox).items() if name != "datadog"}
        # This test may run long after the state was written.
        config = configure(tmp_path, sources(sandbox), tables, spool={"remember": "36500d"})
        async with Daemon(config) as daemon:
            splunk, elastic = sandbox.splunk.stored, sandbox.elastic.stored
            await eventually(lambda: stored | {refused} <= set(splunk.by_uid), what="the backlog")
            assert not stored & set(elastic.by_uid), "Elasticsearch had them"

            listed = await command(config, "dead-letters", "list", "--json")
            (letter,) = json.loads(listed.stdout)
            assert (letter["uid"], letter["sink"], letter["status"]) == (refused, "elastic", 400)
            replayed = await command(config, "dead-letters", "replay", "--id", str(letter["id"]))
            assert replayed.status == 0, replayed.stderr
            await eventually(lambda: refused in elastic.by_uid, what="the dead letter")

            shown = await command(config, "coverage", "bland", "--json")
            gap, covered, *_ = json.loads(shown.stdout)["spans"]
            assert (gap["state"], gap["reason"]) == ("gap", "catch_up_limit")
            assert (covered["state"], covered["start"]) == ("covered", gap["end"])
            in_gap = {
                each["id"] for each in written["records"]["bland"] if each["at"] < gap["end"][:-1]
            }
            assert len(in_gap) > 5

            for name, records in written["records"].items():
                ends = (records[0]["at"], records[-1]["at"])
                first, last = (datetime.fromisoformat(each) for each in ends)
                span = (
                    "--from",
                    first.isoformat(),
                    "--to",
                    (last + timedelta(seconds=1)).isoformat(),
                )
                filled = await command(config, "backfill", name, *span)
                assert filled.status == 0, filled.stderr
            everything = {each["id"] for records in written["records"].values() for each in records}
            assert {splunk.by_native_id[each] for each in everything} == {1}
            again = {each for each in everything if elastic.by_native_id[each]}
            assert again == in_gap | {letter["native_id"]}, "and nothing that it had"

            checked = await command(config, "coverage", "--check")
            assert checked.status == 0, checked.stdout + checked.stderr
            assert await daemon.end() == 0
