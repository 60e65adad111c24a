"""Connections of replicas, whose sessions have their names."""

import psycopg
from tests.support.shared_state import SCHEMA

from auditrelay.store.postgres.connection import Connection


def connection(url: str, name: str = "") -> Connection:
    """Return a connection to the state in the database at *url*; its session has that *name*."""
    return Connection(
        psycopg.connect(url, autocommit=True, prepare_threshold=None, application_name=name), SCHEMA
    )
