"""A connection: values, one round trip for a transaction, errors where they are looked at."""

import collections
import os
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.shared_state import SCHEMA, connected, raw
from tests.support.wire import Wire

from auditrelay.errors import StateError
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.values import storable

pytestmark = pytest.mark.process


@pytest.fixture
def db(database: str) -> Iterator[Connection]:
    with connected(database) as connection:
        yield connection


def put(db: Connection, name: str, value: object) -> None:
    db.execute("insert into meta (name, value) values (?, ?)", (name, value))


def written(db: Connection) -> list[Any]:
    db.begin(write=False)
    found = db.execute(
        "select name, value from meta where name like 'test%' order by name"
    ).fetchall()
    db.commit()
    return found


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", 0),
        ("bigint", -(1 << 63)),
        ("bigint", (1 << 63) - 1),
        ("bytea", b""),
        ("bytea", b"\x00\xff\\000"),
        ("text", ""),
        ("text", "100 % of :it? 'é' \U0001f600"),
        ("float8", 2.5),
        ("boolean", True),
        ("uuid", UUID(int=5)),
        ("bigint[]", [1, 2]),
        ("bigint[]", []),
        ("text[]", ["a,b", '"', "null", ""]),
        ("bytea[]", [b"\x00", b""]),
        ("uuid[]", [UUID(int=1)]),
        ("bigint", None),
    ],
)
def test_a_value_comes_back_as_it_was_given(db: Connection, kind: str, value: object) -> None:
    db.begin(write=False)
    (found,) = db.execute(f"select ?::{kind}", (value,)).fetchone()
    db.commit()
    assert found == value
    assert type(found) is type(value)


def test_the_type_of_a_number_does_not_depend_on_its_size(db: Connection) -> None:
    db.begin(write=False)
    kinds = db.execute(
        "select pg_typeof(?)::text, pg_typeof(?)::text, pg_typeof(?)::text, pg_typeof(?)::text",
        (1, 1 << 40, [1, 1 << 40], "a"),
    ).fetchone()
    db.commit()
    assert kinds == ("bigint", "bigint", "bigint[]", "text")


def test_a_sum_is_a_number_as_sqlite_has_it(db: Connection) -> None:
    db.begin(write=False)
    (whole, huge, part) = db.execute(
        "select sum(n::bigint), sum(n::bigint) * ?::numeric, avg(n) from generate_series(1, 2) n",
        (1 << 60,),
    ).fetchone()
    db.commit()
    assert (whole, huge, part) == (3, 3 << 60, 1.5)
    assert [type(each) for each in (whole, huge, part)] == [int, int, float]
    assert not isinstance(whole, Decimal)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_can_be_stored_stays_as_it_is(text: str) -> None:
    assert storable(text) == (text.replace("\0", "\\u0000") if "\0" in text else text)


@given(st.text(st.characters(categories=["Cs", "Cc", "Lu"])))
def test_all_text_can_be_stored(text: str) -> None:
    assert b"\0" not in storable(text).encode()


def test_what_postgresql_cannot_store_is_visible(db: Connection) -> None:
    odd = "a\0b\ud800c"
    db.begin(write=True)
    put(db, f"test {odd}", 1)
    db.executemany(
        "insert into meta (name, value) values (:name, :value)",
        [{"name": f"test list {odd}", "value": 2}],
    )
    found = db.execute(
        "select name from meta where name = any (?)", ([f"test list {odd}"],)
    ).fetchall()
    db.commit()
    assert found == [("test list a\\u0000b\\ud800c",)]
    assert written(db)[0] == ("test a\\u0000b\\ud800c", 1)


@pytest.mark.parametrize(
    ("sql", "parameters", "error"),
    [
        ("select ?", (1, 2), ValueError),
        ("select ?", (), ValueError),
        ("select 1", (1,), ValueError),
        ("select :a", (1,), ValueError),
        ("select ?", {"a": 1}, ValueError),
        ("select :a", {"b": 1}, KeyError),
    ],
)
def test_parameters_fit_their_placeholders(
    db: Connection, sql: str, parameters: Any, error: type[Exception]
) -> None:
    db.begin(write=False)
    with pytest.raises(error):
        db.execute(sql, parameters)


def test_a_connection_that_is_not_in_utf_8_is_refused(database: str) -> None:
    with (
        psycopg.connect(database, client_encoding="latin1", autocommit=True) as other,
        pytest.raises(StateError, match="UTF-8"),
    ):
        Connection(other, SCHEMA)


# --- cursors --------------------------------------------------------------------------------------


