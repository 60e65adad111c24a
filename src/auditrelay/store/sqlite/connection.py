"""A connection to the file of the state."""

import sqlite3
from typing import Final

from auditrelay.evidence.heads import Keys
from auditrelay.store.sql.dialect import SQLITE, Dialect


class Connection(sqlite3.Connection):
    """A connection to the state that has the *keys*, if there are any."""

    keys: Keys | None = None
    dialect: Final[Dialect] = SQLITE
