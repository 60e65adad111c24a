"""
A uvicorn server that sleeps while there is no request.

uvicorn wakes ten times a second: to check whether it should stop, and once a second to update the
header ``Date``. A daemon that polls every five minutes would wake 3,000 times in between for that,
and keep a laptop or a small virtual machine from sleeping. So the stop is an event here, and
``Date`` is updated when data arrive.

This replaces ``Server.main_loop`` and with it ``Server.on_tick``, of which nothing else is in use
here: no ``callback_notify``, no ``limit_max_requests``, no further default headers. A test compares
both with the versions that this was written against.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from email.utils import formatdate
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

LAST_SECONDS: Final = 0.5
"""How long clients may take to read the last answers after the stop."""

HEAD_SECONDS: Final = 10.0
"""How long a client may take to send the head of its first request."""


class _Protocol(H11Protocol):
    _has_begun = False
    _impatience: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Give the client HEAD_SECONDS: until the head is there uvicorn would wait for ever."""
        super().connection_made(transport)
        self._impatience = self.loop.call_later(HEAD_SECONDS, self._close_without_request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._impatience.cancel()
        super().connection_lost(exc)

    def _close_without_request(self) -> None:
        if not self.cycle:
            self.transport.close()

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


class IdleServer(uvicorn.Server):
    """A server of *app* without an access log, until :meth:`stop`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
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
