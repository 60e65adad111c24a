"""When a replica registers what is configured in the store that it shares."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from auditrelay.clock import Clock
from auditrelay.errors import LeaseLost, RolledBack, StoreFull
from auditrelay.service.membership import Loss

AGAIN: Final = 5.0
"""Seconds after which it is tried again, if the store was full."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Registering:
    """
    Registers by *register*, once: not before the store has our key, nor afterwards.

    *refused* is called if the store refuses what this replica writes, *done* once it has succeeded.
    """

    def __init__(
        self,
        register: Callable[[], Awaitable[None]],
        *,
        clock: Clock,
        refused: Callable[[Loss], None],
        done: Callable[[], None],
    ) -> None:
        self.is_done = False
        self._register = register
        self._clock = clock
        self._refused = refused
        self._done = done
        self._task: asyncio.Task[None] | None = None

    def begin(self, do: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Begin in a task that *do* makes, unless that is done already."""
        if self._task is None or self._task.done():
            self._task = do(self._try())

    async def _try(self) -> None:
        try:
            await self._register()
        except LeaseLost as error:
            self._refused(Loss.ROLLED_BACK if isinstance(error, RolledBack) else Loss.FENCED)
        except StoreFull as error:
            _log.warning("replica_not_registered", reason=str(error))
            await self._clock.sleep(AGAIN)
        else:
            self.is_done = True
            self._done()
