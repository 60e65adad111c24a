"""The schema: made once by the one that comes first, or by hand; refused if it is newer."""

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Server
from tests.support.shared_state import SCHEMA, connected, make_schema, raw, rows

from auditrelay.errors import StateError
from auditrelay.store.postgres import schema
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.sqlite.state_dir import DATABASE, create

pytestmark = pytest.mark.process


@pytest.fixture
def empty(postgres: Server) -> Iterator[str]:
    name = postgres.create()
    yield postgres.address(name)
    postgres.drop(name)


def columns_here(url: str) -> dict[str, list[tuple[str, bool]]]:
    found: dict[str, list[tuple[str, bool]]] = {}
    for table, column, null in rows(
        url,
        "select table_name, column_name, is_nullable = 'YES' from information_schema.columns "
        "where table_schema = %s order by table_name, ordinal_position",
        SCHEMA,
    ):
        found.setdefault(table, []).append((column, null))
    return found


def columns_of_sqlite(folder: Path) -> dict[str, list[tuple[str, bool]]]:
    create(folder)
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        tables = db.execute("select name from sqlite_schema where type = 'table'").fetchall()
        return {
            table: [
                (name, not (not_null or key))
                for _, name, _, not_null, _, key in db.execute(f"pragma table_info({table})")
            ]
            for (table,) in tables
            if not table.startswith("sqlite_")
        }


def test_the_tables_are_those_of_sqlite(database: str, tmp_path: Path) -> None:
    here, there = columns_here(database), columns_of_sqlite(tmp_path)
    assert here.pop("meta") == [("name", False), ("value", False)]
    assert there.pop("meta") == [("name", False), ("value", True)]
    own = set(here) - set(there)
    assert {name: here[name] for name in here if name not in own} == there
    assert own == {
        *("meta_text", "meta_bytes"),
        *("replica", "lease", "writer", "request", "answer", "raised"),
    }


def test_every_integer_is_a_bigint_and_texts_sort_by_their_bytes(database: str) -> None:
    kinds = rows(
        database,
        "select distinct data_type from information_schema.columns where table_schema = %s",
        SCHEMA,
    )
    assert {kind for (kind,) in kinds} == {
        *("bigint", "text", "bytea", "uuid", "boolean", "timestamp with time zone")
    }
    others = rows(
        database,
        "select a.attrelid::regclass::text, a.attname from pg_index i "
        "join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey) "
        "join pg_class c on c.oid = i.indrelid join pg_collation o on o.oid = a.attcollation "
        "where c.relnamespace = %s::regnamespace and o.collname <> 'C'",
        SCHEMA,
    )
    assert others == []


def test_the_state_begins_empty_with_a_log_of_its_own(database: str, empty: str) -> None:
    make_schema(empty)
    assert dict(rows(database, "select name, value from meta")) == {
        "schema": 1,
        "writable_from": 1,
        "next_position": 0,
        "spool_bytes": 0,
    }
    logs = [rows(url, "select name, value from meta_text") for url in (database, empty)]
    assert [[name for name, _ in log] for log in logs] == [["log"], ["log"]]
    assert all(re.fullmatch("[0-9a-f]{32}", log[0][1]) for log in logs)
    assert logs[0] != logs[1]


def test_several_may_make_it_at_once(empty: str) -> None:
    failed: list[BaseException] = []
    together = threading.Barrier(4)

    def make() -> None:
        try:
            with connected(empty) as db:
                together.wait()
                schema.create(db)
        except BaseException as error:  # noqa: BLE001  # it is shown
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert rows(empty, "select count(*) from meta_text") == [(1,)]


def test_making_it_again_changes_nothing(database: str) -> None:
    before = rows(database, "select name, value from meta_text")
    make_schema(database)
    assert rows(database, "select name, value from meta_text") == before


def test_what_setup_prints_makes_the_same(database: str, empty: str) -> None:
    with raw(empty) as connection:
        connection.execute(schema.statements(SCHEMA).encode())
    assert columns_here(empty) == columns_here(database)
    described = (
        """select relname, relkind, reloptions, pg_get_indexdef(oid) from pg_class
        where relnamespace = %s::regnamespace order by 1""",
        "select tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1",
        "select proname, prosrc from pg_proc where pronamespace = %s::regnamespace order by 1",
        "select name, value from meta order by 1",
    )
    for query in described:
        parameters = [SCHEMA] * query.count("%s")
        assert rows(empty, query, *parameters) == rows(database, query, *parameters)
    with connected(empty) as db:
        schema.verify(db)


def test_its_name_is_quoted(empty: str) -> None:
    name = 'Odd "one"'
    db = Connection(raw(empty), name)
    schema.create(db)
    schema.verify(db)
    db.close()
    found = rows(empty, "select count(*) from pg_namespace where nspname = %s", name)
    assert found == [(1,)]
    with raw(empty) as connection:
        connection.execute(schema.statements('Another "one"').encode())


