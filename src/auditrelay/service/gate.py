"""A gate that many may pass at a time, or one alone. For tasks of one event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Who is to be alone waits for those inside, and lets no other in meanwhile."""

    def __init__(self) -> None:
        self._closed = asyncio.Lock()
        self._inside = 0
        self._left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Be inside for the length of the block, with others."""
        async with self._closed:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._left.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside for the length of the block, and no other."""
        async with self._closed:
            while self._inside:
                self._left.clear()
                await self._left.wait()
            yield
