"""The journal without a database: which record grows, and which are hashed again."""

import hashlib

import pytest

from auditrelay.store.journal import (
    DAY,
    FIRST_HASH,
    REACH,
    TAIL,
    Change,
    Record,
    extend,
    find_break,
    folded,
    xor,
)

MORNING = 20_000 * DAY
HOUR = DAY // 24


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 1001])
def test_the_digest_of_uids_is_the_exclusive_or_of_each_of_them(count: int) -> None:
    uids = [hashlib.sha256(b"%d" % number).digest()[:20] for number in range(count)]
    total = 0
    for uid in uids:
        total ^= int.from_bytes(uid)
    assert xor(*uids) == folded(b"".join(uids)) == total.to_bytes(20)


def polled(hour: int, **changes: int) -> Change:
    start = MORNING + hour * HOUR
    return Change("covered", start, start + HOUR, **changes)  # type: ignore[arg-type]  # events


def grown(tail: list[Record], *changes: Change, hour: int = 0, via: str = "poll") -> list[Record]:
    """Return the journal after *changes*, which only sees what a store reads of it."""
    changed = extend("it", tail[-TAIL:], changes, now=MORNING + hour * HOUR, via=via)
    journal = [*tail[: changed[0].seq - 1], *changed]
    assert find_break("it", journal[-1].hash, journal) is None
    return journal


def test_a_record_grows_until_its_day_ends() -> None:
    journal = grown([], polled(0, events=1), polled(1, events=2))
    (record,) = journal
    assert (record.start, record.end, record.events) == (MORNING, MORNING + 2 * HOUR, 3)
    assert len(grown(journal, polled(2), hour=25)) == 2, "it was recorded yesterday"
    journal = grown([], *map(polled, range(24)))
    assert len(grown(journal, polled(24))) == 2, "it starts yesterday"


@pytest.mark.parametrize(
    "change",
    [
        Change("gap", MORNING + HOUR, MORNING + 2 * HOUR, "retention"),
        Change("covered", MORNING + HOUR + 1, MORNING + 2 * HOUR),
        Change("late", MORNING + HOUR, MORNING + 2 * HOUR),
    ],
)
def test_only_what_continues_a_record_extends_it(change: Change) -> None:
    assert len(grown(grown([], polled(0)), change)) == 2
    assert len(grown(grown([], polled(0)), polled(1), via="backfill")) == 2


def test_late_events_belong_to_the_entry_that_starts_there() -> None:
    late = Change("late", MORNING, MORNING + HOUR, events=1)
    journal = grown([], late, Change("late", MORNING, MORNING + 3 * HOUR, events=2))
    (record,) = journal
    assert (record.end, record.events) == (MORNING + 3 * HOUR, 3)


@pytest.mark.parametrize("between", [0, 1, REACH - 1, REACH, REACH + 1])
def test_a_record_grows_while_at_most_so_many_came_after_it(between: int) -> None:
    journal = grown([], polled(0))
    for number in range(between):
        journal = grown(journal, polled(0), via=f"reader {number}")
    after = grown(journal, polled(1))
    assert len(after) == len(journal) + (between > REACH)
    assert (after[0].hash != journal[0].hash) == (between <= REACH)


def test_several_changes_are_one_after_the_other() -> None:
    """Each one counts towards the reach of the next, as if it had been entered before."""
    alone = [Change("gap", hour * HOUR, hour * HOUR + 1, "retention") for hour in range(3 * REACH)]
    at_once = grown(grown([], polled(0)), *alone, polled(1))
    journal = grown([], polled(0))
    for change in (*alone, polled(1)):
        journal = grown(journal, change)
    assert at_once == journal


def test_the_first_record_is_bound_to_nothing() -> None:
    (record,) = grown([], polled(0))
    assert record.seq == 1
    assert record.hash != FIRST_HASH
