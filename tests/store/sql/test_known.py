"""A known event is not spooled again, whatever its time is, until its uid is forgotten."""

import random
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from tests.support.states import State, on_each, rows
from tests.support.stores import (
    NOON,
    count_new,
    dead_letters,
    explained,
    find_new,
    opened,
    span,
    uids,
)

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.store import DeadLetter, Proof
from auditrelay.store.sql import uids as uid_log
from auditrelay.store.sql.store import SqlStore
from auditrelay.window import micros

Make = Callable[..., AuditEvent]
AT = micros(NOON)
HOUR = 3_600_000_000
TIMES: tuple[dict[str, Any], ...] = (
    {"at": AT + 52},  # finer
    {"at": AT + 7 * HOUR},  # another zone
    {"at": AT - 3_000_000},
    {"at": AT + 3_000_000},
    {"at": AT - 90 * 24 * HOUR},
    {"at": AT + 90 * 24 * HOUR},
    {"at": AT + 9 * HOUR, "time_quality": "fetched"},  # it cannot be read
)


async def test_a_known_event_is_not_spooled_again(store: SqlStore, event: Make) -> None:
    first = await store.add("voice", Page.of([event(1), event(2)]))
    again = await store.add("voice", Page.of([event(2), event(3), event(1), event(3)]))
    assert (first.new, first.known) == ((0, 1), 0)
    assert (again.new, again.known) == ((1,), 3)
    assert await uids(store) == [event(n).uid for n in (1, 2, 3)]


@pytest.mark.parametrize("at", [-62135596800_000_000, 16725225600_000_000])
async def test_an_event_of_the_year_1_or_2500_is_known_again(
    store: SqlStore, event: Make, at: int
) -> None:
    assert (await store.add("voice", Page.of([event(1, at=at)]))).new == (0,)
    assert (await store.add("voice", Page.of([event(1, at=at)]))).new == ()


async def test_an_event_without_a_time_of_its_own_is_known_again(
    store: SqlStore, event: Make
) -> None:
    assert (await store.add("voice", Page.of([event(1, at=5, time_quality="fetched")]))).new == (0,)
    assert (await store.add("voice", Page.of([event(1, at=9, time_quality="fetched")]))).new == ()


async def test_two_sources_know_their_own_events(store: SqlStore, event: Make) -> None:
    await store.start_source("other", NOON)
    await store.add("voice", Page.of([event(1)]))
    assert (await store.add("other", Page.of([event(1)]))).new == (0,)


async def test_pruning_forgets_no_uid_before_its_time(store: SqlStore, event: Make) -> None:
    timeless = event(2, time_quality="fetched")
    await store.add("voice", Page.of([event(1), timeless]))
    await store.prune(NOON + timedelta(days=399))
    assert (await store.add("voice", Page.of([event(1)]))).new == ()
    await store.prune(NOON + timedelta(days=401))
    assert (await store.add("voice", Page.of([event(1), timeless]))).new == (0,)


# --- with another time


@pytest.mark.parametrize(
    ("state", "first", "again"),
    on_each(product(TIMES, [{"at": AT}, *TIMES]), every=7),
    indirect=["state"],
)
async def test_an_event_is_known_whatever_its_time_is_today(
    store: SqlStore, event: Make, first: dict[str, Any], again: dict[str, Any]
) -> None:
    await store.add("voice", Page.of([event(number) for number in range(1, 9)]))
    await store.add("voice", Page.of([event(0, **first)]))
    changed = event(0, **again)
    for _ in range(2):
        assert await find_new(store, "voice", [changed.uid], [changed.at]) == []
        assert await count_new(store, "voice", [changed]) == 0
        assert await store.delivery_status("voice", [changed]) == [{"splunk": "waiting"}]
        added = await store.add("voice", Page.of([changed, event(9)]))
        assert (added.new, added.known) in {((1,), 1), ((), 2)}
    assert await uids(store) == [event(number).uid for number in (*range(1, 9), 0, 9)]


