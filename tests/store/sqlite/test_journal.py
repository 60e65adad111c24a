"""The journal: a record edited, removed, added or moved is found, and so is an edited ledger."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.support.stores import NOON

from auditrelay.events import AuditEvent
from auditrelay.store import Proof
from auditrelay.store.contradictions import find_contradiction
from auditrelay.store.journal import Change, find_break
from auditrelay.store.sqlite import intake
from auditrelay.store.sqlite import ledger as ledgers
from auditrelay.store.sqlite.journal import extended, records, write
from auditrelay.store.sqlite.state_dir import connect, create
from auditrelay.window import Interval, micros

Make = Callable[..., AuditEvent]
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def span(start: float, end: float) -> Interval:
    return Interval(NOON + start * HOUR, NOON + end * HOUR)


def cover(
    db: sqlite3.Connection, owner: int, span: Interval, now: datetime, via: str = "poll"
) -> None:
    intake.enter(db, owner, Proof(covers=(span,)), now=micros(now), via=via)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose source 1 has a journal of several kinds of records."""
    create(tmp_path)
    with contextlib.closing(connect(tmp_path, write=True)) as db:
        for owner, name in ((1, "it"), (2, "other")):
            db.execute("insert into source (id, name, started) values (?, ?, 0)", (owner, name))
        for day in range(3):
            gap = (span(24 * day + 2, 24 * day + 3), "retention")
            proof = Proof(covers=(span(24 * day, 24 * day + 2),), gaps=(gap,))
            intake.enter(db, 1, proof, now=micros(NOON + day * DAY), via="poll")
        cover(db, 1, span(2, 2.5), NOON + 3 * DAY, "backfill")
        cover(db, 2, span(0, 1), NOON)
        yield db


def judged(db: sqlite3.Connection) -> str | None:
    (head,) = db.execute("select head from source where id = 1").fetchone()
    return find_break("it", head, records(db, 1))


def test_every_kind_of_record_is_in_the_chain(db: sqlite3.Connection) -> None:
    assert judged(db) is None
    assert [(each.what, each.via) for each in records(db, 1)] == [
        *[("covered", "poll"), ("gap", "poll")] * 3,
        ("filled", "backfill"),
        ("covered", "backfill"),
    ]
    assert find_contradiction(ledgers.spans(db, 1), records(db, 1)) is None


@pytest.mark.parametrize("seq", range(1, 9))
@pytest.mark.parametrize(
    "change",
    [
        "recorded = recorded + 1",
        "what = 'late'",
        "start = start + 1",
        "end = end + 1",
        "reason = 'another'",
        "via = 'another'",
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
    assert judged(db) == ("the journal was cut off: at least one record after record 4 is missing")
    db.execute("delete from journal where source = 1")
    assert judged(db) == "the whole journal is missing"


def test_the_journal_of_one_source_is_not_that_of_another(db: sqlite3.Connection) -> None:
    other, head = records(db, 2), db.execute("select head from source where id = 2").fetchone()[0]
    assert find_break("other", head, other) is None
    assert find_break("it", head, other) is not None


def test_the_hash_depends_on_the_exact_spelling_of_a_record(db: sqlite3.Connection) -> None:
    """A number or text that is spelled differently is another record."""
    journal = records(db, 1)
    head = journal[-1].hash
    for change in ({"reason": ""}, {"via": "pol"}, {"seq": 2}, {"start": 0}):
        edited = [replace(journal[0], **change), *journal[1:]]
        assert find_break("it", head, edited) is not None, change


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("update coverage set end = end + 1 where gap is null", "what is covered"),
        ("update coverage set start = start - 1 where gap is null", "what is covered"),
        ("delete from coverage where gap is null", "what is covered"),
        ("delete from coverage where gap is not null", "what is a gap"),
        ("update coverage set gap = 'retention' where gap is null", "what is covered"),
        ("update coverage set end = end + 1 where gap is not null", "what is a gap"),
        ("update coverage set events = 7 where gap is null", "counts 7 events"),
        ("update coverage set digest = randomblob(20) where gap is null", "or not the same ones"),
    ],
)
def test_a_ledger_that_contradicts_its_journal_is_found(
    db: sqlite3.Connection, edit: str, words: str
) -> None:
    db.execute(edit)
    assert judged(db) is None, "the journal itself is whole"
    assert words in str(find_contradiction(ledgers.spans(db, 1), records(db, 1)))


def test_a_record_grows_for_a_day_and_then_another_begins(db: sqlite3.Connection) -> None:
    before = len(records(db, 2))
    for minute in range(60, 120, 5):
        now = NOON + timedelta(minutes=minute)
        cover(db, 2, Interval(now, now + timedelta(minutes=5)), now)
    assert len(records(db, 2)) == before
    (grown,) = records(db, 2)
    assert (grown.start, grown.end) == (micros(NOON), micros(NOON + 2 * HOUR))
    cover(db, 2, span(2, 3), NOON + 2 * HOUR, "backfill")
    cover(db, 2, span(12, 13), NOON + DAY)
    assert [each.via for each in records(db, 2)] == ["poll", "backfill", "poll"]
    (head,) = db.execute("select head from source where id = 2").fetchone()
    assert find_break("other", head, records(db, 2)) is None


def test_a_record_does_not_grow_once_many_others_came_after_it(db: sqlite3.Connection) -> None:
    """All records after a grown one are rehashed; that must stay cheap."""
    for number in range(60):
        change = Change("covered", 0, 1)
        write(db, 2, extended(db, 2, [change], now=micros(NOON), via=f"reader {number}"))
    cover(db, 2, span(1, 2), NOON + HOUR)
    journal = records(db, 2)
    assert len(journal) == 62
    assert journal[0].end == micros(NOON + HOUR), "the old one does not grow"
    (head,) = db.execute("select head from source where id = 2").fetchone()
    assert find_break("other", head, journal) is None
