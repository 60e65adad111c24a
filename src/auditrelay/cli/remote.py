"""Run a command in the service if one is running, or else in this process."""

import asyncio
import contextlib
import signal
from typing import Any

from auditrelay.collect.on_progress import OnProgress
from auditrelay.config.model import Config
from auditrelay.errors import Locked, RelayError, first_of
from auditrelay.service.app import ATTEMPTS_ONCE, App
from auditrelay.service.control_socket import ask


async def _no_progress(_: dict[str, Any]) -> None:
    """Print nothing."""


def run_command(
    config: Config, request: dict[str, Any], on_progress: OnProgress = _no_progress
) -> dict[str, Any]:
    """
    Return the result of *request*, from the service or this process; report to *on_progress*.

    Raises RelayError, also after Ctrl-C or SIGTERM.
    """
    return asyncio.run(_until_stopped(config, request, on_progress))


async def _until_stopped(
    config: Config, request: dict[str, Any], on_progress: OnProgress
) -> dict[str, Any]:
    running = asyncio.ensure_future(_run_here_or_there(config, request, on_progress))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise RelayError(
            "stopped; completed work is kept, and the same command resumes from there"
        ) from None


async def _run_here_or_there(
    config: Config, request: dict[str, Any], on_progress: OnProgress
) -> dict[str, Any]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(App.open(config, attempts=ATTEMPTS_ONCE))
        except Locked:
            return await ask(config.state_dir, request, on_progress)
        try:
            return await app.run_command_offline(request, on_progress)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
