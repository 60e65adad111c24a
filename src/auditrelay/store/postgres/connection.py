"""A connection to PostgreSQL as the logic of the store uses it: one transaction after the other."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Final
from zlib import crc32

import psycopg
from psycopg.errors import Diagnostic

from auditrelay.errors import StateError
from auditrelay.evidence.heads import Keys
from auditrelay.store.postgres.pipeline import Pipeline, Reply
from auditrelay.store.postgres.placeholders import statement
from auditrelay.store.postgres.values import adapt, parameters
from auditrelay.store.sql.connection import Parameters
from auditrelay.store.sql.dialect import POSTGRES, Dialect

REQUEST: Final = 30.0
"""Seconds that a transaction may take in the server."""

SNAPSHOT: Final = 600.0
"""Seconds that one statement may take which reads a snapshot: it may count all that is known."""

_STEP: Final = 2_000
"""How many rows of a stream are read at once."""

_SETTINGS: Final = (
    "select set_config('search_path', '{path}', true), set_config('lock_timeout', '10s', true), "
    "set_config('idle_in_transaction_session_timeout', '{idle}', true)"
)

_TRANSACTION_TIMEOUT: Final = ", set_config('transaction_timeout', '30s', true)"
"""From PostgreSQL 17 on: it alone also ends a transaction of which only one half was sent."""

_ON_DISK: Final = (
    ", set_config('synchronous_commit', "
    "coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)"
)
"""A commit that is acknowledged is on disk, whatever the role or the database have set."""

_NAMESPACE: Final = 0x41524C59
"""The first half of our advisory locks: other programs may lock other numbers."""


def quoted(name: str) -> str:
    """Return *name* as an identifier."""
    return '"' + name.replace('"', '""') + '"'


class Cursor:
    """The rows that a statement has found; the first look at them sends all that is queued."""

    def __init__(self, pipeline: Pipeline, reply: Reply) -> None:
        self._pipeline = pipeline
        self._reply = reply
        self._rows: Iterator[tuple[Any, ...]] | None = None

    @property
    def rowcount(self) -> int:
        """How many rows the statement has changed, or found."""
        return self._pipeline.receive(self._reply).command_tuples or 0

    def fetchone(self) -> Any:
        """Return the next row; None if there is none."""
        return next(self._look(), None)

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        return list(self._look())

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        return self._look()

    def _look(self) -> Iterator[tuple[Any, ...]]:
        if self._rows is None:
            self._rows = iter(self._pipeline.rows(self._pipeline.receive(self._reply)))
        return self._rows


class Connection:
    """
    Runs statements in the tables of *schema* on *raw*, which is in autocommit, with *keys* or none.

    Nothing is set for the session and nothing is prepared, so *raw* may lead to a pooler that gives
    each transaction another server connection. Statements are queued, and sent when one's result is
    looked at or by :meth:`commit`; so their errors, all psycopg.Error, are raised there.

    A transaction may take *limit* seconds.

    Raises StateError if *raw* does not speak UTF-8.
    """

    dialect: Dialect = POSTGRES

    def __init__(
        self,
        raw: psycopg.Connection[Any],
        schema: str,
        *,
        keys: Keys | None = None,
        limit: float = REQUEST,
    ) -> None:
        if raw.pgconn.parameter_status(b"client_encoding") != b"UTF8":
            raise StateError("the connection to the store is not in UTF-8")
        adapt(raw)
        raw.add_notice_handler(self._notice)
        self.keys = keys
        self.schema = schema
        self._raw = raw
        self._limit = limit
        self._pipeline = Pipeline(raw)
        self._streams = count()
        self._warned = False
        self._made: dict[tuple[bool, bool], bytes] = {}
        # Two states in one database do not wait for each other.
        key = _NAMESPACE << 32 | crc32(schema.encode())
        self._lock = f"select pg_advisory_xact_lock({key})"

    @property
    def closed(self) -> bool:
        """Whether the connection was closed, by either side."""
        return self._raw.closed

    def execute(self, sql: str, values: Parameters = (), /) -> Cursor:
        """Queue one statement."""
        made = statement(sql)
        reply = self._pipeline.send(made.sql, parameters(values, made.names, made.number))
        return Cursor(self._pipeline, reply)

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> None:
        """Queue one statement that returns nothing with each of *rows*."""
        made = statement(sql)
        self._pipeline.send_many(
            made.sql, [parameters(row, made.names, made.number) for row in rows]
        )

    def stream(self, sql: str, values: Parameters = (), /) -> Iterator[Any]:
        """Yield the rows that *sql* finds, some thousand at a time: they need not fit in memory."""
        name = f"stream_{next(self._streams)}"
        self.execute(f"declare {name} no scroll cursor for {sql}", values)
        while rows := self.execute(f"fetch {_STEP} from {name}").fetchall():
            yield from rows
        self.execute(f"close {name}")

    def begin(self, *, write: bool, snapshot: bool = False, alone: bool = True) -> None:
        """
        Queue the beginning of a transaction.

        One that is to *write* waits until no other replica writes, unless it need not be *alone*:
        no part of the state proper is written then. A *snapshot* sees the state as it was at its
        first statement, and may take longer.
        """
        isolation = "repeatable read" if snapshot else "read committed"
        access = "read write" if write else "read only"
        self._pipeline.allow(SNAPSHOT if snapshot else self._limit, each=snapshot)
        self.execute(f"begin isolation level {isolation}, {access}")
        settings = self._settings(write=write, is_long=snapshot or self._limit > REQUEST)
        self._pipeline.send(settings, ())
        if write and alone:
            self.execute(self._lock)

    def _settings(self, *, write: bool, is_long: bool) -> bytes:
        """Return the statement with the settings of a transaction; without parameters to send."""
        if (made := self._made.get((write, is_long))) is None:
            path = f"{quoted(self.schema)}, pg_temp".replace("'", "''")
            idle = f"{max(SNAPSHOT, self._limit):.0f}s" if is_long else "10s"
            text = _SETTINGS.format(path=path, idle=idle)
            if self._raw.info.server_version >= 170000 and not is_long:
                text += _TRANSACTION_TIMEOUT
            made = self._made[write, is_long] = (text + (_ON_DISK if write else "")).encode()
        return made

    def commit(self) -> None:
        """
        Send what is queued, and commit.

        Raises psycopg.Error; the transaction is then still to be rolled back. If the connection was
        lost, :attr:`closed`, it may have been committed all the same.
        """
        self._warned = False
        self.execute("commit")
        self._pipeline.finish()
        if self._warned:
            # An operator has ended the wait for a standby: nothing says that it is replicated.
            self.close()
            raise psycopg.OperationalError("the commit may not have been replicated")

    def end(self) -> None:
        """
        End a transaction that has only read.

        Its commit is not waited for if all its results were: there is nothing more to learn.
        Raises psycopg.Error, as :meth:`commit` does.
        """
        if self._pipeline.unread:  # it may be a statement that was to write
            self.commit()
            return
        self.execute("commit")
        self._pipeline.finish_later()

    def roll_back(self) -> None:
        """Roll back; the connection is closed if that cannot be done."""
        if self.closed:
            return
        try:
            self._pipeline.abandon()
        except psycopg.Error:
            self.close()

    def interrupt(self) -> None:
        """Let what waits for the server fail as if it had gone, from any thread."""
        self._pipeline.interrupt()

    def close(self) -> None:
        """Close the connection; what it has begun is undone."""
        self._pipeline.close()

    def _notice(self, notice: Diagnostic) -> None:
        if notice.sqlstate == "01000":
            self._warned = True
