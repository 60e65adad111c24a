"""What one instance does for the whole state: seals, alerts, what is pruned."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import StoreFull
from auditrelay.service.alerts import Alerts
from auditrelay.service.registration import retire
from auditrelay.service.seal import Sealer
from auditrelay.service.store import Store
from auditrelay.service.topology import JOB
from auditrelay.status.model import Report
from auditrelay.status.report import Failing

PRUNE_INTERVAL: Final = timedelta(hours=1)

RETIRE_INTERVAL: Final = timedelta(minutes=1)

LOOK_INTERVAL: Final = timedelta(seconds=10)
"""How often the keeper of several replicas looks for problems."""

Feeds = tuple[Mapping[str, Sequence[str]], Sequence[str]]
"""By sink the sources that it receives, and all sources."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Keeper:
    """
    Keeps the state that is behind *store*, under the lease of the keeper.

    *config* returns the configuration in force, *report* what ``status --json`` prints. *announce*
    is called when an event of our own is in the spool, *on_seal* after each seal, as
    :class:`~auditrelay.service.seal.Sealer` says. Where there are several replicas, *feeds* returns
    what of all of them is configured (see ``configured_feeds``): what is not is ended here.
    """

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        *,
        clock: Clock,
        report: Callable[[], Awaitable[Report]],
        announce: Callable[[], None],
        on_seal: Callable[[Failing | None], None],
        feeds: Callable[[], Feeds | None] | None = None,
    ) -> None:
        self._feeds = feeds
        self._retired: Feeds | None = None
        self._store = store
        self._clock = clock
        self._on_seal = on_seal
        self.alerts = Alerts(
            report,
            store.alerts,
            clock=clock,
            forward=lambda: config().alerts.events,
            announce=announce,
        )
        self.sealer = Sealer(
            store.log,
            config,
            keys=config().evidence.keys,
            clock=clock,
            announce=announce,
            on_seal=self._sealed,
        )
        self._prune_due = asyncio.Event()

    def loops(
        self, has_read: Callable[[], bool]
    ) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Return what has to run at the same time; the first seal waits until all *has_read*."""
        return (
            self._keep_pruning,
            *(() if self._feeds is None else (self._keep_retiring, self._keep_looking)),
            self.alerts.keep_alerting,
            partial(self.sealer.keep_sealing, has_read),
        )

    def schedule(self, scheduler: AsyncIOScheduler) -> None:
        """Let *scheduler* set when pruning is due."""
        scheduler.add_job(
            self._prune_due.set,
            "interval",
            seconds=PRUNE_INTERVAL.total_seconds(),
            id="prune",
            replace_existing=True,
            **JOB,
        )

    def look(self) -> None:
        """Look what has changed: the condition of a source or sink is another."""
        self.alerts.due.set()
        self.sealer.looked.set()

    def _sealed(self, failing: Failing | None) -> None:
        self._on_seal(failing)
        self.alerts.due.set()

    async def _keep_pruning(self) -> None:
        # What is pruned is gone for good: not before a reply has said what time it is. If no peer
        # says so, an hour has passed by then, and what an earlier run knew bounds our own clock.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PRUNE_INTERVAL.total_seconds()):
                await self._clock.confirmed.heard_once.wait()
        await self.prune()
        while True:
            await self._prune_due.wait()
            self._prune_due.clear()
            await self.prune()

    async def _keep_retiring(self) -> None:
        while True:
            await self._clock.sleep(RETIRE_INTERVAL.total_seconds())
            await self.retire()

    async def _keep_looking(self) -> None:
        """Look now and then: what other replicas write to the state is not seen otherwise."""
        while True:
            self.alerts.due.set()
            await self._clock.sleep(LOOK_INTERVAL.total_seconds())

    async def retire(self) -> None:
        """End what no live replica has had in its configuration for a while, and log what waits."""
        feeds = None if self._feeds is None else self._feeds()
        if feeds is None or feeds == self._retired:
            return
        try:
            await retire(self._store, *feeds)
        except StoreFull as error:
            _log.warning("feeds_not_retired", reason=str(error))
            return
        self._retired = feeds

    async def prune(self) -> None:
        """Delete what every sink has and nothing needs any more."""
        confirmed = self._clock.confirmed
        pruned = 0
        try:
            if confirmed.is_bounded:
                pruned = await self._store.prune(confirmed.certain())
            await self._store.remember_time(confirmed.mark)
        except StoreFull as error:  # deleting takes room, too; the next attempt may find some
            _log.warning("spool_not_pruned", reason=str(error))
            return
        if pruned:
            _log.info("spool_pruned", events=pruned)
