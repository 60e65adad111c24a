"""
The connections to one peer: HTTP/1.1 on asyncio and httptools, in the shape of httpx's transports.

httpx's own transport (httpcore, h11, anyio) takes several times the processor time for a page, and
more memory. It is only used, and imported, for a peer behind a proxy.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from auditrelay.http.connection import Connection, Origin
from auditrelay.http.dial import dial
from auditrelay.http.parser import ReplyParser

MAX_IDLE = 64
"""Most connections kept open for later requests."""

IDLE_SECONDS = 5.0
"""How long a connection is kept for: shorter than the time after which servers close theirs."""


class HandshakeError(httpx.ConnectError):
    """The peer accepted the connection, and the handshake of TLS was not completed."""


class Transport(httpx.AsyncBaseTransport):
    """
    Connections of our own to any number of addresses, with *tls* for those with ``https``.

    There is no limit on their number, no redirect, no proxy, and no timeout but that for
    connecting; the caller has one for the whole request. Requests and replies are httpx's. Raises
    ConnectError and ConnectTimeout if nothing was sent, WriteError if the connection broke before
    the whole request was, ReadError if it broke later, and NotHttpError if the reply is not HTTP.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls
        self._existing: set[Connection] = set()
        self._idle: list[Connection] = []
        """The longest idle ones first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*, and return the reply, of which the body may still have to come."""
        url = request.url
        tls = url.scheme == "https"
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or (443 if tls else 80))
        head, body = _head(request), await request.aread()
        idle = self._take(origin)
        if idle is not None:
            try:
                return await self._exchange(idle, request.method, head, body)
            except httpx.NetworkError:
                if self._closed or not idle.may_resend(request.method):
                    raise
        connection = await self._connect(origin, request.extensions["timeout"]["connect"])
        return await self._exchange(connection, request.method, head, body)

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._idle.clear()
        for connection in tuple(self._existing):
            connection.close()
        await asyncio.sleep(0)  # asyncio closes their sockets in the next turn of the loop

    async def _exchange(
        self, connection: Connection, method: str, head: bytes, body: bytes
    ) -> httpx.Response:
        try:
            reply = await connection.exchange(method, head, body)
        except BaseException:
            connection.close()
            raise
        stream = _Body(connection, reply, self._keep)
        return httpx.Response(reply.status, headers=reply.headers, stream=stream)

    async def _connect(self, origin: Origin, seconds: float) -> Connection:
        scheme, host, port = origin
        tls = self._tls if scheme == "https" else None
        async with _no_connection(seconds) as state:
            sock = await dial(host, port)
            state.reached = True
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(origin, self._existing),
                sock=sock,
                ssl=tls,
                server_hostname=host if tls else None,
            )
        return connection

    def _take(self, origin: Origin) -> Connection | None:
        """Return the connection that was used last, if one is left that is usable."""
        for connection in reversed(self._idle):
            if connection.origin == origin:
                self._idle.remove(connection)
                if connection.usable:
                    return connection
                connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        """Keep *connection* for later requests, for a while."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._idle.pop(0).close()
        if self._timer is None:
            self._timer = loop.call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Close what was idle for too long. Nothing wakes the process once all are closed."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + IDLE_SECONDS <= loop.time():
            self._idle.pop(0).close()
        self._timer = None
        if self._idle:
            at = self._idle[0].idle_since + IDLE_SECONDS
            self._timer = loop.call_at(at, self._close_idle)


class _Body(httpx.AsyncByteStream):
    """The body of *reply*, read from *connection*, which is passed to *keep* if it is reusable."""

    def __init__(
        self, connection: Connection, reply: ReplyParser, keep: Callable[[Connection], None]
    ) -> None:
        self._connection = connection
        self._reply = reply
        self._keep = keep
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self._connection.read(self._reply)
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Give the connection back; it is closed if the body was not read to its end."""
        if self._open:
            self._open = False
            if self._connection.finish(self._reply):
                self._keep(self._connection)


@dataclass(slots=True)
class _State:
    """Whether the peer was *reached*, so that only the handshake can be missing."""

    reached: bool = False


@asynccontextmanager
async def _no_connection(seconds: float) -> AsyncIterator[_State]:
    """Raise httpx's error if there is no connection after *seconds*, or cannot be one."""
    state = _State()
    try:
        async with asyncio.timeout(seconds):
            yield state
    except (OSError, UnicodeError) as error:  # UnicodeError: not a name that DNS can have
        if state.reached:
            raise HandshakeError(str(error)) from error
        if isinstance(error, TimeoutError):
            raise httpx.ConnectTimeout("connecting took too long") from error
        raise httpx.ConnectError(str(error)) from error


def _head(request: httpx.Request) -> bytes:
    """Return the head of *request*. Raises httpx.LocalProtocolError if a header cannot be sent."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    # No header may end its own line and begin another (RFC 9110, 5.5).
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or 0 in head:
        raise httpx.LocalProtocolError("a header of the request contains the end of a line")
    return head + b"\r\n\r\n"


def proxied(address: str, tls: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    """Return httpx's own transport, through the proxy at *address*, which *tls* verifies too."""
    proxy = httpx.Proxy(address, ssl_context=tls if address.startswith("https:") else None)
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=MAX_IDLE, keepalive_expiry=IDLE_SECONDS
    )
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits, proxy=proxy)
