"""
A daemon whose loops stall while a file exists.

The product has no code for this. The files are in one folder:

* ``stuck``: a walk that begins waits until the file is deleted;
* ``unscheduled``: polls do not begin;
* ``blocked``: the event loop is blocked until the file is deleted.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import auditrelay.collect.reader
from auditrelay.collect.collector import Collector
from auditrelay.service import instance_view
from auditrelay.service.topology import Topology

_walk = vars(auditrelay.collect.reader)["walk"]
_register = Topology.register
_poll = Collector._poll


@dataclass(frozen=True)
class Stall:
    """A fault: loops stall while a file is in *folder*, and count as stuck after one second."""

    folder: Path

    def __call__(self) -> None:
        """Replace the loops of this process."""
        vars(auditrelay.collect.reader)["walk"] = self._stalling_walk
        # Seconds instead of hours.
        vars(instance_view).update(STUCK=timedelta(seconds=1), MAX_SOURCE_WAIT=0.0)

        async def poll(collector: Collector) -> None:
            if not (self.folder / "unscheduled").exists():
                await _poll(collector)

        async def register_and_block(topology: Topology) -> None:
            await _register(topology)
            self._block(asyncio.get_running_loop())

        Collector._poll = poll  # type: ignore[assignment, method-assign]  # the fault
        Topology.register = register_and_block  # type: ignore[assignment, method-assign]  # as above

    async def _stalling_walk(self, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        while (self.folder / "stuck").exists():  # noqa: ASYNC110  # the test is in another process
            await asyncio.sleep(0.05)
        async for page in _walk(*arguments, **named):
            yield page

    def _block(self, loop: asyncio.AbstractEventLoop) -> None:
        while (self.folder / "blocked").exists():
            time.sleep(0.05)
        loop.call_later(0.05, self._block, loop)
