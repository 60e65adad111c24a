"""What an error of PostgreSQL means, and what can be done about it."""

from enum import Enum, auto
from typing import Final

import psycopg

from auditrelay.errors import Fenced, RelayError, StateError, StoreFull


class Kind(Enum):
    """What can be done about an error."""

    AGAIN = auto()
    """Run the same transaction again: others were in its way."""
    LOST = auto()
    """Connect again: there is no connection any more, or none that can be written on."""
    FULL = auto()
    """Wait until there is room."""
    REFUSED = auto()
    """An operator has to change something in the database or the configuration."""
    CORRUPT = auto()
    """Stop: what is stored cannot be read."""
    FENCED = auto()
    """Drop the lease."""
    BUG = auto()
    """Our SQL is wrong."""


FENCED: Final = "AR001"

_KINDS: Final = {
    FENCED: Kind.FENCED,
    "40001": Kind.AGAIN,
    "40P01": Kind.AGAIN,
    "55P03": Kind.AGAIN,
    "57014": Kind.AGAIN,  # an administrator has cancelled it, or a statement_timeout of the role
    "25006": Kind.LOST,  # read-only: the primary has become a standby
    "25P03": Kind.LOST,  # idle in transaction for too long
    "25P04": Kind.LOST,  # transaction_timeout
    "53300": Kind.LOST,
    "57P01": Kind.LOST,
    "57P02": Kind.LOST,
    "57P03": Kind.LOST,
    "57P05": Kind.LOST,
    "53100": Kind.FULL,
    "53200": Kind.FULL,
    "53400": Kind.FULL,
    "54000": Kind.FULL,
    "0A000": Kind.REFUSED,
    "3D000": Kind.REFUSED,
    "3F000": Kind.REFUSED,
    "42501": Kind.REFUSED,
    "42P01": Kind.REFUSED,
    "XX001": Kind.CORRUPT,
    "XX002": Kind.CORRUPT,
    "58030": Kind.CORRUPT,
}

_CLASSES: Final = {"08": Kind.LOST, "28": Kind.REFUSED}
"""By the first two characters of a SQLSTATE."""

_REFUSALS: Final = (
    "password authentication failed",
    "no password supplied",
    "authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "certificate",
    "server does not support SSL",
    "not permitted to log in",
)
"""What libpq says when it cannot connect, and where waiting does not help: it gives no SQLSTATE."""


def kind_of(error: psycopg.Error) -> Kind:
    """Return what can be done about *error*."""
    state = error.sqlstate
    if state is None:
        if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return Kind.BUG
        # Otherwise the socket failed, or there was none.
        return Kind.REFUSED if any(each in str(error) for each in _REFUSALS) else Kind.LOST
    return _KINDS.get(state) or _CLASSES.get(state[:2], Kind.BUG)


def words_of(error: psycopg.Error) -> str:
    """Return what *error* says, in one line; without its details, which may have stored values."""
    return error.diag.message_primary or " ".join(str(error).split())


def translate(error: psycopg.Error) -> RelayError | psycopg.Error:
    """Return what to raise for *error*: itself if it is a bug of ours."""
    kind, words = kind_of(error), words_of(error)
    if kind is Kind.BUG:
        return error
    if kind is Kind.FULL:
        return StoreFull(f"no room for the state in the database: {words}")
    if kind is Kind.FENCED:
        return Fenced(words)
    return StateError(f"{_SENTENCES[kind]}: {words}")


_SENTENCES: Final = {
    Kind.AGAIN: "others are in the way of the state in the database",
    Kind.LOST: "the database with the state cannot be reached",
    Kind.REFUSED: "the database refuses to keep the state",
    Kind.CORRUPT: "the state in the database is damaged; restore it from a backup",
}