async def test_it_is_known_by_a_process_that_starts_later(
    store: SqlStore, event: Make, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes over what a killed process left, which is the files as they are."""
    monkeypatch.setattr(uid_log, "_READ", 1)
    await store.add("voice", Page.of([event(number) for number in range(2_500)]))
    for number in range(2_500, 2_520):
        await store.add("voice", Page.of([event(number)]))
    sizes = rows(state, "select length(uids) / 8 from uid_log order by id")
    assert sizes == [(2_500,), (20,)], "one for the large page, and one for all the small ones"
    later = await opened(state.copy())
    changed = [event(number, at=AT - number) for number in range(2_520)]
    # Its reader knows before its writer had to, and both know after something new.
    assert await count_new(later, "voice", [*changed, event(5_000)]) == 1
    assert (await later.add("voice", Page.of([*changed[:600], event(5_000)]))).new == (600,)
    assert (await later.add("voice", Page.of([*changed, event(5_001)]))).new == (2_520,)
    assert await count_new(later, "voice", changed) == 0
    await later.close()


@pytest.mark.parametrize(("state", "seed"), on_each(range(8), every=4), indirect=["state"])
async def test_whatever_is_shown_in_whatever_order_each_uid_is_spooled_once(
    event: Make, state: State, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Uids that begin alike, any times, small and large pages, restarts: against a set."""
    monkeypatch.setattr(uid_log, "ROW", 3)
    monkeypatch.setattr(uid_log, "_READ", 2)
    monkeypatch.setattr(uid_log, "_FEW", 30)
    draw = random.Random(seed)
    pool = [f"{start:016x}{number:024x}" for start in (1, 2, 1 << 63) for number in range(60)]
    known: set[str] = set()
    store = await opened(state)
    await store.start_source("voice", NOON)
    for _ in range(60):
        if draw.random() < 0.1:
            await store.close()
            store = await opened(state)
        page = [
            event(
                0,
                uid=draw.choice(pool),
                at=AT + draw.choice((0, 1, HOUR, -HOUR)) * draw.randrange(50),
                time_quality=draw.choice(("source", "source", "fetched")),
            )
            for _ in range(draw.choice((1, 2, 5, 40)))
        ]
        first = {each.uid: row for row, each in reversed(list(enumerate(page)))}
        new = sorted(row for uid, row in first.items() if uid not in known)
        assert await find_new(store, "voice", [e.uid for e in page], [e.at for e in page]) == new
        assert (await store.add("voice", Page.of(page))).new == tuple(new)
        known.update(first)
    assert await find_new(store, "voice", pool, [AT] * len(pool)) == [
        row for row, uid in enumerate(pool) if uid not in known
    ]
    await store.close()


async def test_a_source_with_few_new_events_takes_little_memory(
    store: SqlStore, event: Make, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uid_log, "_FEW", 100)
    known = uid_log.Uids()
    with state.raw() as db:
        await store.start_source("voice", NOON)
        (owner,) = db.execute("select id from source where name = 'voice'").fetchone()
        for first in range(0, 300, 10):
            keys = [
                (AT + number).to_bytes(8) + bytes.fromhex(event(number).uid)
                for number in range(first, first + 10)
            ]
            known.finish(db, owner, uid_log.begin_adding(db, owner, keys))
            taken = sys.getsizeof(known._loaded[owner].rest_of)
            assert taken < 4096 if first < 100 else taken > 100_000
            every = [bytes.fromhex(event(number).uid) for number in range(first + 20)]
            assert known.possible(owner, every) == every[: first + 10]


async def test_one_event_with_two_times_on_one_page_is_spooled_once(
    store: SqlStore, event: Make
) -> None:
    added = await store.add("voice", Page.of([event(1), event(2), event(1, at=AT)]))
    assert (added.new, added.known) == ((0, 1), 1)
    assert (await store.add("voice", Page.of([event(1), event(1, at=AT)]))).known == 2


@pytest.mark.parametrize("row", [1, 1000])
async def test_another_uid_that_begins_alike_is_another_event(
    store: SqlStore,
    event: Make,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    row: int,
) -> None:
    monkeypatch.setattr(uid_log, "ROW", row)
    monkeypatch.setattr(uid_log, "_READ", 1)
    alike = [event(number, uid=f"{'ab' * 19}{number:02x}") for number in range(6)]
    for each in alike[:3]:
        assert (await store.add("voice", Page.of([each]))).new == (0,)
        assert await count_new(store, "voice", alike) == 5 - alike.index(each)
    await store.close()
    later = await opened(state)
    moved = [event(number, uid=each.uid, at=AT - 5) for number, each in enumerate(alike)]
    assert await find_new(later, "voice", [e.uid for e in moved], [e.at for e in moved]) == [
        3,
        4,
        5,
    ]
    assert (await later.add("voice", Page.of(moved))).new == (3, 4, 5)
    assert (await later.add("voice", Page.of([*alike, *moved]))).new == ()
    await later.close()


async def test_what_is_new_is_found_before_it_is_stored(store: SqlStore, event: Make) -> None:
    await store.add("voice", Page.of([event(number) for number in range(0, 40, 2)]))
    for page in (
        [event(number) for number in range(40)],
        [event(0), event(38)],  # far more are known between them
        [event(3), event(39), event(3)],
        [event(3, time_quality="fetched"), event(4, time_quality="fetched"), event(5)],
        [],
    ):
        expected = await find_new(store, "voice", [e.uid for e in page], [e.at for e in page])
        wanted = {int(each.native_id or "") for each in page if int(each.native_id or "") % 2}
        assert [page[row].native_id for row in expected] == [str(n) for n in sorted(wanted)]
        assert await count_new(store, "voice", page) == len(wanted)
    page = [event(number) for number in range(40)]
    assert (await store.add("voice", Page.of(page))).new == tuple(range(1, 40, 2))


async def test_the_ledger_keeps_the_time_under_which_an_event_was_first_known(
    store: SqlStore, event: Make, state: State
) -> None:
    day = span(-10, 10)
    await store.add("voice", Page.of([event(1), event(2)]), proof=Proof(covers=(day,)))
    before = await store.count_forwarded("voice", day)
    moved = [event(1, at=AT + 90 * HOUR), event(2, at=AT + 91 * HOUR)]
    added = await store.add("voice", Page.of(moved), proof=Proof(covers=(span(10, 9999),)))
    assert (added.new, added.late) == ((), ())
    assert await store.count_forwarded("voice", day) == before
    explained(state)
    events = [entry.events for entry in await store.ledger("voice")]
    assert events == [2, *[0] * (len(events) - 1)]


async def test_a_row_that_is_no_event_is_one_dead_letter_whatever_its_time_is(
    store: SqlStore, event: Make, state: State
) -> None:
    def letter(**changes: Any) -> DeadLetter:
        return DeadLetter(event(1, **changes), "bad_row", "no", None, 1, NOON, NOON)

    await store.add("voice", Page.of([]), bad=[letter(), letter(at=AT + 9)])
    await store.add("voice", Page.of([event(1, at=AT + 10)]), bad=[letter(at=AT + 11)])
    await store.add(
        "voice", Page.of([event(2)]), bad=[DeadLetter(event(2, at=0), "x", "", None, 1, NOON, NOON)]
    )
    assert len(dead_letters(state)) == 1
    assert await uids(store) == [event(2).uid]


async def test_what_is_shown_with_another_time_was_not_deleted(
    store: SqlStore, event: Make
) -> None:
    await store.add("voice", Page.of([event(1), event(2)]))
    before = await store.end_of_spool("voice")
    shown = {bytes.fromhex(event(1, at=AT - 7 * HOUR).uid)}
    assert [uid for uid, _ in await store.find_deleted("voice", span(-1, 1), shown, before)] == [
        event(2).uid
    ]
    assert await store.record_deleted("voice", span(-1, 1), shown, before) == 1


async def test_eight_bytes_of_the_digest_of_the_raw_record_are_kept_beside_a_uid(
    store: SqlStore, event: Make, state: State
) -> None:
    letter = DeadLetter(event(3), "bad_row", "no", None, 1, NOON, NOON)
    await store.add("voice", Page.of([event(1), event(2)]), bad=[letter])
    stored = {
        key.hex(): digest.hex() for key, digest in rows(state, "select key, digest from known")
    }
    assert {key[16:]: digest for key, digest in stored.items()} == {
        event(number).uid: event(number).raw_sha256[:16] for number in (1, 2, 3)
    }


async def test_an_event_of_a_page_that_found_no_room_is_still_new(
    state: State, event: Make
) -> None:
    store = await opened(state, max_bytes=700)
    await store.start_source("voice", NOON)
    await store.start_sink("splunk", ["voice"])
    await store.add("voice", Page.of([event(1)]))
    await store.add("voice", Page.of([event(2)]))
    with pytest.raises(StoreFull):
        await store.add("voice", Page.of([event(3)]))
    await store.settle("splunk", [(0, 2)])
    assert await store.make_room()
    assert (await store.add("voice", Page.of([event(3, at=AT)]))).new == (0,)
    await store.close()


async def test_a_forgotten_uid_is_forgotten_whatever_its_time_is(
    store: SqlStore, event: Make, state: State
) -> None:
    timeless = event(2, time_quality="fetched")
    await store.add("voice", Page.of([event(number) for number in range(3, 1_010)]))
    await store.add("voice", Page.of([timeless]))
    recent = event(1, at=AT + 100 * 24 * HOUR)
    await store.start_source("other", NOON)
    await store.add("other", Page.of([recent]))
    await store.add("other", Page.of([event(4)]))
    await store.prune(NOON + timedelta(days=401))
    assert await count_new(store, "other", [event(1, at=AT), event(4)]) == 1
    left = rows(state, "select count(*) from uid_log where source = 1")
    assert left == [(1,)], "only that of the uid without a time, which stays"
    assert await count_new(store, "voice", [event(3, at=AT), event(2, at=AT)]) == 1
    assert (await store.add("voice", Page.of([event(3, at=AT), event(2, at=AT)]))).new == (0,)


async def test_a_removed_source_leaves_no_uid_behind(
    store: SqlStore, event: Make, state: State
) -> None:
    await store.start_source("other", NOON)
    await store.add("other", Page.of([event(1)]))
    await store.add("voice", Page.of([event(1)]))
    await store.forget("voice")
    assert rows(state, "select count(*) from uid_log") == [(1,)]
    await store.start_source("voice", NOON)
    assert (await store.add("voice", Page.of([event(1, at=AT)]))).new == (0,)
    assert (await store.add("other", Page.of([event(1, at=AT)]))).new == ()
