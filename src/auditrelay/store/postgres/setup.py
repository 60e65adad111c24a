"""Make the tables of the state once, by a role with rights that the service should not have."""

from typing import Final

import psycopg

from auditrelay.store.postgres import schema
from auditrelay.store.postgres.address import Address
from auditrelay.store.postgres.connection import Connection, quoted
from auditrelay.store.postgres.errors import translate

_APPLICATION: Final = "auditrelay setup"


def set_up(address: Address) -> bool:
    """
    Make the schema of *address* with its tables; return false if it was there already.

    It blocks. Raises StateError if the database cannot be reached, or the role may not, or if the
    schema is one that this version cannot use.
    """
    try:
        with address.connect(_APPLICATION) as raw:
            (before,) = raw.execute(
                "select exists (select from pg_class join pg_namespace n on n.oid = relnamespace"
                " where nspname = %s and relname = 'meta')",
                (address.schema,),
            ).fetchall()[0]
            schema.create(Connection(raw, address.schema))
    except psycopg.Error as error:
        raise translate(error) from error
    return not before


def grants(name: str, role: str) -> str:
    """Return the SQL by which *role* may run the service on the schema *name*, and no more."""
    name, role = quoted(name), quoted(role)
    return (
        f"grant usage on schema {name} to {role};\n"
        f"grant select, insert, update, delete on all tables in schema {name} to {role};\n"
        f"grant execute on all functions in schema {name} to {role};\n"
    )
