"""The rows of the replicas, on a server: who may take what, and when."""

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.support.replicas import connection
from tests.support.shared_state import SCHEMA, raw

from auditrelay.store.leases import Lease
from auditrelay.store.postgres import leases
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.replicas import LIFE, Card, LeaseRow, Replica, Served, Situation

pytestmark = pytest.mark.process

T = TypeVar("T")

UNITS = ("keeper", "sink s", "source a", "source b")

PARTS = ("sink s 0/2", "sink s 1/2")


class Seen:
    """A replica in a test, which does one transaction after the other."""

    def __init__(self, address: str, *, seat: str | None = None, command: bool = False) -> None:
        self.id = uuid4()
        self.db = connection(address, leases.application_name(self.id))
        serves = {unit: Served("d") for unit in UNITS}
        self.card = Card(name="r", version="1", serves=serves, seat=seat, command=command)

    def do(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        self.db.begin(write=True, alone=alone)
        try:
            done = work(self.db)
            self.db.commit()
        except psycopg.Error:
            self.db.roll_back()
            raise
        return done

    def join(self) -> "Seen":
        self.do(lambda db: leases.join(db, self.id, self.card))
        return self

    def see(self) -> Situation:
        return self.do(lambda db: leases.situation(db, self.id))

    def row(self, unit: str) -> LeaseRow:
        (found,) = [row for row in self.see().leases if row.unit == unit]
        return found

    def replica(self, replica: UUID) -> Replica:
        (found,) = [each for each in self.see().replicas if each.id == replica]
        return found

    def beat(self) -> None:
        self.do(lambda db: leases.beat(db, self.id, draining=False, info={}))

    def take(self, *units: str, dead: tuple[UUID, ...] = ()) -> list[Lease]:
        return self.do(lambda db: leases.take(db, self.id, units, dead), alone=True)


@pytest.fixture
def joined(database: str) -> Iterator[Callable[..., Seen]]:
    """Makes replicas that have joined."""
    with contextlib.ExitStack() as stack:

        def join(**options: object) -> Seen:
            made = Seen(database, **options)  # type: ignore[arg-type]  # those of Seen
            stack.callback(made.db.close)
            return made.join()

        yield join


@pytest.fixture
def sql(database: str) -> Iterator[Callable[..., None]]:
    with raw(database) as connection:
        connection.execute(f"set search_path to {SCHEMA}")

        def execute(statement: str, *values: object) -> None:
            connection.execute(statement, values)

        yield execute


Joined = Callable[..., Seen]
Sql = Callable[..., None]


def expire(sql: Sql, replica: Seen) -> None:
    sql(
        "update replica set expires = clock_timestamp() - interval '1 ms' where id = %s", replica.id
    )


def test_who_joins_is_seen_by_all_with_what_it_serves(joined: Joined) -> None:
    one, two = joined(), joined(command=True)
    for seen in (one.see(), two.see()):
        assert {each.id for each in seen.replicas} == {one.id, two.id}
        assert {each.id for each in seen.replicas if each.command} == {two.id}
        assert [row.unit for row in sorted(seen.leases, key=lambda row: row.unit)] == list(UNITS)
        assert all(each.fresh and dict(each.serves) == one.card.serves for each in seen.replicas)
        assert (seen.end, seen.heads, seen.writes) == (0, 0, 0)


def test_a_beat_gives_ten_seconds_and_says_what_is_new(joined: Joined, sql: Sql) -> None:
    one = joined()
    expire(sql, one)
    assert not one.replica(one.id).fresh
    one.do(lambda db: leases.beat(db, one.id, draining=True, info={"stuck": ["x"]}))
    found = one.replica(one.id)
    assert (found.beats, found.draining, found.info) == (1, True, {"stuck": ["x"]})
    assert LIFE - 2 < found.expires_in <= LIFE


def test_a_beat_that_had_to_wait_expires_sooner_and_shows_it(
    joined: Joined, sql: Sql, database: str
) -> None:
    one = joined()
    with raw(database) as other, other.transaction():
        other.execute(f"select from {SCHEMA}.replica for update")
        beating = Thread(target=one.beat)
        beating.start()
        _wait_until_blocked(other, 1)
        other.execute("select pg_sleep(0.4)")
    beating.join()
    found = one.replica(one.id)
    assert found.beats == 1
    assert found.expires_in < LIFE - 0.4


def test_a_beat_does_not_wait_longer_than_a_second(joined: Joined, database: str) -> None:
    one = joined()
    with raw(database) as other, other.transaction():
        other.execute(f"select from {SCHEMA}.replica for update")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            one.beat()
        assert time.monotonic() - began < 5
    one.beat()


def _wait_until_blocked(connection: psycopg.Connection[tuple[object, ...]], count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    while True:
        row = connection.execute(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        ).fetchone()
        if row == (count,):
            return
        connection.execute("select pg_stat_clear_snapshot()")


def test_what_is_free_is_taken_with_a_new_token_each_time(joined: Joined) -> None:
    one, two = joined(), joined()
    (lease,) = one.take("source a")
    assert (lease.unit, lease.epoch) == ("source a", 1)
    row = two.row("source a")
    assert (row.token, row.holder, row.epoch) == (lease.token, one.id, 1)
    assert two.take("source a") == []
    assert {lease.unit for lease in two.take("source a", "source b")} == {"source b"}
    one.do(lambda db: leases.give(db, lease))
    (again,) = two.take("source a")
    assert again.epoch == 2
    assert again.token != lease.token
    one.do(lambda db: leases.give(db, lease))  # it is not that one any more
    assert two.row("source a").holder == two.id


@pytest.mark.parametrize(
    ("expired", "stands_still", "taken"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_holder_is_robbed_only_if_both_witnesses_say_that_it_is_dead(
    joined: Joined, sql: Sql, *, expired: bool, stands_still: bool, taken: bool
) -> None:
    one, two = joined(), joined()
    one.take("source a")
    if expired:
        expire(sql, one)
    got = two.take("source a", dead=(one.id,) if stands_still else ())
    assert bool(got) is taken


def test_a_sink_is_not_held_in_two_numbers_of_parts(joined: Joined) -> None:
    one, two = joined(), joined()
    for unit in (*PARTS, "sink s 0/12", "sink s.2 0/12", "sink t"):
        two.do(lambda db, unit=unit: leases.ensure_units(db, [unit]))  # type: ignore[misc]  # now
    (whole,) = one.take("sink s")
    assert two.take(*PARTS, "sink s.2 0/12", "sink s 0/12") != []
    assert {row.unit for row in two.see().leases if row.holder == two.id} == {"sink s.2 0/12"}
    one.do(lambda db: leases.give(db, whole))
    (first,) = one.take(PARTS[0])
    (second,) = two.take(PARTS[1])
    assert [*one.take("sink s", "sink s 0/12"), *two.take("sink s", "sink s 0/12")] == []
    one.do(lambda db: leases.give(db, first))
    assert one.take("sink s") == []
    two.do(lambda db: leases.give(db, second))
    assert len(one.take("sink s", "sink t")) == 2


def test_what_the_dead_hold_of_a_sink_in_other_parts_is_taken_from_them(
    joined: Joined, sql: Sql
) -> None:
    """Else one that was frozen could go on with it."""
    one, two = joined(), joined()
    two.do(lambda db: leases.ensure_units(db, PARTS))
    one.take("sink s")
    expire(sql, one)
    assert two.take(*PARTS) == [], "it was not seen standing still"
    (second,) = two.take(PARTS[1], dead=(one.id,))
    assert second.unit == PARTS[1]
    row = two.row("sink s")
    assert (row.token, row.holder) == (None, None)
    sql("delete from replica where id = %s", two.id)
    three = joined()
    assert len(three.take("sink s")) == 1
    assert three.row(PARTS[1]).token is None


def test_a_holder_without_a_row_is_dead_and_one_without_a_row_takes_nothing(
    joined: Joined, sql: Sql
) -> None:
    one, two = joined(), joined()
    one.take("source a")
    sql("delete from replica where id = %s", one.id)
    assert one.take("source b") == []
    assert len(two.take("source a", "source b")) == 2


def test_two_takers_at_once_never_both_get_it(joined: Joined) -> None:
    replicas = [joined() for _ in range(4)]
    got: list[tuple[UUID, Lease]] = []
    for _ in range(10):
        before = len(got)
        takers = [
            Thread(target=lambda by=each: got.extend((by.id, x) for x in by.take(*UNITS)))
            for each in replicas
        ]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        taken = got[before:]
        assert sorted(lease.unit for _, lease in taken) == list(UNITS)
        by_id = {each.id: each for each in replicas}
        for by, lease in taken:
            assert by_id[by].row(lease.unit).holder == by
            by_id[by].do(lambda db, it=lease: leases.give(db, it))  # type: ignore[misc]


def test_a_row_that_another_session_has_locked_is_left_for_the_next_time(
    joined: Joined, database: str
) -> None:
    one = joined()
    with raw(database) as other, other.transaction():
        other.execute(f"select from {SCHEMA}.lease where unit = 'source a' for update")
        assert [lease.unit for lease in one.take("source a", "source b")] == ["source b"]
    assert [lease.unit for lease in one.take("source a")] == ["source a"]


def test_a_take_waits_for_the_transaction_that_writes(joined: Joined, database: str) -> None:
    one, two = joined(), joined()
    (lease,) = one.take("source a")
    one.db.begin(write=True)  # a write under the lease, which has not been committed yet
    one.db.execute("select fence(?, 0, ?, ?)", (one.id, [lease.unit], [lease.token])).fetchone()
    got: list[Lease] = []
    taker = Thread(target=lambda: got.extend(two.take("source b")))
    taker.start()
    with raw(database) as other:
        _wait_until_blocked(other, 1)
    assert not got
    one.db.commit()
    taker.join()
    assert len(got) == 1


def test_what_a_replica_wants_others_do_not_take_while_that_one_lives(
    joined: Joined, sql: Sql
) -> None:
    one, two, three = joined(), joined(), joined()
    (lease,) = one.take("source a")
    one.do(lambda db: leases.want(db, {"source a": two.id, "source b": two.id}))
    assert one.row("source a").wanted_by == two.id
    assert one.row("source b").wanted_by is None  # it has no holder who could give it
    one.do(lambda db: leases.give(db, lease))
    assert three.take("source a") == []
    (moved,) = two.take("source a")
    assert two.row("source a").wanted_by is None
    two.do(lambda db: leases.want(db, {"source a": one.id}))
    two.do(lambda db: leases.give(db, moved))
    expire(sql, one)
    assert len(three.take("source a")) == 1


def test_who_has_locked_the_seat_frees_what_its_predecessor_held(joined: Joined) -> None:
    before, other = joined(seat="boot:1:2"), joined(seat="boot:1:3")
    before.take("source a")
    other.take("source b")
    after = joined(seat="boot:1:2")
    assert {each.id for each in after.see().replicas} == {other.id, after.id}
    assert {lease.unit for lease in after.take(*UNITS)} == {"keeper", "sink s", "source a"}
    assert before.see().writes is None  # nothing that it writes is fenced in any more


def test_a_lease_that_names_us_gets_a_new_token_once(joined: Joined) -> None:
    one, two = joined(), joined()
    (lease,) = one.take("source a")

    def rekey(by: Seen, seen: UUID) -> Lease | None:
        return by.do(lambda db: leases.rekey(db, by.id, "source a", seen), alone=True)

    assert rekey(two, lease.token) is None
    new = rekey(one, lease.token)
    assert new is not None
    assert (new.epoch, new.unit) == (2, "source a")
    assert new.token == one.row("source a").token != lease.token
    assert rekey(one, lease.token) is None


def test_who_leaves_gives_everything_and_is_gone(joined: Joined) -> None:
    one, two = joined(), joined()
    one.take(*UNITS)
    one.do(lambda db: leases.leave(db, one.id))
    assert {each.id for each in two.see().replicas} == {two.id}
    assert all(row.holder is None for row in two.see().leases)
    assert one.see().writes is None
    one.beat()  # which brings nothing back
    assert {each.id for each in two.see().replicas} == {two.id}


def test_only_who_has_long_been_dead_is_tidied_away(joined: Joined, sql: Sql) -> None:
    one, two, three = joined(), joined(), joined()
    expire(sql, two)
    sql("update replica set expires = expires - interval '11 minutes' where id = %s", three.id)
    one.do(leases.tidy)
    assert {each.id for each in one.see().replicas} == {one.id, two.id}
    assert three.see().writes is None


def test_old_versions_of_rows_are_counted_as_long_as_a_session_may_see_them(
    joined: Joined, database: str
) -> None:
    one = joined()

    def left() -> int:
        with raw(database) as connection:
            connection.execute(b"vacuum auditrelay.replica")
        return one.do(leases.old_rows)

    with raw(database) as old:
        old.execute(b"begin isolation level repeatable read")
        old.execute(b"select 1")
        for _ in range(300):
            one.beat()
        assert left() >= 300
        old.execute(b"commit")
    assert left() == 0


def test_what_is_served_from_now_on_can_be_taken(joined: Joined) -> None:
    one = joined()
    one.do(lambda db: leases.serve(db, one.id, {"source new": Served("d", ("x",))}))
    assert one.replica(one.id).serves == {"source new": Served("d", ("x",))}
    assert [lease.unit for lease in one.take("source new", "source none")] == ["source new"]


def test_a_frozen_replica_that_holds_the_lock_of_all_writes_is_ended(
    joined: Joined, database: str
) -> None:
    """It has sent half of a transaction, and no timeout of the server ends that before 17."""
    frozen, one, other = joined(), joined(), joined()
    frozen.db.begin(write=True)
    frozen.db.execute("select 1").fetchone()
    one.see()  # no pulse waits for it
    one.beat()
    taken: list[Lease] = []
    taker = Thread(target=lambda: taken.extend(one.take("source a")))
    taker.start()
    with raw(database) as connection:
        _wait_until_blocked(connection, 1)
    other.do(lambda db: leases.end_sessions(db, [frozen.id]))
    taker.join()
    assert len(taken) == 1
    with pytest.raises(psycopg.OperationalError):
        frozen.db.execute("select 1").fetchone()
    other.see()
    one.see()


def test_a_clock_of_the_database_that_jumped_robs_no_replica_that_beats(
    joined: Joined, sql: Sql
) -> None:
    """As after a failover to a machine with another clock: the rows are old, or from the future."""
    one, two = joined(), joined()
    one.take("source a")
    for hour in ("-1 hour", "1 hour"):
        sql("update replica set expires = clock_timestamp() + %s::interval", hour)
        assert two.take("source a", dead=()) == []
        one.beat()
        assert LIFE - 2 < two.replica(one.id).expires_in <= LIFE


def test_since_when_a_unit_is_free_is_kept_with_it(joined: Joined) -> None:
    one = joined()
    made = one.row("keeper").since
    assert made is not None
    (lease,) = one.take("keeper")
    taken = one.row("keeper").since
    assert taken is not None
    assert taken > made
    one.do(lambda db: leases.give(db, lease))
    given = one.row("keeper").since
    assert given is not None
    assert given > taken
