"""A state of an older schema is upgraded with everything in it, or left unchanged."""

import contextlib
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from isal import isal_zlib
from tests.support.older_states import SCHEMA_1, make_older
from tests.support.stores import NOON, backlog, dead_letters, explained, opened, seal

from auditrelay.errors import StateError
from auditrelay.events import AuditEvent, pack
from auditrelay.events.page import Page
from auditrelay.store import DeadLetter, Proof, RejectedEvent
from auditrelay.store.sqlite import schema, state_dir
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.state_dir import DATABASE, prepare
from auditrelay.store.sqlite.store import open_view
from auditrelay.window import Interval

Make = Callable[..., AuditEvent]
HOUR = timedelta(hours=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * HOUR, NOON + end * HOUR)


def old_state(folder: Path, events: list[AuditEvent]) -> None:
    """Write a state as version 1 did: *events*, the last of them a dead letter, and a gap."""
    path = folder / DATABASE
    path.touch(mode=0o600)
    blob = isal_zlib.compress(pack(events), 1)
    first, last = events[0].at, events[-1].at + 1
    digest = 0
    for event in events:
        digest ^= int(event.uid, 16)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(f"pragma auto_vacuum = incremental; {SCHEMA_1}")
        db.execute("pragma application_id = 0x41524C59")
        db.execute("pragma user_version = 1")
        db.execute("insert into source values (1, 'voice', ?, '{}')", (first - 9,))
        db.execute("insert into sink values (1, 'splunk', '[\"voice\"]', 2, '[]', null, '{}')")
        db.execute(
            "insert into spool values (0, ?, 1, ?, ?, ?)", (len(events), first, len(blob), blob)
        )
        db.execute("update meta set value = ? where name = 'next_position'", (len(events),))
        db.execute("update meta set value = ? where name = 'spool_bytes'", (len(blob),))
        for position, event in enumerate(events):
            key = (event.at + (1 << 63)).to_bytes(8) + bytes.fromhex(event.uid)
            db.execute("insert into known values (1, ?, ?)", (key, position))
        db.execute(
            "insert into coverage values (1, ?, ?, 'catch_up_limit', 0, zeroblob(20), ?)",
            (first - 9, first, first),
        )
        db.execute(
            "insert into coverage values (1, ?, ?, null, ?, ?, ?)",
            (first, last, len(events), digest.to_bytes(20), first),
        )
        db.execute(
            "insert into dead_letter "
            "values (7, 1, 'voice', ?, ?, 'invalid', 400, 'no', 2, ?, ?, ?)",
            (
                events[-1].uid,
                events[-1].native_id,
                first,
                first,
                pack([events[-1]]),
            ),
        )
        db.commit()


async def test_a_state_of_the_first_version_is_brought_up_to_date_with_everything_in_it(
    tmp_path: Path, event: Make
) -> None:
    events = [event(number) for number in range(5)]
    old_state(tmp_path, events)
    with pytest.raises(StateError, match="the next start of the service upgrades it"):
        open_view(tmp_path)
    for _ in range(2):  # and once it is, it stays so
        store = await opened(tmp_path)
        assert (await store.add("voice", Page.of(events))).new == (), "it knows what it knew"
        edited = [msgspec.structs.replace(each, at=each.at + 52) for each in events]
        assert (await store.add("voice", Page.of(edited))).new == (), "whatever its time is today"
        pages = await backlog(store)
        assert [each for page in pages for each in page.events] == events[2:]
        assert await store.delivery_status("voice", events) == [
            *[{"splunk": "delivered"}] * 2,
            *[{"splunk": "waiting"}] * 2,
            {"splunk": "dead_letter"},
        ]
        (letter,) = dead_letters(tmp_path)
        assert (letter.id, letter.sink, letter.letter.event) == (7, "splunk", events[4])
        assert (letter.letter.reason, letter.letter.status, letter.replayed) == (
            "invalid",
            400,
            False,
        )
        await store.close()
    with open_view(tmp_path) as view:
        known = view.coverage("voice")
    assert known is not None
    assert [(what, via) for _, _, what, _, _, _, via, *_ in known.facts[0].body["records"]] == [
        ("gap", "before the journal"),
        ("covered", "before the journal"),
    ]
    explained(tmp_path)


