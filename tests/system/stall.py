"""
Runs the daemon with loops that stall while a file exists.

The product has no code for this. The folder with the files is in ``$STALL_DIRECTORY``:

* ``stuck``: a walk that begins waits until the file is deleted;
* ``unscheduled``: polls do not begin;
* ``blocked``: the event loop is blocked until the file is deleted.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import auditrelay.collect.reader
from auditrelay.cli import main
from auditrelay.collect.collector import Collector
from auditrelay.service import app
from auditrelay.service.topology import Topology

FOLDER = Path(os.environ["STALL_DIRECTORY"])

_walk = vars(auditrelay.collect.reader)["walk"]
_register = Topology.register
_poll = Collector._poll


async def _stalling_walk(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
    while (FOLDER / "stuck").exists():  # noqa: ASYNC110  # the test is in another process
        await asyncio.sleep(0.05)
    async for page in _walk(*arguments, **named):
        yield page


async def _stalling_poll(self: Collector) -> None:
    if not (FOLDER / "unscheduled").exists():
        await _poll(self)


async def _register_and_block(self: Topology) -> None:
    await _register(self)
    loop = asyncio.get_running_loop()

    def block() -> None:
        while (FOLDER / "blocked").exists():
            time.sleep(0.05)
        loop.call_later(0.05, block)

    block()


vars(auditrelay.collect.reader)["walk"] = _stalling_walk
Collector._poll = _stalling_poll  # type: ignore[method-assign]  # as above
Topology.register = _register_and_block  # type: ignore[method-assign]  # as above
vars(app).update(STUCK=timedelta(seconds=1), MAX_SOURCE_WAIT=0.0)  # instead of hours

if __name__ == "__main__":
    main()
