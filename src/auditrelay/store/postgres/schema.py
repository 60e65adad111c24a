"""The schema in the database: whether it is there, and which; and how it is made."""

from collections.abc import Callable
from typing import Final

import psycopg

from auditrelay.errors import RelayError, StateError
from auditrelay.evidence.tree import Frontier
from auditrelay.store.postgres.connection import Connection, quoted
from auditrelay.store.postgres.errors import Kind, kind_of, translate, words_of
from auditrelay.store.postgres.tables import TABLES
from auditrelay.store.sql.branches import FRONTIER, LOG

SCHEMA_VERSION: Final = 1

OLDEST_SERVER: Final = 150000
"""PostgreSQL 15, as ``server_version`` counts."""

WRITABLE_FROM: Final = "(select value from meta where name = 'writable_from')"
"""SQL for the oldest version that may write to the tables."""

_SETUP: Final = "auditrelay setup postgres"

_TRIES: Final = 5

_ROWS: Final = (
    f"""insert into meta (name, value) values
    ('schema', {SCHEMA_VERSION}), ('writable_from', {SCHEMA_VERSION}),
    ('next_position', 0), ('spool_bytes', 0)""",  # noqa: S608  # constants
    # The log of the evidence has a name of its own, and begins without entries.
    f"""insert into meta_text (name, value)
    values ('{LOG}', replace(gen_random_uuid()::text, '-', ''))""",  # noqa: S608  # constants
    f"""insert into meta_bytes (name, value)
    values ('{FRONTIER}', decode('{Frontier().dump().hex()}', 'hex'))""",  # noqa: S608  # constants
)
"""*schema* is the version of the tables, *writable_from* the oldest code that may write to them."""


def statements(schema: str) -> str:
    """Return the SQL that makes *schema* in one transaction, for an operator to read and run."""
    lines = [
        "begin",
        f"create schema if not exists {quoted(schema)}",
        f"set local search_path to {quoted(schema)}",
        *TABLES,
        *_ROWS,
        "commit",
    ]
    return "".join(f"{line};\n" for line in lines)


def is_there(db: Connection) -> bool:
    """Return whether the tables are there. Works within the caller's transaction."""
    (found,) = db.execute(
        "select to_regclass(?) is not null", (f"{quoted(db.schema)}.meta",)
    ).fetchone()
    return bool(found)


def check(db: Connection) -> None:
    """
    Raise StateError unless the schema can be used, as it is, by this version.

    Works within the caller's transaction.
    """
    _check_server(db)
    if not is_there(db):
        raise StateError(_missing(db.schema))
    (oldest,) = db.execute(f"select {WRITABLE_FROM}").fetchone()
    require_writable(db.schema, oldest)


def require_writable(schema: str, oldest: int | None) -> None:
    """Raise StateError if *oldest*, the first version that may write to *schema*, is newer."""
    if oldest is not None and oldest > SCHEMA_VERSION:
        raise StateError(
            f"the schema {schema} was written by a newer auditrelay (schema {oldest}; "
            f"this one supports {SCHEMA_VERSION}); not touched: install the newer version again"
        )


def create(db: Connection) -> None:
    """
    Make the schema if it is not there, in one transaction; another replica may do it meanwhile.

    Raises StateError if the role may not, or if there is one that :func:`check` refuses.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            _in_transaction(db, _create)
        except psycopg.Error as error:
            # The lock of all writes is waited for as long as any lock is.
            if kind_of(error) is Kind.AGAIN and attempt < _TRIES:
                continue
            raise _cannot(db.schema, error) from error
        return


def verify(db: Connection) -> None:
    """Do :func:`check` in a transaction of its own. Raises StateError."""
    try:
        _in_transaction(db, check)
    except psycopg.Error as error:
        raise _cannot(db.schema, error) from error


def drop(db: Connection) -> None:
    """Remove the schema with all that is in it. Raises StateError."""
    try:
        _in_transaction(db, _drop)
    except psycopg.Error as error:
        raise _cannot(db.schema, error) from error


def _drop(db: Connection) -> None:
    db.execute(f"drop schema if exists {quoted(db.schema)} cascade")


def _in_transaction(db: Connection, work: Callable[[Connection], None]) -> None:
    try:
        db.begin(write=work is not check)
        work(db)
        db.commit()
    except BaseException:
        db.roll_back()
        raise


def _create(db: Connection) -> None:
    _check_server(db)
    if not is_there(db):
        (there,) = db.execute(
            "select exists (select from pg_namespace where nspname = ?)", (db.schema,)
        ).fetchone()
        if not there:  # a role that may not create one may have been given an empty one
            db.execute(f"create schema {quoted(db.schema)}")
        for statement in (*TABLES, *_ROWS):
            db.execute(statement)
    check(db)


def _check_server(db: Connection) -> None:
    version, encoding, read_only = db.execute(
        "select current_setting('server_version_num')::bigint, current_setting('server_encoding'), "
        "current_setting('default_transaction_read_only')::boolean or pg_is_in_recovery()"
    ).fetchone()
    if version < OLDEST_SERVER:
        raise StateError(
            f"the server is PostgreSQL {version // 10000}, and the state needs "
            f"{OLDEST_SERVER // 10000} or newer"
        )
    if encoding != "UTF8":
        raise StateError(
            f"the database has the encoding {encoding}, and the state needs UTF8: create a "
            "database with it (create database ... encoding 'UTF8' template template0)"
        )
    if read_only:
        raise StateError("the database is read-only, or a standby: name the primary in store")


def _missing(schema: str) -> str:
    return (
        f"there is no schema {schema} with the state in the database, and the role may not make "
        f"it: run {_SETUP} as a role that may, or run what {_SETUP} --print shows"
    )


def _cannot(schema: str, error: psycopg.Error) -> RelayError | psycopg.Error:
    if error.sqlstate == "42501":
        return StateError(f"{_missing(schema)} ({words_of(error)})")
    return translate(error)
