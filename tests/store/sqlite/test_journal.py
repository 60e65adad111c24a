"""The journal: whoever edits, removes, adds or moves a record, or the ledger itself, is noticed."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from isal import isal_zlib

from auditrelay.errors import StateError
from auditrelay.events import AuditEvent, pack
from auditrelay.store import DeadLetter, Proof, ledger
from auditrelay.store.journal import broken
from auditrelay.store.sqlite import ledger as ledgers
from auditrelay.store.sqlite import state_dir as files
from auditrelay.store.sqlite.journal import Scribe, record, records
from auditrelay.store.sqlite.store import SqliteStore
from auditrelay.store.sqlite.view import StateView
from auditrelay.window import Interval, micros

Make = Callable[..., AuditEvent]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * HOUR, NOON + end * HOUR)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose source 1 has a journal of several kinds of records."""
    files.create(tmp_path)
    with contextlib.closing(files.connect(tmp_path, write=True)) as db:
        for owner, name in ((1, "it"), (2, "other")):
            db.execute("insert into source (id, name, started) values (?, ?, 0)", (owner, name))
        for day in range(3):
            poll = Scribe(db, 1, micros(NOON + day * DAY), "poll")
            ledgers.cover(poll, span(24 * day, 24 * day + 2))
            ledgers.declare(poll, span(24 * day + 2, 24 * day + 3), "retention")
        ledgers.cover(Scribe(db, 1, micros(NOON + 3 * DAY), "backfill"), span(2, 2.5))
        ledgers.cover(Scribe(db, 2, micros(NOON), "poll"), span(0, 1))
        yield db


def judged(db: sqlite3.Connection) -> str | None:
    (head,) = db.execute("select head from source where id = 1").fetchone()
    return broken("it", head, records(db, 1))


def test_every_kind_of_record_is_in_the_chain(db: sqlite3.Connection) -> None:
    assert judged(db) is None
    told = [(each.what, each.via) for each in records(db, 1)]
    assert told == [
        *[("covered", "poll"), ("gap", "poll")] * 3,
        ("filled", "backfill"),
        ("covered", "backfill"),
    ]
    assert ledger.contradicted(ledgers.spans(db, 1), records(db, 1)) is None


@pytest.mark.parametrize("seq", range(1, 9))
@pytest.mark.parametrize(
    "change",
    [
        "recorded = recorded + 1",
        "what = 'late'",
        "start = start + 1",
        "end = end + 1",
        "reason = 'another'",
        "via = 'nobody'",
        "events = events + 1",
        "digest = randomblob(20)",
        "hash = randomblob(32)",
    ],
)
def test_an_edit_of_any_column_of_any_record_is_noticed(
    db: sqlite3.Connection, seq: int, change: str
) -> None:
    db.execute(f"update journal set {change} where source = 1 and seq = ?", (seq,))
    assert f"record {seq} of the journal" in str(judged(db))


@pytest.mark.parametrize("seq", range(1, 9))
def test_a_record_that_is_removed_is_missed(db: sqlite3.Connection, seq: int) -> None:
    db.execute("delete from journal where source = 1 and seq = ?", (seq,))
    assert "missing" in str(judged(db))


@pytest.mark.parametrize("seq", range(1, 9))
def test_a_record_that_is_removed_is_missed_even_if_the_others_close_up(
    db: sqlite3.Connection, seq: int
) -> None:
    db.execute("delete from journal where source = 1 and seq = ?", (seq,))
    for later in range(seq + 1, 9):
        db.execute("update journal set seq = seq - 1 where source = 1 and seq = ?", (later,))
    assert judged(db) is not None


@pytest.mark.parametrize("at", range(1, 10))
def test_a_record_that_is_put_in_is_noticed(db: sqlite3.Connection, at: int) -> None:
    for later in range(8, at - 1, -1):
        db.execute("update journal set seq = seq + 1 where source = 1 and seq = ?", (later,))
    db.execute(
        "insert into journal select 1, ?, recorded, what, start, end, reason, via, events, "
        "digest, hash from journal where source = 2",
        (at,),
    )
    assert judged(db) is not None