async def test_what_is_new_works_on_a_state_that_was_brought_up_to_date(
    tmp_path: Path, event: Make
) -> None:
    events = [event(number) for number in range(5)]
    old_state(tmp_path, events)
    store = await opened(tmp_path)
    try:
        await store.start_sink("splunk", ["voice"])
        (sent,) = await store.replay([7])
        assert sent.sink == "splunk"
        await store.settle("splunk", [(0, 6)])
        assert dead_letters(tmp_path) == []
        late = event(2, uid="ab" * 20)
        added = await store.add(
            "voice", Page.of([late]), proof=Proof(covers=(span(1, 2),)), via="resweep 1h"
        )
        assert added.late == (0,)
        explained(tmp_path)
        letter = DeadLetter(event(9), "bad_row", "no", None, 1, NOON, NOON)
        await store.add("voice", Page.of([]), bad=[letter])
        assert [each.sink for each in dead_letters(tmp_path)] == [None]
        assert (await store.begin_backfill("voice", span(0, 1), [], NOON)).done == ()
    finally:
        await store.close()
    explained(tmp_path)


@pytest.mark.parametrize("version", [2, 3])
async def test_a_dead_letter_that_was_being_replayed_is_delivered_after_an_upgrade(
    tmp_path: Path, event: Make, version: int
) -> None:
    store = await opened(tmp_path)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", Page.of([event(1), event(2)]))
    rejected = [RejectedEvent(place, "invalid", "no", 400, 1, NOON, NOON) for place in (0, 1)]
    await store.settle("splunk", [(0, 2)], rejected)
    await store.replay([1])
    await store.close()
    make_older(tmp_path, version)
    store = await opened(tmp_path)
    try:
        explained(tmp_path)
        await store.settle("splunk", [(2, 3)])
        assert [each.id for each in dead_letters(tmp_path)] == [2]
        explained(tmp_path)
        await seal(store)
    finally:
        await store.close()
    explained(tmp_path, sealed=True)


@pytest.mark.parametrize("table", ["vanished", "uid_log", "entry"])
async def test_an_upgrade_that_fails_leaves_the_old_state_as_it_was(
    tmp_path: Path, event: Make, table: str
) -> None:
    old_state(tmp_path, [event(0)])
    path = tmp_path / DATABASE
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"create table {table} (not_ours)")  # something is in the way
        db.commit()
        before = list(db.iterdump())
    with pytest.raises(StateError):
        await opened(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("pragma user_version").fetchone() == (1,)


async def test_an_upgrade_without_room_is_not_taken_for_damage(
    tmp_path: Path, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_state(tmp_path, [event(number) for number in range(300)])
    path = tmp_path / DATABASE
    before = path.stat().st_size

    def without_room(db: Connection) -> None:
        db.execute("pragma max_page_count = 1")  # no more than it has
        schema.upgrade(db)

    with monkeypatch.context() as patch:
        patch.setattr(state_dir, "upgrade", without_room)
        with pytest.raises(StateError, match="make room and start again") as no:
            await opened(tmp_path)
    assert "damaged" not in str(no.value)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma user_version").fetchone() == (1,)
    assert path.stat().st_size == before
    await (await opened(tmp_path)).close()


def tables(folder: Path) -> dict[str, list[tuple[str, str, int, int]]]:
    """Return by table its columns: name, type, whether it may be null, place in the key."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as db:
        names = db.execute(
            "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'"
        ).fetchall()
        return {
            name: [
                (column, kind, null, key)
                for _, column, kind, null, _, key in db.execute(f"pragma table_info({name})")
            ]
            for (name,) in names
        }


async def test_an_upgraded_state_has_the_tables_of_a_new_one(tmp_path: Path, event: Make) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        prepare(folder)
    old_state(old, [event(0)])
    for folder in (old, new):
        await (await opened(folder)).close()
    upgraded, made = tables(old), tables(new)
    assert upgraded.keys() == made.keys()
    for name, columns in made.items():
        assert sorted(upgraded[name]) == sorted(columns)
