"""Run a command in the service if one is running, or else in this process."""

import asyncio
import contextlib
import signal
from typing import TypeVar

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import Locked, RelayError, first_of
from auditrelay.service.app import ATTEMPTS_ONCE, App
from auditrelay.service.control_socket import ControlSocket
from auditrelay.service.desk import Desk, OnProgress, Progress, Request, Result

R = TypeVar("R", bound=Result)


async def _no_progress(_: Progress) -> None:
    """Print nothing."""


def run_command(
    config: Config,
    clock: Clock,
    request: Request,
    kind: type[R],
    on_progress: OnProgress = _no_progress,
) -> tuple[R, list[str] | None]:
    """
    Do *request*, in the service or in this process; report to *on_progress*.

    Returns the result, of that *kind*, and why which events were not delivered; None if a service
    delivers them. Raises RelayError, also after Ctrl-C or SIGTERM.
    """
    result, undelivered = asyncio.run(_until_stopped(config, clock, request, on_progress))
    if not isinstance(result, kind):
        raise RelayError(
            f"the running service answers {type(request).__name__} with {type(result).__name__}: "
            "it and the command are of different versions; restart the service"
        )
    return result, undelivered


async def _until_stopped(
    config: Config, clock: Clock, request: Request, on_progress: OnProgress
) -> tuple[Result, list[str] | None]:
    running = asyncio.ensure_future(_run_here_or_there(config, clock, request, on_progress))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise RelayError(
            "stopped; completed work is kept, and the same command resumes from there"
        ) from None


async def _run_here_or_there(
    config: Config, clock: Clock, request: Request, on_progress: OnProgress
) -> tuple[Result, list[str] | None]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(App.open(config, clock, attempts=ATTEMPTS_ONCE))
        except Locked:
            desk: Desk = ControlSocket(config.state_dir)
            return await desk.ask(request, on_progress), None
        try:
            if (result := await app.ask_others(request, on_progress)) is not None:
                return result, None
            return await app.run_command_offline(request, on_progress)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