def test_rows_are_read_one_at_a_time_or_together(db: Connection) -> None:
    db.begin(write=False)
    found = db.execute("select n from generate_series(1, 5) n")
    other = db.execute("select 'x'")
    assert other.fetchone() == ("x",)
    assert other.fetchone() is None
    assert found.fetchone() == (1,)
    assert next(iter(found)) == (2,)
    assert found.fetchall() == [(3,), (4,), (5,)]
    assert found.fetchall() == []
    assert found.rowcount == 5
    db.commit()


def test_it_says_how_many_rows_were_changed(db: Connection) -> None:
    db.begin(write=True)
    for number in range(3):
        put(db, f"test {number}", number)
    assert db.execute("update meta set value = 7 where name like 'test%'").rowcount == 3
    assert db.execute("delete from meta where name = 'there is none'").rowcount == 0
    db.commit()


def test_many_rows_may_differ_in_their_types(db: Connection) -> None:
    db.begin(write=True)
    db.executemany(
        "insert into source (name, started, condition) values (?, coalesce(?, 5), ?)",
        [("a", 1, "x"), ("b", None, "y"), ("c", 3, "z")],
    )
    db.executemany("insert into source (name, started) values (?, ?)", [])
    found = db.execute("select name, started, condition from source order by name").fetchall()
    db.commit()
    assert found == [("a", 1, "x"), ("b", 5, "y"), ("c", 3, "z")]


def test_a_stream_reads_all_rows_in_steps(db: Connection) -> None:
    db.begin(write=False, snapshot=True)
    total = 0
    for (number,) in db.stream(
        "select n from generate_series(1, ?::bigint) n order by n", (4_500,)
    ):
        total += 1
        assert number == total
        if number % 1_000 == 0:  # in between others may be run
            assert db.execute("select ?::bigint", (number,)).fetchone() == (number,)
    assert list(db.stream("select 1 where false")) == []
    db.commit()
    assert total == 4_500


# --- transactions ---------------------------------------------------------------------------------


class Traced:
    """A connection whose protocol libpq writes down."""

    def __init__(self, connection: psycopg.Connection[Any], path: Path) -> None:
        self.db = Connection(connection, SCHEMA)
        self._pgconn = connection.pgconn
        self._path = path
        self._file = path.open("wb")
        self._pgconn.trace(self._file.fileno())
        self._pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)

    def waits(self) -> int:
        """Return how often the client, "F", has waited for the server, "B"."""
        self._pgconn.untrace()
        self._file.close()
        senders = [line[0] for line in self._path.read_text().splitlines()]
        assert set(senders) == {"F", "B"}
        return sum(pair == ("F", "B") for pair in pairwise(senders))


@pytest.fixture
def traced(database: str, tmp_path: Path) -> Iterator[Traced]:
    with raw(database) as connection:
        yield Traced(connection, tmp_path / "trace")


def test_a_write_is_one_round_trip(traced: Traced) -> None:
    db = traced.db
    db.begin(write=True)
    for number in range(50):
        put(db, f"test {number}", number)
    db.executemany(
        "insert into meta (name, value) values (?, ?)", [(f"test x{n}", n) for n in range(50)]
    )
    db.commit()
    assert traced.waits() == 1


def test_a_look_at_a_result_is_one_round_trip_more(traced: Traced) -> None:
    db = traced.db
    db.begin(write=True)
    put(db, "test", 1)
    found, more = db.execute("select count(*) from meta"), db.execute("select 1")
    assert found.fetchone()
    assert more.fetchone() == (1,)
    put(db, "test 2", 1)
    db.commit()
    assert traced.waits() == 2


def test_an_error_is_raised_by_the_first_look_and_by_all_that_follow(db: Connection) -> None:
    db.begin(write=True)
    first = db.execute("select 1")
    broken = db.execute("select no_such_column from meta")
    put(db, "test", 1)
    assert first  # it was fine, but it is of a transaction that is none
    for look in (broken.fetchone, broken.fetchall, lambda: broken.rowcount, db.commit):
        with pytest.raises(psycopg.errors.UndefinedColumn):
            look()
    with pytest.raises(psycopg.errors.UndefinedColumn):
        db.execute("select 1")
    db.roll_back()
    assert written(db) == []


