"""A state in PostgreSQL for tests: its schema, connections to it, and its threads."""

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg

from auditrelay.clock import Clock
from auditrelay.evidence.heads import Keys
from auditrelay.store.leases import Lease
from auditrelay.store.postgres import schema
from auditrelay.store.postgres.connection import REQUEST, Connection
from auditrelay.store.postgres.link import Link

SCHEMA = "auditrelay"


def raw(url: str) -> psycopg.Connection[Any]:
    """Return a connection to the database at *url*, as an address makes it."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


@contextlib.contextmanager
def connected(url: str, *, limit: float = REQUEST) -> Iterator[Connection]:
    """Yield a connection to the state in the database at *url*."""
    db = Connection(raw(url), SCHEMA, limit=limit)
    try:
        yield db
    finally:
        db.close()


def make_schema(url: str) -> None:
    """Make the tables in the database at *url*."""
    with connected(url) as db:
        schema.create(db)


def link(
    url: str, *, patience: float | None = None, limit: float = REQUEST, keys: Keys | None = None
) -> Link:
    """Return the way of one thread to the state in the database at *url*."""
    return Link(lambda: raw(url), SCHEMA, clock=Clock(), patience=patience, limit=limit, keys=keys)


def rows(url: str, sql: str, *parameters: object) -> list[Any]:
    """Return what *sql*, with ``%s``, finds in the state in the database at *url*."""
    with raw(url) as connection:
        connection.execute(f"set search_path to {SCHEMA}".encode())
        found = connection.execute(sql.encode(), parameters)
        return found.fetchall() if found.description else []


def lend(url: str, *leases: Lease) -> None:
    """Let *leases* be those that are valid now."""
    for lease in leases:
        rows(
            url,
            "insert into lease (unit, epoch, token, holder) values (%s, %s, %s, %s)",
            *(lease.unit, lease.epoch, lease.token, uuid4()),
        )


def take(url: str, unit: str, holder: UUID | None = None) -> Lease:
    """Give *unit* to *holder*, or to another replica, without asking who has it."""
    ((epoch, token),) = rows(
        url,
        "insert into lease (unit, epoch, token, holder) values (%s, 1, %s, %s) on conflict (unit) "
        "do update set epoch = lease.epoch + 1, token = excluded.token, holder = excluded.holder "
        "returning epoch, token",
        unit,
        uuid4(),
        holder or uuid4(),
    )
    return Lease(unit, epoch, token)
