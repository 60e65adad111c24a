"""
A uvicorn server that sleeps while there is no request, and that no client can keep busy.

uvicorn wakes ten times a second: to check whether it should stop, and once a second to update the
header ``Date``. A daemon that polls every five minutes would wake 3,000 times in between for that,
and keep a laptop or a small virtual machine from sleeping. So the stop is an event here, and
``Date`` is updated when data arrive.

This replaces ``Server.main_loop`` and with it ``Server.on_tick``, of which nothing else is in use
here: no ``callback_notify``, no ``limit_max_requests``, no further default headers. A test compares
both with the versions that this was written against.

uvicorn keeps any number of connections, and waits for a request for as long as its client likes.
Here no client can take away the descriptors that sources and sinks need.
"""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import Iterator
from email.utils import formatdate
from typing import Final, cast

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

LAST_SECONDS: Final = 0.5
"""How long clients may take to read the last answers after the stop."""


MAX_CONNECTIONS: Final = 64
"""Most connections. The oldest is closed for a new one, one that waits for its request first."""

SHARE_OF_DESCRIPTORS: Final = 4
"""Where few descriptors are allowed, connections may take one in so many of them."""

REQUEST_SECONDS: Final = 5.0
"""How long a whole request may take, from the connection or from the last answer on it."""

REQUEST_STEPS: Final = 5
"""
How often the loop must have turned by then: where it is slow, what has come is not read yet, and
the client is not to blame.
"""

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

ACCEPTED_AT_ONCE: Final = 1
"""
Connections that are accepted before what was accepted is counted. asyncio tries as often at least
when there is no descriptor, and for each failure begins again after a second: with more than one
these attempts multiply until they take the whole processor.
"""


USER: Final = "user"
"""The key of the ``state`` of a request on a Unix socket: the id of the user who has made it."""

_UCRED: Final = struct.Struct("iII")
"""Process, user and group: ``struct ucred`` of unix(7)."""


class _Protocol(H11Protocol):
    _has_begun = False
    since = 0.0
    """Since when it waits for a request, or answers one (seconds of the loop)."""
    _deadline: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Make room for the connection, and give it time for its request."""
        super().connection_made(transport)
        if (user := user_of(transport.get_extra_info("socket"))) is not None:
            self.app_state = {**self.app_state, USER: user}  # of this connection alone
        self._await_request()
        connections = cast("set[_Protocol]", self.connections)
        open_ones = [each for each in connections if not each.transport.is_closing()]
        if len(open_ones) > max_connections():
            oldest = min(open_ones, key=lambda each: (each.answering, each.since))
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Give the client time for its next request, unless it has begun already."""
        super().on_response_complete()
        if not (self.answering or self.transport.is_closing()):
            self._await_request()

    def _await_request(self) -> None:
        self._stop_waiting()
        self.since = self.loop.time()
        self._wait_on(REQUEST_STEPS)

    def _wait_on(self, steps: int) -> None:
        if steps:
            step = REQUEST_SECONDS / REQUEST_STEPS
            self._deadline = self.loop.call_later(step, self._wait_on, steps - 1)
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def data_received(self, data: bytes) -> None:
        """
        Set the header Date, which uvicorn does in the loop that is not run here.

        Close a connection that begins with something else than a method, such as JSON: h11 would
        wait for the end of its headers, which never comes.
        """
        if not self._has_begun and not data[:1].isalpha():
            self.transport.close()
            return
        self._has_begun = True
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)
        if self.answering:
            self._stop_waiting()


def user_of(connection: socket.socket) -> int | None:
    """Return the id of the user at the other end of a *connection*, as the kernel has kept it."""
    if connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, user, _ = _UCRED.unpack(credentials)
    return int(user)


def max_connections() -> int:
    """Return how many connections there may be with the descriptors that the process may have."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, descriptors // SHARE_OF_DESCRIPTORS))


class IdleServer(Server):
    """A server of *app* without an access log, until :meth:`stop`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            Config(
                app,
                http=_Protocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                backlog=ACCEPTED_AT_ONCE,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End ``serve``."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the instance, which has more to stop than this server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; the system holds more connections back than are accepted at once."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)

    async def main_loop(self) -> None:
        """Wait for the stop."""
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """
        Send the last answers, for LAST_SECONDS.

        After that a connection whose client does not read is closed, and so its request ends.
        uvicorn would cancel the request instead, after a second, and log a traceback.
        """
        closing = asyncio.get_running_loop().call_later(LAST_SECONDS, self._abort)
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()

    def _abort(self) -> None:
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
