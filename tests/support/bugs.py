"""An instance in this process, into which a test plants a bug."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support.clock import FakeClock
from tests.support.daemon import Table, configure, eventually

from auditrelay.config import load
from auditrelay.sandbox import Vendor
from auditrelay.service.app import App
from auditrelay.service.systemd import Supervisor
from auditrelay.status.model import Finding, Report

SPEED = 1200.0
"""How much faster the clock is: a minute takes a twentieth of a second."""

FAST: Table = {
    "poll_interval": "1s",
    "settle": "0s",
    "overlap": "10s",
    "initial_lookback": "2h",
    "resweep": [],
}


class Bug:
    """A division by zero, wherever it is met while it is *there*."""

    def __init__(self) -> None:
        self.there = True
        self.met = 0

    def __call__(self) -> None:
        if self.there:
            self.met += 1
            self.met / 0  # for the exception

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function* with this bug at its beginning."""

        def call(*arguments: Any, **named: Any) -> Any:
            self()
            return function(*arguments, **named)

        return call

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the coroutine function *function* with this bug at its end."""

        async def call(*arguments: Any, **named: Any) -> Any:
            result = await function(*arguments, **named)
            self()
            return result

        return call

    def among(
        self, pages: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        """Return the generator function *pages* with this bug behind its first value."""

        async def walk(*arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
            async for page in pages(*arguments, **named):
                yield page
                self()

        return walk


def _row(report: Report, name: str) -> Any:
    return next(row for row in (*report.sources, *report.sinks) if row.name == name)


class Instance:
    """A running *app*."""

    def __init__(self, app: App, serving: asyncio.Future[None]) -> None:
        self.app = app
        self.serving = serving

    async def report(self) -> Report:
        """Return the report on it; the process must live."""
        assert not self.serving.done(), self.serving.exception()
        return await self.app.view.status()

    def poll(self, name: str) -> None:
        """Poll the source *name* now, and not only when its interval is over."""
        self.app._topology.collectors[name].polls.due.set()

    async def row(self, name: str) -> Any:
        """Return the row of a source or sink in the report."""
        return _row(await self.report(), name)

    async def until_held(self, name: str) -> None:
        """Wait until *name* is held for a bug, and see that it says so everywhere."""

        found: list[Finding] = []

        async def held() -> bool:
            # All at one moment: if its next probe is well it may go on, until the bug comes again.
            report = await self.report()
            unready = [each.reason for each in self.app.view.unready() if each.name == name]
            found[:] = [each for each in report.findings if each.name == name]
            row = _row(report, name)
            return bool(row.held and row.error_code == "bug" and any("bug" in of for of in unready))

        await eventually(held, what=f"{name} is held")
        (finding,) = found
        assert (finding.code, finding.level) == ("held", "action_required")
        assert "bug" in finding.what
        text = self.app.metrics.render()[0].decode()
        assert f'auditrelay_unforeseen_errors_total{{peer="{name}"}} 0.0' not in text

    async def until_up(self, name: str) -> None:
        """Wait until *name* is up."""

        async def up() -> bool:
            return bool((await self.row(name)).up)

        await eventually(up, what=f"{name} is up")


@asynccontextmanager
async def instance(
    folder: Path,
    clock: FakeClock,
    sources: Table,
    sinks: Table,
    plant: Callable[[App], object],
) -> AsyncIterator[Instance]:
    """
    Run an instance for the length of a ``with`` block; it must live until the end.

    *plant* is called before it starts.
    """
    path = configure(folder, sources, sinks, alerts={"events": True})
    config = load(path, {"HOME": str(folder)})
    stop, started = asyncio.Event(), asyncio.Event()
    with mock.patch("auditrelay.service.app._tune"):
        async with App.open(config, clock) as app:
            plant(app)
            serving = asyncio.ensure_future(
                app.serve(
                    stop,
                    asyncio.Event(),
                    lambda: config,
                    lambda _: started.set(),
                    Supervisor({}, clock),
                )
            )
            try:
                yield Instance(app, serving)
            finally:
                stop.set()
                await asyncio.wait([serving], timeout=20)
            serving.result()


def fill(vendor: Vendor, clock: FakeClock, count: int = 9) -> list[str]:
    """Add records of the last hour; return their ids."""
    now = clock.now()
    return vendor.fill(count, now - timedelta(minutes=50), now - timedelta(minutes=10))


def out(folder: Path) -> Table:
    """Return the table of a sink that appends to a file in *folder*."""
    path = str(folder / "out.jsonl")
    return {"type": "file", "path": path, "format": "ecs", "linger": "20ms"}


def lines(folder: Path) -> list[str]:
    """Return what that sink has."""
    path = folder / "out.jsonl"
    return path.read_text().splitlines() if path.exists() else []