@pytest.mark.parametrize("seq", range(1, 8))
def test_two_records_that_changed_places_are_noticed(db: sqlite3.Connection, seq: int) -> None:
    for old, new in ((seq, 99), (seq + 1, seq), (99, seq + 1)):
        db.execute("update journal set seq = ? where source = 1 and seq = ?", (new, old))
    assert judged(db) is not None


def test_the_end_of_the_journal_cannot_be_cut_off(db: sqlite3.Connection) -> None:
    db.execute("delete from journal where source = 1 and seq > 4")
    assert judged(db) == ("the journal does not end with its last record: some after 4 is missing")
    db.execute("delete from journal where source = 1")
    assert judged(db) == "the whole journal is missing"


def test_the_journal_of_one_source_is_not_that_of_another(db: sqlite3.Connection) -> None:
    other, head = records(db, 2), db.execute("select head from source where id = 2").fetchone()[0]
    assert broken("other", head, other) is None
    assert broken("it", head, other) is not None


def test_what_would_be_hashed_is_the_record_as_it_stands(db: sqlite3.Connection) -> None:
    """A number that is spelled otherwise, or a text cut otherwise, is another record."""
    journal = records(db, 1)
    head = journal[-1].hash
    for change in ({"reason": ""}, {"via": "pol"}, {"seq": 2}, {"start": 0}):
        edited = [replace(journal[0], **change), *journal[1:]]
        assert broken("it", head, edited) is not None, change


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("update coverage set end = end + 1 where gap is null", "what is covered"),
        ("update coverage set start = start - 1 where gap is null", "what is covered"),
        ("delete from coverage where gap is null", "what is covered"),
        ("delete from coverage where gap is not null", "what is a gap"),
        ("update coverage set gap = 'retention' where gap is null", "what is covered"),
        ("update coverage set end = end + 1 where gap is not null", "what is a gap"),
        ("update coverage set events = 7 where gap is null", "holds 7 events"),
        ("update coverage set digest = randomblob(20) where gap is null", "or others than those"),
    ],
)
def test_a_ledger_that_says_anything_else_than_its_journal_is_noticed(
    db: sqlite3.Connection, edit: str, words: str
) -> None:
    db.execute(edit)
    assert judged(db) is None, "the journal itself is whole"
    assert words in str(ledger.contradicted(ledgers.spans(db, 1), records(db, 1)))


def test_a_record_grows_for_a_day_and_then_another_begins(db: sqlite3.Connection) -> None:
    before = len(records(db, 2))
    for minute in range(60, 120, 5):
        now = NOON + timedelta(minutes=minute)
        ledgers.cover(Scribe(db, 2, micros(now), "poll"), Interval(now, now + timedelta(minutes=5)))
    assert len(records(db, 2)) == before
    (grown,) = records(db, 2)
    assert (grown.start, grown.end) == (micros(NOON), micros(NOON + 2 * HOUR))
    ledgers.cover(Scribe(db, 2, micros(NOON + 2 * HOUR), "backfill"), span(2, 3))
    ledgers.cover(Scribe(db, 2, micros(NOON + DAY), "poll"), span(12, 13))
    assert [each.via for each in records(db, 2)] == ["poll", "backfill", "poll"]
    (head,) = db.execute("select head from source where id = 2").fetchone()
    assert broken("other", head, records(db, 2)) is None


def test_a_record_does_not_grow_once_many_others_came_after_it(db: sqlite3.Connection) -> None:
    """What grows has everything behind it hashed anew; that must stay cheap."""
    for number in range(60):
        record(Scribe(db, 2, micros(NOON), f"reader {number}"), "covered", 0, 1)
    ledgers.cover(Scribe(db, 2, micros(NOON + HOUR), "poll"), span(1, 2))
    journal = records(db, 2)
    assert len(journal) == 62
    assert journal[0].end == micros(NOON + HOUR), "the old one is left alone"
    (head,) = db.execute("select head from source where id = 2").fetchone()
    assert broken("other", head, journal) is None


# --- what was written before there was a journal

