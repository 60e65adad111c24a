"""What one sink writes to the store, repeated until the disk has room for it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from auditrelay.deliver.open_requests import OpenRequests
from auditrelay.errors import StoreFull
from auditrelay.http.retry import pause
from auditrelay.store import DeadLetter, Store
from auditrelay.store.progress import Range

ROOM_INTERVAL: Final = 1.0
"""Seconds between two tries to write on a full disk."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class PatientStore:
    """Writes for the sink called *name*; a full disk delays a write and never loses it."""

    def __init__(self, name: str, store: Store, requests: OpenRequests) -> None:
        self._name = name
        self._store = store
        self._requests = requests

    async def settle(self, done: Sequence[Range], dead: Sequence[DeadLetter] = ()) -> None:
        """Write, in one transaction, that the ranges in *done* are done, and the *dead* letters."""
        await self._until_written(lambda: self._store.settle(self._name, done, dead))

    async def note(self, condition: Mapping[str, object]) -> None:
        """Write how the sink fares."""
        await self._until_written(lambda: self._store.save_condition("sink", self._name, condition))

    async def _until_written(self, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await write()
            except StoreFull as error:
                _log.warning("verdict_unwritten", sink=self._name, reason=str(error))
                await pause(ROOM_INTERVAL)
                self._requests.still_working()
