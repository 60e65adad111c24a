"""Have something done by the running instance, or without one by this process itself."""

import asyncio
import contextlib
import signal
from typing import Any

from auditrelay.collect.progress import Tell
from auditrelay.config.model import Config
from auditrelay.errors import Locked, RelayError, first_of
from auditrelay.service.app import ATTEMPTS_ONCE, App
from auditrelay.service.control_socket import ask


def operate(config: Config, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """
    Return the result of *request*, wherever it was done; *tell* is told of the progress.

    Raises RelayError; one that says how to go on after Ctrl-C or SIGTERM.
    """
    return asyncio.run(_operate(config, request, tell))


async def _operate(config: Config, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    working = asyncio.ensure_future(_somewhere(config, request, tell))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    try:
        return await working
    except asyncio.CancelledError:
        raise RelayError(
            "stopped; what was done is kept, and the same command goes on from there"
        ) from None


async def _somewhere(config: Config, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(App.open(config, attempts=ATTEMPTS_ONCE))
        except Locked:
            return await ask(config.state_dir, request, tell)
        try:
            return await app.alone(request, tell)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
