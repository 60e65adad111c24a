"""A control socket that serves for a while."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.daemon import eventually

from auditrelay.collect.on_progress import OnProgress
from auditrelay.service.control_socket import SOCKET, serve

Handle = Callable[[dict[str, Any], OnProgress], Awaitable[dict[str, Any]]]


async def silent(_: dict[str, Any]) -> None: ...


@contextlib.asynccontextmanager
async def service(folder: Path, handle: Handle) -> AsyncIterator[asyncio.Task[None]]:
    """Serve from *folder* for the length of a ``with`` block."""
    serving = asyncio.ensure_future(serve(folder, handle))
    async with asyncio.timeout(10):
        await eventually(lambda: (folder / SOCKET).is_socket() or serving.done())
        yield serving
        serving.cancel()
        await asyncio.wait([serving])
