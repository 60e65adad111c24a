"""Write one sink's state to the store, and retry while the disk is full."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar

import structlog

from auditrelay.clock import Clock
from auditrelay.deliver.in_flight import InFlight
from auditrelay.deliver.spool import Spool
from auditrelay.errors import RelayError, StoreFull
from auditrelay.store import NOTHING_EXCLUDED, RejectedEvent
from auditrelay.store.conditions import SinkCondition
from auditrelay.store.progress import Range

T = TypeVar("T")

DISK_FULL_INTERVAL: Final = 1.0
"""Seconds between two attempts to write to a full disk."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StateWriter:
    """Writes the state of the sink called *name*; a full disk delays a write and never loses it."""

    def __init__(self, name: str, store: Spool, in_flight: InFlight, clock: Clock) -> None:
        self._name = name
        self._store = store
        self._in_flight = in_flight
        self._clock = clock

    async def settle(
        self,
        done: Sequence[Range],
        dead: Sequence[RejectedEvent] = (),
        excluded: Mapping[str, Sequence[Range]] = NOTHING_EXCLUDED,
    ) -> AbstractSet[int]:
        """
        Write, in one transaction, that the ranges in *done* are done, and the *dead* letters.

        So are those that are *excluded*, by glob. Returns the places of the dead of which a reduced
        copy is in the spool.
        """
        return await self._until_written(
            lambda: self._store.settle(self._name, done, dead, excluded)
        )

    async def save_condition(self, condition: SinkCondition) -> None:
        """Write the health of the sink."""
        await self._until_written(lambda: self._store.save_condition("sink", self._name, condition))

    async def try_save_condition(self, condition: SinkCondition) -> None:
        """Write the health of the sink if that can be done now: nothing depends on it."""
        with contextlib.suppress(RelayError):
            await self._store.save_condition("sink", self._name, condition)

    async def _until_written(self, write: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await write()
            except StoreFull as error:
                _log.warning("verdict_not_persisted", sink=self._name, reason=str(error))
                await self._clock.sleep(DISK_FULL_INTERVAL)
                self._in_flight.still_working()