def test_a_transaction_without_a_look_fails_when_it_is_committed(db: Connection) -> None:
    db.begin(write=True)
    put(db, "test", 1)
    put(db, "test", 1)
    put(db, "test 2", 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.commit()
    db.roll_back()
    assert written(db) == []
    assert not db.closed


def test_what_is_rolled_back_was_not_written(db: Connection) -> None:
    db.begin(write=True)
    put(db, "test", 1)
    db.roll_back()
    db.begin(write=True)
    put(db, "test", 1)
    put(db, "test", 1)  # an error that is never looked at
    db.roll_back()
    assert written(db) == []


def test_a_reading_transaction_does_not_write(db: Connection) -> None:
    db.begin(write=False)
    put(db, "test", 1)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.commit()
    db.roll_back()


def test_one_writes_at_a_time_and_readers_do_not_wait(db: Connection, database: str) -> None:
    with connected(database, limit=0.3) as other:
        db.begin(write=True)
        put(db, "test", 1)
        db.execute("select 1").fetchone()
        assert written(other) == []
        other.begin(write=True)
        with pytest.raises(psycopg.OperationalError, match="in time"):
            other.commit()
        assert other.closed
        db.commit()
    with connected(database) as other:
        other.begin(write=True)
        put(other, "test 2", 2)
        other.commit()
    assert written(db) == [("test", 1), ("test 2", 2)]


def test_two_states_in_one_database_do_not_wait_for_each_other(
    db: Connection, database: str
) -> None:
    db.begin(write=True)
    db.execute("select 1").fetchone()
    other = Connection(raw(database), "other", limit=5)
    other.begin(write=True)
    other.commit()
    other.close()
    db.commit()


def test_a_snapshot_does_not_change(db: Connection, database: str) -> None:
    with connected(database) as other:
        db.begin(write=False, snapshot=True)
        assert db.execute("select count(*) from spool").fetchone() == (0,)
        other.begin(write=True)
        put(other, "test", 1)
        other.commit()
        assert db.execute("select count(*) from meta where name = 'test'").fetchone() == (0,)
        db.commit()
    assert written(db) == [("test", 1)]


def test_nothing_is_left_in_the_session(db: Connection) -> None:
    settings = "search_path lock_timeout idle_in_transaction_session_timeout synchronous_commit"
    show = ", ".join(f"current_setting('{name}')" for name in settings.split())
    db.begin(write=True)
    assert db.execute(f"select {show}").fetchone() == (f'"{SCHEMA}", pg_temp', "10s", "10s", "on")
    db.commit()
    db.execute("begin")
    assert db.execute(f"select {show}").fetchone() == ('"$user", public', "0", "0", "on")
    assert db.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
    db.commit()


def test_what_is_committed_is_on_disk_whatever_the_role_has_set(
    db: Connection, database: str
) -> None:
    with raw(database) as admin:
        admin.execute("alter role postgres set synchronous_commit to off")
        try:
            with connected(database) as other:
                other.begin(write=True)
                assert other.execute("show synchronous_commit").fetchone() == ("on",)
                other.commit()
        finally:
            admin.execute("alter role postgres reset synchronous_commit")


def test_a_pause_of_the_server_ends_with_a_closed_connection(database: str, wire: Wire) -> None:
    with connected(wire.through(database), limit=0.2) as db:
        db.begin(write=False)
        db.execute("select 1").fetchone()
        wire.hold()
        with pytest.raises(psycopg.OperationalError, match="in time"):
            db.execute("select 1").fetchone()
        assert db.closed
        db.roll_back()
        with pytest.raises(psycopg.OperationalError):
            db.begin(write=False)


def test_the_deadline_is_that_of_the_transaction_and_not_of_each_wait(
    database: str, wire: Wire
) -> None:
    wire.delay(0.1)
    with connected(wire.through(database), limit=0.45) as db:
        db.begin(write=False)
        db.execute("select 1").fetchone()  # each waits for less than the limit
        with pytest.raises(psycopg.OperationalError, match="in time"):
            collections.deque((db.execute("select 1").fetchone() for _ in range(9)), maxlen=0)
        assert db.closed


def test_a_large_page_is_sent_while_much_is_received(db: Connection) -> None:
    page = os.urandom(8 << 20)
    db.begin(write=False)
    found = [db.execute("select ?::bytea", (page,)) for _ in range(4)]
    assert all(each.fetchone() == (page,) for each in found)
    db.commit()


def test_a_warning_at_the_commit_leaves_it_open_what_became_of_it(db: Connection) -> None:
    db.begin(write=True)
    # What the server says if an operator ends the wait of a COMMIT for a standby.
    db.execute(
        "create function pg_temp.warn() returns trigger language plpgsql as "
        "$$ begin raise warning 'canceling wait'; return null; end $$"
    )
    db.execute("create temporary table waiting (n bigint)")
    db.execute(
        "create constraint trigger late after insert on waiting "
        "deferrable initially deferred for each row execute function pg_temp.warn()"
    )
    db.execute("insert into waiting values (1)")
    db.execute("select 1").fetchone()
    with pytest.raises(psycopg.OperationalError, match="replicated"):
        db.commit()
    assert db.closed
