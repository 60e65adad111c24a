"""A connection to the file of the state."""

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from auditrelay.evidence.heads import Keys
from auditrelay.store.sql.connection import Parameters
from auditrelay.store.sql.dialect import SQLITE, Dialect


class Connection(sqlite3.Connection):
    """A connection to the state that has the *keys*, if there are any."""

    keys: Keys | None = None
    dialect: Final[Dialect] = SQLITE

    def stream(self, sql: str, parameters: Parameters = (), /) -> Iterator[Any]:
        """See ``store.sql.connection``: rows come one by one anyway."""
        return self.execute(sql, parameters)
