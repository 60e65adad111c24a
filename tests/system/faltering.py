"""
Runs the daemon with loops that falter while a file is there.

The product knows nothing of this. The folder with the files is in ``$FALTER_IN``:

* ``stuck``: a walk that begins waits until the file is gone;
* ``unscheduled``: polls do not begin;
* ``blocked``: the event loop does nothing else until the file is gone.
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

FOLDER = Path(os.environ["FALTER_IN"])

_walk = vars(auditrelay.collect.reader)["walk"]
_register = Topology.register
_poll = Collector._poll


async def _falter(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
    while (FOLDER / "stuck").exists():  # noqa: ASYNC110  # the test is in another process
        await asyncio.sleep(0.05)
    async for page in _walk(*arguments, **named):
        yield page


async def _poll_or_not(self: Collector) -> None:
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


vars(auditrelay.collect.reader)["walk"] = _falter
Collector._poll = _poll_or_not  # type: ignore[method-assign]  # as above
Topology.register = _register_and_block  # type: ignore[method-assign]  # as above
vars(app).update(STUCK=timedelta(seconds=1), MAX_SOURCE_WAIT=0.0)  # nobody waits for hours

if __name__ == "__main__":
    main()