SCHEMA_1 = """
create table meta (name text primary key, value any) strict, without rowid;
create table source (
    id integer primary key,
    name text not null unique,
    started integer not null,
    condition text not null default '{}'
) strict;
create table coverage (
    source integer not null,
    start integer not null,
    end integer not null,
    gap text,
    events integer not null default 0,
    digest blob not null,
    recorded integer not null,
    primary key (source, start)
) strict, without rowid;
create table resweep (
    source integer not null,
    delay integer not null,
    until integer not null,
    primary key (source, delay)
) strict, without rowid;
create table known (
    source integer not null,
    key blob not null,
    position integer not null,
    primary key (source, key)
) strict, without rowid;
create table spool (
    first integer primary key,
    count integer not null,
    source integer not null,
    stored integer not null,
    bytes integer not null,
    events blob not null
) strict;
create table sink (
    id integer primary key,
    name text not null unique,
    sources text not null,
    position integer not null,
    ahead text not null default '[]',
    ends integer,
    condition text not null default '{}'
) strict;
create table dead_letter (
    id integer primary key autoincrement,
    sink integer not null,
    source text not null,
    uid text not null,
    native_id text,
    reason text not null,
    status integer,
    message text not null,
    attempts integer not null,
    first_at integer not null,
    last_at integer not null,
    event blob not null
) strict;
create index dead_letter_sink on dead_letter (sink);
insert into meta values ('next_position', 0), ('spool_bytes', 0);
"""


def old_state(folder: Path, events: list[AuditEvent]) -> None:
    """Write a state as the first version did: *events*, the last of them put aside, and a gap."""
    path = folder / files.DATABASE
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


async def opened(folder: Path) -> SqliteStore:
    return await SqliteStore.open(folder, max_bytes=1 << 30, retention=7 * DAY, remember=400 * DAY)


async def test_a_state_of_the_first_version_is_brought_up_to_date_with_everything_in_it(
    tmp_path: Path, event: Make
) -> None:
    events = [event(number) for number in range(5)]
    old_state(tmp_path, events)
    with pytest.raises(StateError, match="brought up to date when the service starts"):
        StateView(tmp_path)
    for _ in range(2):  # and once it is, it stays so
        store = await opened(tmp_path)
        assert (await store.add("voice", events)).new == (), "it knows what it knew"
        pages = await store.read("splunk", 0, 100)
        assert [each for page in pages for each in page.events] == events[2:]
        assert await store.fates("voice", events) == [
            *[{"splunk": "delivered"}] * 2,
            *[{"splunk": "waiting"}] * 2,
            {"splunk": "dead_letter"},
        ]
        (letter,) = await store.dead_letters()
        assert (letter.id, letter.sink, letter.letter.event) == (7, "splunk", events[4])
        assert (letter.letter.reason, letter.letter.status, letter.replayed) == (
            "invalid",
            400,
            False,
        )
        await store.close()
    with StateView(tmp_path) as view:
        known = view.coverage("voice")
    assert known is not None
    assert [(each.what, each.via) for each in known.journal] == [
        ("gap", "before the journal"),
        ("covered", "before the journal"),
    ]
    assert broken("voice", known.head, known.journal) is None
    assert ledger.contradicted(known.spans, known.journal) is None
    assert known.differs is None


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
        assert await store.dead_letters() == []
        late = event(2, uid="ab" * 20)
        added = await store.add(
            "voice", [late], proof=Proof(covers=(span(1, 2),)), via="second look 1h"
        )
        assert added.late == (0,)
        letter = DeadLetter(event(9), "bad_row", "no", None, 1, NOON, NOON)
        await store.add("voice", [], bad=[letter])
        assert [each.sink for each in await store.dead_letters()] == [None]
        assert (await store.begin_backfill("voice", span(0, 1), [], NOON)).done == ()
    finally:
        await store.close()
    with StateView(tmp_path) as view:
        known = view.coverage("voice")
    assert known is not None
    assert broken("voice", known.head, known.journal) is None
    assert ledger.contradicted(known.spans, known.journal) is None


async def test_an_upgrade_that_fails_leaves_the_old_state_as_it_was(
    tmp_path: Path, event: Make
) -> None:
    old_state(tmp_path, [event(0)])
    path = tmp_path / files.DATABASE
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table vanished (not_ours)")  # something is in the way
        db.commit()
        before = list(db.iterdump())
    with pytest.raises(StateError):
        await opened(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("pragma user_version").fetchone() == (1,)
