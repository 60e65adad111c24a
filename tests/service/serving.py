"""A control socket that serves for a while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.daemon import eventually

from auditrelay.service.control_socket import SOCKET, ControlSocket
from auditrelay.service.desk import Handle, Progress


async def silent(_: Progress) -> None: ...


async def not_sealed() -> None:
    """Seal nothing: for commands that are not about the evidence."""


@contextlib.asynccontextmanager
async def service(folder: Path, handle: Handle) -> AsyncIterator[asyncio.Task[None]]:
    """Serve from *folder* for the length of a ``with`` block."""
    serving = asyncio.ensure_future(ControlSocket(folder).serve(handle))
    async with asyncio.timeout(10):
        await eventually(lambda: (folder / SOCKET).is_socket() or serving.done())
        yield serving
        serving.cancel()
        await asyncio.wait([serving])