def test_a_page_is_not_compressed_twice(database: str) -> None:
    query = (
        "select attstorage::text from pg_attribute where attrelid = 'spool'::regclass "
        "and attname = 'events'"
    )
    assert rows(database, query) == [("e",)]


@pytest.mark.parametrize("change", ["update {} set at = 1", "delete from {}", "truncate {}"])
@pytest.mark.parametrize("table", ["head", "entry"])
def test_what_is_sealed_is_not_changed(database: str, table: str, change: str) -> None:
    rows(database, "insert into entry (n, unit, text) values (0, 'x', 'y')")
    rows(database, "insert into head (size, at, root, word, place) values (1, 0, '', 'w', 0)")
    if table == "entry":
        change = change.replace("at = 1", "text = ''")
    with pytest.raises(psycopg.errors.RaiseException, match="sealed"):
        rows(database, change.format(table))


# --- refusals -------------------------------------------------------------------------------------


def test_a_newer_one_is_refused_as_soon_as_older_code_may_not_write(database: str) -> None:
    rows(database, "update meta set value = 2 where name = 'schema'")
    with connected(database) as db:
        schema.verify(db)
        schema.create(db)
        rows(database, "update meta set value = 2 where name = 'writable_from'")
        for look in (schema.verify, schema.create):
            with pytest.raises(StateError, match="newer auditrelay"):
                look(db)


def test_one_that_is_not_there_is_refused_with_what_to_do(empty: str) -> None:
    with connected(empty) as db, pytest.raises(StateError, match="auditrelay setup postgres"):
        schema.verify(db)


@pytest.fixture
def role(postgres: Server) -> Iterator[str]:
    """A role that may do what it is granted, by its name."""
    postgres.execute("create role plain login")
    yield "plain"
    postgres.execute("drop role plain")


def as_role(url: str, role: str) -> str:
    return url.replace("//postgres@", f"//{role}@")


def test_a_role_that_may_not_make_it_is_shown_the_command(
    empty: str, role: str, postgres: Server
) -> None:
    with connected(as_role(empty, role)) as db:
        with pytest.raises(StateError, match="auditrelay setup postgres"):
            schema.create(db)
        assert not db.closed
    assert rows(empty, "select count(*) from pg_namespace where nspname = %s", SCHEMA) == [(0,)]


def test_a_role_needs_four_rights_to_work(database: str, role: str) -> None:
    with connected(as_role(database, role)) as db:
        with pytest.raises(StateError, match="auditrelay setup postgres"):
            schema.verify(db)
        rows(
            database,
            f"grant usage on schema {SCHEMA} to {role};"
            f"grant select, insert, update, delete on all tables in schema {SCHEMA} to {role}",
        )
        schema.create(db)
        db.begin(write=True)
        db.execute("insert into source (name, started) values ('a', 1)")
        db.commit()
    rows(database, f"drop owned by {role}")


def test_an_empty_schema_that_was_given_is_used(empty: str, role: str) -> None:
    rows(empty, f"create schema {SCHEMA} authorization {role}")
    with connected(as_role(empty, role)) as db:
        schema.create(db)
    assert len(columns_here(empty)) > 20
    rows(empty, f"drop owned by {role}")


def test_a_database_that_is_not_in_utf8_is_refused(postgres: Server) -> None:
    postgres.execute("create database latin encoding 'latin1' template template0")
    with psycopg.connect(
        postgres.address("latin"), autocommit=True, client_encoding="utf8"
    ) as connection:
        db = Connection(connection, SCHEMA)
        for look in (schema.verify, schema.create):
            with pytest.raises(StateError, match=r"LATIN1.*UTF8"):
                look(db)
    postgres.drop("latin")


def test_a_database_that_is_read_only_is_refused(database: str, postgres: Server) -> None:
    name = database.rpartition("/")[2]
    postgres.execute(f"alter database {name} set default_transaction_read_only to on")
    with connected(database) as db, pytest.raises(StateError, match="read-only"):
        schema.verify(db)


def test_one_that_makes_it_waits_for_the_other_and_not_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of all writes is waited for as long as any lock, and then waited for again."""
    with connected(database) as other, connected(database) as db:
        real, waits = Connection.execute, []

        def execute(self: Connection, sql: str, *parameters: Any) -> Any:
            if self is db and "advisory" in sql:
                waits.append(sql)
                real(self, "set local lock_timeout = '50ms'")
            return real(self, sql, *parameters)

        monkeypatch.setattr(Connection, "execute", execute)
        other.begin(write=True)
        other.execute("select 1").fetchone()
        with pytest.raises(StateError, match="others are in the way"):
            schema.create(db)
        assert len(waits) == 5
        other.commit()
        schema.create(db)
