"""
One instance: builds every part from the configuration, starts them, and stops them in order.

This is the only module that knows all parts. The scheduler says when; the task group owns the
work, so that a bug in any of it ends the service visibly. The store makes that safe.
"""

import asyncio
import contextlib
import gc
import importlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from auditrelay import __version__, control
from auditrelay.collect import Collector
from auditrelay.config import Config
from auditrelay.control import Tell
from auditrelay.deliver import Deliverer
from auditrelay.errors import RelayError, StateError, StoreFull
from auditrelay.events.normalize import Normalizer
from auditrelay.events.pseudonym import Pseudonyms
from auditrelay.http import SOURCE_ATTEMPTS, SOURCE_PATIENCE
from auditrelay.operations import Operations
from auditrelay.sources import Drop, Source, make
from auditrelay.status import StatusPort
from auditrelay.status.report import report
from auditrelay.store import files
from auditrelay.store.sqlite import SqliteStore
from auditrelay.supervise import Supervisor
from auditrelay.telemetry import Metrics

if TYPE_CHECKING:  # only annotations name it
    from auditrelay.sinks import Sink

GRACE: Final = timedelta(seconds=8)
"""How long requests in flight may take to end after a stop was asked for."""

STUCK: Final = timedelta(minutes=20)
"""
How long a loop may be busy without any progress, beside what it may have to wait for its peer.

The service is restarted when one is stuck: a peer that is merely slow must never be taken for it.
"""

PRUNE_INTERVAL: Final = timedelta(hours=1)

ATTEMPTS_ONCE: Final = 5
"""How often a request is made in a run that shall end."""

ROOM_PATIENCE: Final = timedelta(seconds=30)
"""How long a poll of a run that shall end waits for room that no sink makes."""

SWITCH_SECONDS: Final = 0.0005
"""
How long a thread may keep the interpreter from the others.

The writer thread gives the interpreter up for every statement, and at Python's own 5 ms each time
a busy loop would make it wait ten times longer than the statement takes.
"""

GC_THRESHOLD: Final = 10_000
"""
How many more containers may be made than freed until the collector looks at the young ones.

A page is thousands of dictionaries that live for a moment and are in no cycle: at Python's own
700 the collector goes through them over and over.
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def _tune() -> None:
    """Fit the interpreter to a process that decodes many small objects and keeps few."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 1000)


def _now() -> datetime:
    return datetime.now(UTC)


