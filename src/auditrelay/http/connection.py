"""One connection: the bytes of a request to the peer, and those of its reply back."""

import asyncio
import contextlib
import os
import select
from typing import cast

import httpx

from auditrelay.http.parser import ReplyParser

READ_BYTES = 120 * 1024
"""Most bytes read at once."""

_buffer = memoryview(bytearray(READ_BYTES))
"""
Where all connections read to: the bytes are parsed before anything else can run in the loop, of
which a process has one. Each peer having its own would cost the service at rest a megabyte.
"""

READ_AHEAD_BYTES = 1024 * 1024
"""A body is handed over when it is complete or so long; the peer is not read until it was taken."""

WRITE_BYTES = 128 * 1024
"""Most bytes of a request's body handed to asyncio at once, which may copy them."""

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class NotHttpError(httpx.RemoteProtocolError):
    """A reply is not HTTP. The text says why, and contains nothing of the reply."""


class Connection(asyncio.BufferedProtocol):
    """
    A connection to *origin*, for one request at a time.

    It is in the set *existing* for as long as it exists.
    """

    def __init__(self, origin: Origin, existing: set["Connection"]) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._existing = existing
        self._transport: asyncio.Transport
        self._readable = select.poll()
        self._reply: ReplyParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._nothing_read = True
        self._sent = False
        self._write_failed = False
        self._writing_paused = False
        self._reading_paused = False
        self._ended = False
        self._cause: Exception | None = None

    @property
    def usable(self) -> bool:
        """Whether an idle connection can take a request: it is open, and the peer is silent."""
        # Asked of the system: the loop may not have seen yet that the peer has closed it.
        return not (self._ended or self._transport.is_closing() or self._readable.poll(0))

    async def exchange(self, method: str, head: bytes, body: bytes) -> ReplyParser:
        """
        Send a request, and return the reply when it is complete or READ_AHEAD_BYTES have come.

        A refusal ends the sending (RFC 9112, 9.5). Another reply does not, and counts only if the
        whole request was sent: no peer can have accepted what it did not get. Raises
        httpx.WriteError if the connection breaks before that and without a word of the peer,
        ReadError if it breaks otherwise, NotHttpError if the reply is not HTTP.
        """
        reply = self._reply = ReplyParser(method)
        self._sent, self._nothing_read = False, True
        self._write(head + body[:WRITE_BYTES])
        rest = memoryview(body)[WRITE_BYTES:]
        while (rest or self._writing_paused) and reply.status < 400:
            if self._writing_paused or self._write_failed or self._ended:
                await self._event(reply)
            else:
                self._write(rest[:WRITE_BYTES])
                rest = rest[WRITE_BYTES:]
        self._sent = not (rest or self._writing_paused or self._write_failed)
        while not reply.head_complete:
            await self._event(reply)
        if not self._sent and reply.status < 400:
            raise self._broken()
        return reply

    async def read(self, reply: ReplyParser) -> bytes:
        """Return the next bytes of the body of *reply*; none at its end. Raises as exchange."""
        while not (reply.untaken or reply.complete):
            if self._ended and not self._sent:
                return b""  # a refusal, of which a reset can destroy the rest (RFC 9112, 9.6)
            await self._event(reply)
        data = reply.take()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def may_resend(self, method: str) -> bool:
        """
        Return whether a failed request can be sent again, on another connection.

        It can if the peer has said nothing, and the request changes nothing (RFC 9110, 9.2.2) or
        was not sent to its end: the peer has closed an idle connection (RFC 9112, 9.3.1).
        """
        return self._nothing_read and (not self._sent or method in ("GET", "HEAD"))

    def finish(self, reply: ReplyParser) -> bool:
        """Return whether the connection can take another request; close it if not."""
        self._reply = None
        if reply.complete and reply.reusable and self._sent and not self._reading_paused:
            return True
        self.close()
        return False

    def close(self) -> None:
        """Close the connection at once; a request on it fails."""
        self._end(None, closed=False)
        self._transport.abort()

    def _write(self, data: bytes | memoryview) -> None:
        self._transport.write(data)
        self._write_failed = self._transport.is_closing()

    async def _event(self, reply: ReplyParser) -> None:
        """Wait for the next event. Raises if *reply* is wrong, or no more events can come."""
        if reply.problem:
            raise NotHttpError(reply.problem)
        if self._ended:
            raise self._broken()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _broken(self) -> Exception:
        if self._cause is not None and not isinstance(self._cause, OSError):
            return self._cause  # a bug in what asyncio calls, which has closed the connection
        kind = httpx.ReadError if self._sent or not self._nothing_read else httpx.WriteError
        # Not kept: its traceback would keep the connection and what was read.
        error = kind("the connection has ended")
        error.__cause__ = self._cause
        return error

    def _end(self, cause: Exception | None, *, closed: bool) -> None:
        """Note the end, its *cause*, and whether it is the peer that has *closed* in good order."""
        if not self._ended:
            self._ended, self._cause = True, cause
            if self._reply is not None:
                self._reply.end(closed=closed)
            self._wake()

    # --- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        # Writing is paused until all was sent. (At 0, asyncio's TLS would pause it for good.)
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._readable.register(transport.get_extra_info("socket"), select.POLLIN)
        self._existing.add(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to read to."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        self._nothing_read = False
        if self._reply is None:
            self.close()  # nothing was asked; often it is 408 before the peer closes
            return
        self._reply.feed(_buffer[:nbytes])
        if self._reply.untaken >= READ_AHEAD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        # Not for each piece: that costs more than reading it. Of a refusal the head is enough.
        if (
            self._reading_paused
            or self._reply.complete
            or self._reply.problem
            or self._reply.status >= 300
            or not self._sent
        ):
            self._wake()

    def pause_writing(self) -> None:
        """Send nothing more for now."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Send more."""
        self._writing_paused = False
        self._wake()

    def eof_received(self) -> None:
        """Note that the peer sends nothing more; asyncio then closes the connection."""
        self._end(None, closed=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the connection."""
        self._existing.discard(self)
        if isinstance(exc, OSError) and self._transport.get_extra_info("ssl_object") is None:
            self._read_rest()
        self._end(exc, closed=False)

    def _read_rest(self) -> None:
        """
        Read what the peer has said before the connection broke.

        asyncio reads no more after a failed write, but why it failed may lie in the socket: 413 of
        a proxy that has closed the connection instead of reading the whole request.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while self._reply is not None and (count := os.readv(descriptor, [_buffer])):
                self.buffer_updated(count)
