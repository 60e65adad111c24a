"""``auditrelay run``: the service, or with ``--once`` one catch-up."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Annotated

import typer

import auditrelay.cli.lean  # noqa: F401  # before whatever imports uvicorn, APScheduler or the metrics library
from auditrelay import __version__
from auditrelay.cli.options import Options
from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import first_of
from auditrelay.process import end_at_once
from auditrelay.service.app import ATTEMPTS_ONCE, App
from auditrelay.service.systemd import Supervisor
from auditrelay.telemetry.logs import log


def run(
    context: typer.Context,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Catch up, deliver everything, then exit.")
    ] = False,
) -> None:
    """Poll every source and deliver to every sink until stopped."""
    options = Options.of(context)
    config = options.load()
    failures = asyncio.run(
        _once(config, options.clock) if once else serve(config, options.clock, options.load)
    )
    for failure in failures:
        typer.echo(f"auditrelay: {failure}", err=True)
    if failures:
        raise typer.Exit(1)


async def serve(config: Config, clock: Clock, reread: Callable[[], Config]) -> list[str]:
    """
    Run the service with *config* until SIGTERM or SIGINT; a second one ends it at once.

    On SIGHUP it applies the configuration that *reread* returns.
    """
    stop = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        # A shared store that is away is waited for, unless we are to stop.
        opening = asyncio.ensure_future(stack.enter_async_context(App.open(config, clock)))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
        if not opening.cancelled():
            await _serving(opening.result(), stop, reread, Supervisor(os.environ, clock))
    log.info("stopped")
    return []


async def _serving(
    app: App, stop: asyncio.Event, reread: Callable[[], Config], supervisor: Supervisor
) -> None:
    def started(address: str) -> None:
        log.info("started", version=__version__, status=address)

    reload = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    try:
        await app.serve(stop, reload, reread, started, supervisor)
    except BaseExceptionGroup as group:
        raise first_of(group) from group


async def _once(config: Config, clock: Clock) -> list[str]:
    stop = _stop_on_signals()
    async with App.open(config, clock, attempts=ATTEMPTS_ONCE) as app:
        catching_up = asyncio.ensure_future(app.once())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([catching_up, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not catching_up.done():
            catching_up.cancel()
            await asyncio.wait([catching_up])
            return ["stopped before everything was caught up; the next run resumes here"]
        try:
            return catching_up.result()
        except BaseExceptionGroup as group:
            raise first_of(group) from group


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; a second signal has its default action."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            # The default action does nothing to process 1, which this is in a container.
            signal.signal(each, signal.SIG_DFL if os.getpid() != 1 else end_at_once)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)
    # Without a handler SIGHUP would kill a service that is starting, or a run --once.
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("reload_ignored"))
    return stop