class App:
    """
    One running instance of *config*. Use :meth:`open`.

    *attempts* bounds how often a sink's request is made, for a run that shall end.
    """

    def __init__(
        self,
        config: Config,
        store: SqliteStore,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime] = _now,
        attempts: int | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self.metrics = metrics
        self._sources: list[Source | Drop] = []
        self._sinks: dict[str, Sink] = {}
        self._deliverers = [
            self._deliverer(name, attempts)
            for name, settings in config.sinks.items()
            if settings.enabled
        ]
        self._collectors = [
            self._collector(name, None if attempts is None else ROOM_PATIENCE)
            for name, settings in config.sources.items()
            if settings.enabled
        ]
        self._operations = Operations(
            config,
            store,
            collectors=self._collectors,
            deliverers=self._deliverers,
            sinks=self._sinks,
            clock=clock,
        )
        self._prune_due = asyncio.Event()
        self._sealed_on: date | None = None
        self._loops: list[Collector | Deliverer] = [*self._collectors, *self._deliverers]
        self._limits = self._how_long_may_it_take()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: Config, *, attempts: int | None = None) -> AsyncIterator[Self]:
        """
        Take possession of the state directory and build everything that is enabled.

        Raises StateError if another instance holds the state or it cannot be used, ConfigError if
        a part cannot be built.
        """
        config.require_work()
        _tune()
        files.prepare(config.state_dir)
        with files.locked(config.state_dir, __version__):
            store = await SqliteStore.open(
                config.state_dir,
                max_bytes=config.spool.max_bytes,
                retention=config.spool.retention,
                remember=config.spool.remember,
            )
            app = None
            try:
                feeds = {
                    sink: config.feeds(sink)
                    for sink, settings in config.sinks.items()
                    if settings.enabled
                }
                metrics = Metrics(
                    sources=config.sources,
                    sinks=config.sinks,
                    pairs=[(source, sink) for sink, sources in feeds.items() for source in sources],
                )
                app = cls(config, store, metrics, attempts=attempts)
                for sink, sources in feeds.items():
                    await store.start_sink(sink, sources)
                for sink in await store.retire_sinks(list(feeds)):
                    _log.warning("sink_left_over", sink=sink)
                await app._recall()
                yield app
            finally:
                if app is not None:
                    await app._close()
                await store.close()

    def _collector(self, name: str, patience: timedelta | None) -> Collector:
        settings = self._config.sources[name]
        source = make(name, settings, self.metrics, self._config.state_dir)
        self._sources.append(source)
        readers = [
            deliverer
            for deliverer in self._deliverers
            if name in self._config.feeds(deliverer.name)
        ]

        def announce() -> None:
            for reader in readers:
                reader.wake.set()

        return Collector(
            name,
            settings,
            source,
            normalizer=normalizer(name, self._config, source),
            store=self._store,
            metrics=self.metrics,
            clock=self._clock,
            announce=announce,
            patience=patience,
        )

    def _deliverer(self, name: str, attempts: int | None) -> Deliverer:
        settings = self._config.sinks[name]
        module = importlib.import_module(f"auditrelay.sinks.{settings.type}")
        sink: Sink = module.build(name, settings, self.metrics)
        self._sinks[name] = sink
        return Deliverer(
            name,
            settings,
            sink,
            store=self._store,
            metrics=self.metrics,
            clock=self._clock,
            attempts=attempts,
        )

    async def _recall(self) -> None:
        sources = {state.name: state.condition for state in await self._store.sources()}
        sinks = {state.name: state.condition for state in await self._store.sinks()}
        for collector in self._collectors:
            collector.recall(sources.get(collector.name, {}))
        for deliverer in self._deliverers:
            deliverer.recall(sinks.get(deliverer.name, {}))

    async def _close(self) -> None:
        for source in self._sources:
            await source.close()
        for sink in self._sinks.values():
            await sink.close()

    def _how_long_may_it_take(self) -> dict[Collector | Deliverer, timedelta]:
        """Return for each loop how long it may be busy without progress, and not be stuck."""
        most = timedelta(seconds=SOURCE_PATIENCE)
        sources, sinks = self._config.sources, self._config.sinks
        return {
            **{
                collector: STUCK + SOURCE_ATTEMPTS * (sources[collector.name].timeout + most)
                for collector in self._collectors
            },
            **{deliverer: STUCK + sinks[deliverer.name].timeout for deliverer in self._deliverers},
        }

    # -- running -----------------------------------------------------------------------------------

    async def serve(
        self, stop: asyncio.Event, started: Callable[[str], None], supervisor: Supervisor
    ) -> None:
        """
        Work until *stop* is set, then hand back what is in hand within *GRACE*.

        *started* is called with the address of the status port once everything runs; *supervisor*
        is told how it goes from then on.
        """
        port = StatusPort(self._config.status.listen, self, token=self._config.status.token)
        scheduler = self._scheduler()
        async with asyncio.TaskGroup() as tasks:
            status = tasks.create_task(port.serve())
            delivering = [
                tasks.create_task(deliverer.keep_delivering()) for deliverer in self._deliverers
            ]
            delivering += [tasks.create_task(sink.greet()) for sink in self._deliverers]
            collecting = [
                tasks.create_task(collector.keep_polling()) for collector in self._collectors
            ]
            collecting += [
                tasks.create_task(collector.keep_looking_again()) for collector in self._collectors
            ]
            collecting.append(tasks.create_task(self._keep_pruning()))
            collecting.append(
                tasks.create_task(control.serve(self._config.state_dir, self._operations.do))
            )
            scheduler.start()
            started(port.address)
            supervisor.ready(self.summary())
            collecting.append(tasks.create_task(supervisor.keep_telling(self)))
            await stop.wait()
            supervisor.stopping()
            scheduler.shutdown(wait=False)
            for task in collecting:
                task.cancel()  # free: a walk that broke off is walked again
            for deliverer in self._deliverers:
                deliverer.stop()
            # Dear: a batch cut off in flight may arrive twice.
            landing = [asyncio.ensure_future(deliverer.land()) for deliverer in self._deliverers]
            await asyncio.wait(landing, timeout=GRACE.total_seconds())
            for task in (*landing, *delivering):
                task.cancel()
            port.stop()
            await asyncio.wait([status])

    async def alone(self, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """
        Do *request* without a service, deliver what came of it, and return the result.

        What a sink did not take stays in the spool for the service; the result says so under
        ``undelivered``.
        """
        undelivered: list[str] = []

        async def deliver(deliverer: Deliverer) -> None:
            try:
                await deliverer.keep_delivering()
            except* StateError:
                raise
            except* RelayError as group:
                undelivered.append(f"{deliverer.name}: {group.exceptions[0]}")

        async with asyncio.TaskGroup() as tasks:
            for deliverer in self._deliverers:
                tasks.create_task(deliver(deliverer))
            result = await self._operations.do(request, tell)
            for deliverer in self._deliverers:
                deliverer.finish()
        return {**result, "undelivered": undelivered}

    async def once(self) -> list[str]:
        """Read every source to its settled end, deliver everything, return what failed."""
        failures: list[str] = []

        async def collect(collector: Collector) -> None:
            try:
                await collector.poll()
            except StateError:
                raise
            except RelayError as error:
                failures.append(f"{collector.name}: {error}")

        async def deliver(deliverer: Deliverer) -> None:
            try:
                await deliverer.keep_delivering()
            except* StateError:
                raise
            except* RelayError as group:
                failures.append(f"{deliverer.name}: {group.exceptions[0]}")

        await self._prune()
        async with asyncio.TaskGroup() as tasks:
            for deliverer in self._deliverers:
                tasks.create_task(deliver(deliverer))
            async with asyncio.TaskGroup() as polls:
                for collector in self._collectors:
                    polls.create_task(collect(collector))
            for deliverer in self._deliverers:
                deliverer.finish()
        return failures

    def _scheduler(self) -> AsyncIOScheduler:
        scheduler = AsyncIOScheduler(timezone=UTC)
        common = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        for collector in self._collectors:
            interval = self._config.sources[collector.name].poll_interval.total_seconds()
            scheduler.add_job(
                collector.due.set,
                "interval",
                seconds=interval,
                # Many instances that were started together should not poll together for ever.
                jitter=interval * 0.05,
                **common,
            )
            collector.due.set()
        scheduler.add_job(
            self._prune_due.set, "interval", seconds=PRUNE_INTERVAL.total_seconds(), **common
        )
        self._prune_due.set()
        return scheduler

    async def _keep_pruning(self) -> None:
        while True:
            await self._prune_due.wait()
            self._prune_due.clear()
            await self._prune()
            await self._seal()

    async def _seal(self) -> None:
        """Once a day log the heads of the journals: a copy elsewhere bears witness for them."""
        today = self._clock().date()
        if self._sealed_on == today:
            return
        self._sealed_on = today
        for source, (records, head) in (await self._store.heads()).items():
            _log.info("ledger_sealed", source=source, records=records, head=head)

    async def _prune(self) -> None:
        try:
            gone = await self._store.prune(self._clock())
        except StoreFull as error:  # a deletion takes room, too; the next one may find some
            _log.warning("spool_not_pruned", reason=str(error))
            return
        if gone:
            _log.info("spool_pruned", events=gone)

    # -- what the status port asks -----------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Return what ``status --json`` prints, and what only the running instance knows."""
        # How they fare is told as it is now: what the store has of it waits for the next poll or,
        # on a full disk, for room.
        sources = {loop.name: asdict(loop.condition) for loop in self._collectors}
        sinks = {loop.name: asdict(loop.condition) for loop in self._deliverers}
        return report(
            self._config,
            [
                replace(state, condition=sources.get(state.name, state.condition))
                for state in await self._store.sources()
            ],
            [
                replace(state, condition=sinks.get(state.name, state.condition))
                for state in await self._store.sinks()
            ],
            spool_bytes=self._store.spool_bytes,
            now=self._clock(),
            pace={deliverer.name: deliverer.pace for deliverer in self._deliverers},
            stuck=self.stuck(),
        )

    async def measured(self) -> tuple[bytes, str]:
        """Return the metrics, brought up to date, and their content type."""
        for collector in self._collectors:
            collector.measure()
        now = self._clock()
        for sink in await self._store.sinks():
            if sink.name not in self._config.sinks:
                continue
            self.metrics.sink_backlog_events.labels(sink.name).set(sink.backlog_events)
            self.metrics.dead_letters.labels(sink.name).set(sink.dead_letters)
            oldest = sink.oldest_undelivered
            self.metrics.sink_oldest_undelivered_seconds.labels(sink.name).set(
                0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            )
        self.metrics.spool_bytes.set(self._store.spool_bytes)
        return self.metrics.render()

    def stuck(self) -> list[str]:
        """
        Return the names of the loops that make no progress.

        A poll or a batch that is under way has to move; and polls have to come, whatever became of
        the scheduler.
        """
        now = time.monotonic()
        return [
            loop.name
            for loop, limit in self._limits.items()
            if loop.worked_at is not None and now - loop.worked_at > limit.total_seconds()
        ] + [
            collector.name
            for collector in self._collectors
            if collector.worked_at is None
            and now - collector.rested_at
            > (self._config.sources[collector.name].poll_interval + STUCK).total_seconds()
        ]

    def summary(self) -> str:
        """Return in a sentence how everything fares: what is amiss, or that nothing is."""
        amiss = []
        for loop in self._loops:
            condition = loop.condition
            if condition.held:
                amiss.append(f"{loop.name} is held: {condition.last_error}")
            elif not loop.worked_once:
                amiss.append(f"{loop.name} has not worked yet: {condition.last_error or 'wait'}")
            elif condition.last_error:
                amiss.append(f"{loop.name}: {condition.last_error}")
        return "; ".join(amiss) or f"All work: {', '.join(loop.name for loop in self._loops)}"

    def unready(self) -> list[str]:
        """Return what is not ready yet, and why: each has to have worked, and none be held."""
        reasons = []
        for loop in self._loops:
            condition = loop.condition
            if condition.held:
                reasons.append(f"{loop.name} is held: {condition.last_error}")
            elif not loop.worked_once:
                why = condition.last_error or "nothing was heard of it yet"
                reasons.append(f"{loop.name} has not worked since the start: {why}")
        return reasons


def normalizer(name: str, config: Config, source: Source | Drop) -> Normalizer:
    """Return what turns the records of the source *name* into events."""
    settings = config.sources[name]
    return Normalizer(
        vendor=settings.type,
        source=name,
        api_host=urlsplit(settings.base_url).hostname or "",
        scope=source.scope,
        redact=settings.redact,
        tags=settings.tags,
        pseudonyms=(
            Pseudonyms(settings.pseudonym_key.reveal(), settings.pseudonymize)
            if settings.pseudonym_key and settings.pseudonymize
            else None
        ),
        **settings.places,
    )
