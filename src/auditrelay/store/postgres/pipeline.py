"""
The pipeline of one connection: statements are sent together, and their results read in order.

It works on libpq, below psycopg's own cursors, for three reasons: a statement goes out only when
its result is needed; a wait has a deadline of our own, for there may be a load balancer that
acknowledges bytes for a dead server; and nothing ever sends a cancel request, which would end the
wait of a COMMIT for a standby as if it had been replicated.
"""

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from auditrelay.store.postgres.values import formats

_BINARY: Final = Format.BINARY


class Reply:
    """What the server has to say about one statement, once that has been read."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        self.result: PGresult | None = None


class Pipeline:
    """
    The statements that were sent on *raw* and not yet replied to.

    A wait for a reply ends when :meth:`allow` says; the connection is then closed, and what was
    sent has an unknown outcome.

    Everything here raises psycopg.Error; the first one of a transaction is raised again by all that
    comes later in it, until :meth:`abandon`.
    """

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw
        self._pgconn = raw.pgconn
        self._deadline = self._longest = 0.0
        self._last: PGresult | None = None
        self._sent: deque[Reply] = deque()
        self._error: psycopg.Error | None = None
        self._transformer = Transformer(raw)
        self._poll = select.poll()
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._poll.register(self._pgconn.socket, select.POLLIN)

    def allow(self, seconds: float, *, each: bool) -> None:
        """Let all that follows take *seconds* together, or *each* wait so many."""
        self._longest = seconds
        self._deadline = float("inf") if each else time.monotonic() + seconds

    def send(self, sql: bytes, parameters: Sequence[Any]) -> Reply:
        """Queue a statement; return its reply, which :meth:`receive` waits for."""
        self._check()
        if parameters:
            values, types, forms = self._dumped(parameters)
            self._pgconn.send_query_params(sql, values, types, forms, _BINARY)
        else:
            self._pgconn.send_query_params(sql, None, result_format=_BINARY)
        return self._expect()

    def send_many(self, sql: bytes, rows: Sequence[Sequence[Any]]) -> None:
        """
        Queue a statement once for each of *rows*; the server parses it once.

        It is the unnamed statement, which no pooler needs to know of.
        """
        prepared: Any = None
        for row in rows:
            self._check()
            values, types, forms = self._dumped(row)
            if types != prepared:
                self._pgconn.send_prepare(b"", sql, types)
                self._expect()
                prepared = types
            self._pgconn.send_query_prepared(b"", values, forms, _BINARY)
            self._expect()

    def receive(self, reply: Reply) -> PGresult:
        """Return the result of *reply*, once it is there."""
        if reply.result is None:
            self._check()
            # Not a mere flush, though no transaction ends here: pgbouncer 1.18 may give the server
            # to another client while it works on what came without a sync: the replies are lost.
            self.sync()
            self._wait(lambda: reply.result is not None)
        if self._error is not None:
            raise self._error
        assert reply.result is not None  # noqa: S101  # waited for
        return reply.result

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of *result*."""
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def finish(self) -> None:
        """Wait for all replies; raise the error if there was one."""
        self._check()
        self.sync()
        self._wait(lambda: not self._sent)
        if self._error is not None:
            raise self._error

    def finish_later(self) -> None:
        """
        Send what is queued; what comes next on this connection waits for its replies, too.

        Nothing may be queued but what cannot fail without that showing there as well.
        """
        self._check()
        self.sync()
        if self._pgconn.flush():
            self._wait(lambda: not self._sent)

    @property
    def unread(self) -> int:
        """How many replies were not waited for."""
        return len(self._sent)

    def sync(self) -> None:
        """Queue the end of what fails together; the server goes on behind it after an error."""
        self._pgconn.pipeline_sync()
        self._expect()

    def abandon(self) -> None:
        """Roll the transaction back, whatever has become of it, and forget its error."""
        self._error = None
        self.sync()
        self.send(b"rollback", ())
        self.sync()
        self._wait(lambda: not self._sent)
        self._error = None

    def interrupt(self) -> None:
        """Let what waits for the server fail as if it had gone, from any thread."""
        with (
            contextlib.suppress(OSError, psycopg.Error),  # it has gone, or is closed
            socket.socket(fileno=os.dup(self._pgconn.socket)) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, without a word to the server."""
        self._raw.close()

    def _dumped(self, row: Sequence[Any]) -> tuple[Any, Any, Any]:
        values = self._transformer.dump_sequence(row, formats(row))
        return values, self._transformer.types, self._transformer.formats

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _expect(self) -> Reply:
        reply = Reply()
        self._sent.append(reply)
        return reply

    def _wait(self, done: Callable[[], bool]) -> None:
        """Send and read until *done*, or until the deadline."""
        handle, end = self._pgconn.socket, min(self._deadline, time.monotonic() + self._longest)
        try:
            while not done():
                more = self._pgconn.flush()
                self._poll.modify(handle, select.POLLIN | (select.POLLOUT if more else 0))
                left = end - time.monotonic()
                if left <= 0 or not self._poll.poll(left * 1000):
                    raise psycopg.OperationalError("the server has not replied in time")
                self._pgconn.consume_input()
                self._take()
        except psycopg.Error as error:
            # What the server said last tells more than that it then closed the connection.
            self._error = self._error or error
            self.close()
            raise self._error from None

    def _take(self) -> None:
        """Take the results that are there."""
        while self._sent and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                if self._last is None:
                    return
                self._sent.popleft().result, self._last = self._last, None
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                self._sent.popleft().result = result
                continue
            if result.status == ExecStatus.FATAL_ERROR and self._error is None:
                self._error = error_from_result(result)
            self._last = result
