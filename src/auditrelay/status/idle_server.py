"""
A uvicorn server that sleeps while there is no request.

uvicorn wakes ten times a second: to see whether it should stop, and once a second to write the
header ``Date`` anew. A daemon that polls every five minutes would be woken 3,000 times for that
in between, and keep a laptop or a small virtual machine from sleeping. So the stop is an event
here, and ``Date`` is written when data arrive.

This replaces ``Server.main_loop`` and with it ``Server.on_tick``, of which nothing else is in use
here: no ``callback_notify``, no ``limit_max_requests``, no further default headers. A test compares
both with what they were when this was written.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol


class _DatedProtocol(H11Protocol):
    def data_received(self, data: bytes) -> None:
        """Set the header Date, which uvicorn would do in the loop that is not run here."""
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)


class IdleServer(uvicorn.Server):
    """Serves *app*, without a log of its own, until :meth:`stop`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_DatedProtocol,
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
        """Leave the signals to the instance: it has more to stop than this."""
        yield

    async def main_loop(self) -> None:
        """Wait for the stop."""
        await self._stopping.wait()
