"""A database with the schema, and connections to it."""

from typing import Any

import psycopg

from auditrelay.store.postgres import schema
from auditrelay.store.postgres.connection import Connection

SCHEMA = "auditrelay"


def raw(address: str, name: str = "") -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection of psycopg's own, as an administrator has one."""
    return psycopg.connect(address, autocommit=True, prepare_threshold=None, application_name=name)


def connection(address: str, name: str = "") -> Connection:
    """Return a connection as the relay has one."""
    return Connection(raw(address, name), SCHEMA)


def make(address: str) -> None:
    """Make the schema in the database at *address*."""
    db = connection(address)
    schema.create(db)
    db.close()
