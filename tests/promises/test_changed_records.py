"""
A record that changed under a known uid is never lost in silence, and reported once.

A vendor's audit log should never alter a record. If it does, in whatever way it is read again, the
new content is in every sink, as an event ``auditrelay.record_changed`` with a uid of its own.
"""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import command, configure, intakes, sinks, sources
from tests.system.kill_at_write import KillAtWrite

from auditrelay.sandbox import Sandbox
from auditrelay.sandbox.vendors.jitsudo import stamp

pytestmark = pytest.mark.process

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


def reported(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return, by the name of the sink, the documents that report a change, as text."""
    return {
        name: [text for text in map(json.dumps, stored.documents) if '"notice": true' in text]
        for name, stored in intakes(sandbox).items()
    }


def configured(folder: Path, sandbox: Sandbox, **changes: Any) -> Path:
    return configure(
        folder, sources(sandbox, of=("jitsudo",), overlap="30m", **changes), sinks(sandbox)
    )


async def once(config: Path, **named: Any) -> int:
    return (await command(config, "run", "--once", **named)).status


async def verified(config: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    ended = await command(config, "verify", "jitsudo", "--from", "55m", "--json", *arguments)
    return ended.status, json.loads(ended.stdout)


@pytest.mark.parametrize("moved", [False, True], ids=["same time", "another time"])
async def test_a_record_that_becomes_another_under_its_id_is_seen_in_every_sink(
    tmp_path: Path, sandbox: Sandbox, moved: bool
) -> None:
    at = datetime.now(UTC) - 20 * MINUTE
    sandbox.jitsudo.add(at, id="same", action="grant.view", actor_id="dana@acme.example")
    config = configured(tmp_path, sandbox)
    assert await once(config) == 0
    then = at + 3 * MINUTE if moved else at
    edit = {"action": "policy.delete", "actor_id": "eve@acme.example", "created_at": stamp(then)}
    sandbox.jitsudo.history.edit("same", at=then, **edit)
    status, report = await verified(config)
    assert (status, len(report["changed"])) == (1, 1)
    assert report["changed"][0]["event"] is None
    assert "action" in report["changed"][0]["fields"]
    ended = await command(config, "verify", "jitsudo", "--from", "55m")
    assert "CHANGED at the source: 1, 0 of them forwarded" in ended.stdout
    assert await once(config) == 0
    for name, documents in reported(sandbox).items():
        (document,) = documents
        assert "auditrelay.record_changed" in document, name
        assert "policy.delete" in document, name
        assert "eve@acme.example" in document, "who acted is a field of it"
    status, report = await verified(config)
    assert status == 0, "nothing is missing any more"
    assert report["changed"][0]["event"] in sandbox.elastic.stored.by_uid
    assert report["missing"] == []
    assert await once(config) == 0
    assert {name: len(texts) for name, texts in reported(sandbox).items()} == dict.fromkeys(
        intakes(sandbox), 1
    ), "it is reported once"


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("method", ["report_changed", "add"])
async def test_a_change_is_reported_once_wherever_the_process_is_killed(
    tmp_path: Path, sandbox: Sandbox, side: str, method: str
) -> None:
    sandbox.jitsudo.add(datetime.now(UTC) - 20 * MINUTE, id="same", action="grant.view")
    config = configured(tmp_path, sandbox)
    assert await once(config) == 0
    sandbox.jitsudo.history.edit("same", action="policy.delete")
    fault = KillAtWrite(tmp_path / "journal", method, 1, side)
    assert await once(config, fault=fault) == -9
    assert await once(config) == 0
    for name, documents in reported(sandbox).items():
        assert len(documents) == 1, name
    assert not sandbox.elastic.stored.repeated()


async def by_verify(config: Path) -> None:
    status, report = await verified(config, "--repair")
    assert status == 0
    assert [each["event"] is not None for each in report["changed"]] == [True]
    assert await once(config) == 0


async def by_backfill(config: Path) -> None:
    ended = await command(config, "backfill", "jitsudo", "--from", "55m")
    assert ended.status == 0, ended.stderr


async def by_resending(config: Path) -> None:
    ended = await command(config, "backfill", "jitsudo", "--from", "2h", "--sink", "splunk")
    assert ended.status == 0, ended.stderr
    assert await once(config) == 0


@pytest.mark.parametrize("read", [by_verify, by_backfill, by_resending])
async def test_however_it_is_read_again(
    tmp_path: Path, sandbox: Sandbox, read: Callable[[Path], Any]
) -> None:
    sandbox.jitsudo.add(datetime.now(UTC) - 50 * MINUTE, id="same", action="grant.view")
    config = configured(tmp_path, sandbox)
    assert await once(config) == 0
    sandbox.jitsudo.history.edit("same", action="policy.delete")
    await read(config)
    for name, documents in reported(sandbox).items():
        assert len(documents) == 1, name


async def test_a_vendor_cannot_make_an_event_of_auditrelay_itself(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    sandbox.jitsudo.add(
        datetime.now(UTC) - MINUTE,
        id="forged",
        action="auditrelay.gap_filled",
        metadata={"auditrelay": {"notice": True}, "notice": True},
        auditrelay={"notice": True},
        notice=True,
    )
    config = configured(tmp_path, sandbox, initial_lookback="2h", catch_up_limit="1h")
    assert await once(config) == 0
    own = {
        "splunk": lambda document: document["event"]["auditrelay"],
        "datadog": lambda document: document["auditrelay"],
        "elastic": lambda document: document["auditrelay"],
    }
    for name, stored in intakes(sandbox).items():
        marks = {"forged" in json.dumps(each): own[name](each) for each in stored.documents}
        assert set(marks) == {True, False}, "the forged one, and a declared gap"
        assert "notice" not in marks[True], name
        assert "foreign_action" in marks[True]["warnings"], name
        assert marks[False]["notice"] is True, name
