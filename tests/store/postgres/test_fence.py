"""The fence: the last statement of a write, which a stale lease or another count stops."""

import threading
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.support.shared_state import connected, rows, take

from auditrelay.store.leases import Lease
from auditrelay.store.postgres.connection import Connection

pytestmark = pytest.mark.process

ME = UUID(int=7)


@pytest.fixture
def db(database: str) -> Iterator[Connection]:
    rows(database, "insert into writer (replica, writes) values (%s, 5)", ME)
    with connected(database) as connection:
        yield connection


def write(db: Connection, writes: int, leases: Sequence[Lease] = (), replica: UUID = ME) -> None:
    db.begin(write=True)
    db.execute("insert into meta (name, value) values (?, 1)", (f"test {uuid4()}",))
    db.execute(
        "select fence(?, ?, ?::text[], ?::uuid[])",
        (replica, writes, [lease.unit for lease in leases], [lease.token for lease in leases]),
    )
    try:
        db.commit()
    except psycopg.Error:
        db.roll_back()
        raise


def seen(database: str) -> tuple[int, int]:
    """Return how many writes were done and how many were counted."""
    ((done, counted),) = rows(
        database,
        "select (select count(*) from meta where name like 'test%%'), writes from writer "
        "where replica = %s",
        ME,
    )
    return done, counted


def test_each_write_is_counted(db: Connection, database: str) -> None:
    write(db, 5)
    write(db, 6)
    assert seen(database) == (2, 7)


@pytest.mark.parametrize("writes", [4, 6])
def test_another_count_stops_the_write(db: Connection, database: str, writes: int) -> None:
    with pytest.raises(psycopg.Error, match="other writes") as caught:
        write(db, writes)
    assert caught.value.sqlstate == "AR001"
    assert seen(database) == (0, 5)


def test_a_replica_that_is_not_known_does_not_write(db: Connection, database: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        write(db, 5, replica=uuid4())
    assert caught.value.sqlstate == "AR001"
    assert seen(database) == (0, 5)


def test_a_lease_lets_write_until_another_has_it(db: Connection, database: str) -> None:
    old, other = take(database, "source a", ME), take(database, "sink b", ME)
    write(db, 5, [old, other])
    new = take(database, "source a")
    for leases in ([old], [other, old], [old, new]):
        with pytest.raises(psycopg.Error, match="fenced: source a\n") as caught:
            write(db, 6, leases)
        assert caught.value.sqlstate == "AR001"
    write(db, 6, [other])
    assert seen(database) == (2, 7)


def test_a_lease_that_was_given_back_or_never_was_is_none(db: Connection, database: str) -> None:
    lease = take(database, "source a", ME)
    rows(database, "update lease set token = null, holder = null")
    for each in (lease, Lease("source b", 1, uuid4())):
        with pytest.raises(psycopg.Error, match=f"fenced: {each.unit}"):
            write(db, 5, [each])
    assert seen(database) == (0, 5)


def test_who_takes_over_waits_for_a_write_that_has_passed_the_fence(
    db: Connection, database: str
) -> None:
    """Even if it does not take the lock of all writes: it must see all that was written."""
    lease = take(database, "source a", ME)
    db.begin(write=True)
    db.execute("insert into meta (name, value) values ('test', 1)")
    db.execute("select fence(?, 5, array[?], array[?])", (ME, lease.unit, lease.token)).fetchone()
    found = []

    def robber() -> None:
        take(database, "source a")
        found.extend(rows(database, "select name from meta where name = 'test'"))

    thread = threading.Thread(target=robber)
    thread.start()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    while rows(database, waiting) == [(0,)]:
        assert thread.is_alive()
    db.commit()
    thread.join()
    assert found == [("test",)]
