"""
The running sources and sinks of an instance, and how a reload replaces them.

When the configuration is read again, what has not changed is not interrupted. What is new is built
before anything is stopped: if that fails, nothing has changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any, Final

import structlog
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from auditrelay.clock import Clock
from auditrelay.collect.source_loop import SourceLoop
from auditrelay.config.model import Config
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import ConfigError, LeaseLost, RelayError, first_of
from auditrelay.service.building import Builder
from auditrelay.service.heap import Heap
from auditrelay.service.registration import receivers, register, retire
from auditrelay.service.store import Store
from auditrelay.settings.reserved import ALERTS
from auditrelay.sinks import Sink
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.leases import KEEPER, Lease, sole
from auditrelay.store.parts import sink_units
from auditrelay.supervisor.sinks import always
from auditrelay.telemetry.metrics import Metrics

GRACE: Final = timedelta(seconds=8)
"""How long requests in flight may take to drain after a stop."""

JOB: Final[dict[str, Any]] = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
"""How everything is scheduled: missed runs are made up for once, as soon as possible."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def new_scheduler() -> AsyncIOScheduler:
    """
    Return the scheduler that sets when work is due.

    Its jobs run at once in the loop's own thread. In other threads, as it runs them otherwise, they
    may not set events of the loop, and those in progress at the end are logged as cancelled.
    """
    return AsyncIOScheduler(timezone=UTC, executors={"default": DebugExecutor()})


def units_of(config: Config, numbers: Mapping[str, int] | None = None) -> list[str]:
    """
    Return the units of what is enabled in *config*: each source, each sink or its parts.

    If *numbers* are given, sinks are in so many parts, whatever is configured.
    """
    sinks = {
        name: settings.parts if numbers is None else numbers[f"sink {name}"]
        for name, settings in _enabled(config.sinks).items()
    }
    return [
        *(f"source {name}" for name in _enabled(config.sources)),
        *(unit for name, parts in sinks.items() for unit in sink_units(name, parts)),
    ]


@dataclass(slots=True)
class TopologyDiff:
    """What a reload has changed: names of sources and sinks."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


class Topology:
    """
    The running sources and sinks of *config*. A part of a sink is there as ``NAME p/n``.

    For a run that has an end, *attempts* bounds the attempts at one request of a sink, and
    *patience* how long a page waits for room in the spool.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        metrics: Metrics,
        *,
        clock: Clock,
        leases: Iterable[Lease] | None = None,
        attempts: int | None = None,
        patience: timedelta | None = None,
    ) -> None:
        self.config = config
        self.collectors: dict[str, SourceLoop] = {}
        self.deliverers: dict[str, Deliverer] = {}
        self.sinks: dict[str, Sink] = {}
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._tasks: asyncio.TaskGroup | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self._heap = Heap()
        used = self._heap.used
        self._builder = Builder(
            metrics, clock=clock, attempts=attempts, patience=patience, on_batch=used
        )
        self._running: dict[str, list[asyncio.Task[None]]] = {}
        self._draining: dict[str, tuple[Deliverer, Sink]] = {}
        self._stores: dict[str, Store] = {}
        """By unit the store under its lease: one, as what it keeps in memory is of that lease."""
        self._is_sole = leases is None
        self.is_registered = False
        """Whether the store knows which sink receives what."""
        self.may_send: Callable[[], bool] = always
        """Whether a request to a sink may begin, which another replica might make as well."""
        self.on_lost: Callable[[str, BaseException], None] = _unexpected
        """Called with the unit and the reason when a loop finds that its lease is lost."""
        for lease in map(sole, (*units_of(config), KEEPER)) if leases is None else leases:
            self._lease(lease)
            if lease.unit != KEEPER:
                self._build_unit(lease.unit)

    @property
    def loops(self) -> list[SourceLoop | Deliverer]:
        """Every collector and deliverer, sources first."""
        return [*self.collectors.values(), *self.deliverers.values()]

    def leased_store(self, unit: str) -> Store:
        """Return the store for who works for *unit* (``source NAME``), under the lease of that."""
        return self._stores[unit]

    def _lease(self, lease: Lease) -> None:
        self._stores[lease.unit] = self._store.under(lease)

    def _collector(self, config: Config, name: str) -> SourceLoop:
        def announce() -> None:
            self._heap.used()
            for deliverer in self.deliverers.values():
                if name in _feeds(self.config, deliverer.name):
                    deliverer.wake.set()

        return self._builder.collector(
            config,
            name,
            self.leased_store(f"source {name}"),
            announce=announce,
            strict=self._tasks is not None,  # a reload, which then changes nothing
        )

    def _deliverer(self, config: Config, name: str) -> tuple[Sink, Deliverer]:
        return self._builder.deliverer(
            config,
            f"sink {name}",
            self.leased_store(f"sink {name}"),
            may_send=lambda: self.may_send(),  # noqa: PLW0108  # it is set later
            strict=self._tasks is not None,
        )

    def _lease_if_sole(self, unit: str) -> None:
        if self._is_sole and unit not in self._stores:
            self._lease(sole(unit))

    def _build_unit(self, unit: str) -> None:
        kind, _, name = unit.partition(" ")
        if kind == "source":
            self.collectors[name] = self._collector(self.config, name)
        else:
            self.sinks[name], self.deliverers[name] = self._deliverer(self.config, name)

    def sink_to_ask(self, name: str) -> Sink:
        """Return the sink *name*, to ask it something; another replica may be delivering to it."""
        return self.sinks.get(name) or self._builder.sink_to_ask(self.config, name)

    def announce(self) -> None:
        """Wake every sink: there may be new events for it."""
        for deliverer in self.deliverers.values():
            deliverer.wake.set()

    async def register(self) -> None:
        """Register which sink receives what in the store, and restore the health of each part."""
        await self._register(self.config)
        self.is_registered = True
        await self._restore()

    async def _register(self, config: Config) -> None:
        await register(self._store, config, self._clock.now())
        if self._is_sole:
            await retire(self._store, receivers(config), [*config.sources, ALERTS])

    async def _restore(self, unit: str | None = None) -> None:
        """Restore the health of *unit*, or of each part."""
        # Others are gained and lost meanwhile.
        for name, collector in tuple(self.collectors.items()):
            if unit in (None, f"source {name}"):
                collector.restore(await self._store.condition("source", name, SourceCondition))
        for name, deliverer in tuple(self.deliverers.items()):
            if unit in (None, f"sink {name}"):
                saved = await self._store.condition("sink", deliverer.name, SinkCondition)
                deliverer.restore(saved)

    def begin(self, tasks: asyncio.TaskGroup, scheduler: AsyncIOScheduler) -> None:
        """Start everything as tasks of *tasks*; *scheduler* sets when polls are due."""
        self._tasks, self._scheduler = tasks, scheduler
        for name in self.deliverers:
            self._begin_delivering(name)
        for name in self.collectors:
            self._begin_polling(name)

    # -- leases ------------------------------------------------------------------------------------

    async def gain(self, lease: Lease) -> None:
        """Build and start what works for the unit of *lease*. Raises PeerBug and ConfigError."""
        if lease.unit not in units_of(self.config):  # removed while it was being taken
            raise ConfigError(f"{lease.unit} is not in the configuration any more")
        self._lease(lease)
        try:
            self._build_unit(lease.unit)
        except RelayError:
            del self._stores[lease.unit]
            raise
        await self._restore(lease.unit)
        if self._tasks is not None:
            kind, _, name = lease.unit.partition(" ")
            (self._begin_polling if kind == "source" else self._begin_delivering)(name)

    async def release(self, unit: str) -> None:
        """Stop what works for *unit* in order, a sink once its requests have landed."""
        kind, _, name = unit.partition(" ")
        if kind == "source" and name in self.collectors:
            await self._stop_polling(name)
        elif kind == "sink" and name in self.deliverers:
            await self._stop_delivering(name)
        self._stores.pop(unit, None)

    async def cut(self, unit: str) -> None:
        """Let nothing more be done for *unit*, which :meth:`lose` then ends."""
        await _ended(self._cancel(unit))

    async def lose(self, unit: str) -> None:
        """Stop what works for *unit* at once: its lease is lost, and nothing can be written."""
        kind, _, name = unit.partition(" ")
        await self.cut(unit)
        if kind == "source" and name in self.collectors:
            await self._stop_polling(name)
        elif kind == "sink" and (sink := self.sinks.pop(name, None)) is not None:
            self.deliverers.pop(name, None)  # gone already if it was being drained
            await sink.close()
        self._stores.pop(unit, None)

    async def _until_lost(self, unit: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run *loop* of *unit*; once its lease is lost, report that instead of an error."""
        try:
            await loop()
        except* LeaseLost as group:
            self.on_lost(unit, first_of(group))

    def _begin_delivering(self, name: str) -> None:
        assert self._tasks is not None  # noqa: S101  # begin() comes first
        deliverer = self.deliverers[name]
        self._running[f"sink {name}"] = [
            self._tasks.create_task(self._until_lost(f"sink {name}", loop))
            for loop in (deliverer.keep_delivering, deliverer.probe_until_up)
        ]

    def _begin_polling(self, name: str) -> None:
        assert self._tasks is not None  # noqa: S101  # as above
        assert self._scheduler is not None  # noqa: S101  # as above
        collector = self.collectors[name]
        self._running[f"source {name}"] = [
            self._tasks.create_task(self._until_lost(f"source {name}", loop))
            for loop in collector.loops()
        ]
        interval = collector.settings.poll_interval.total_seconds()
        self._scheduler.add_job(
            collector.polls.due.set,
            "interval",
            seconds=interval,
            # Many instances that were started together must not poll in step for ever.
            jitter=interval * 0.05,
            id=f"poll {name}",
            **JOB,
        )
        collector.polls.due.set()

    async def end(self) -> None:
        """Stop polling at once and delivering within *GRACE*, and release everything."""
        for name in self.collectors:
            self._cancel(f"source {name}")  # costs nothing: an unfinished walk is walked again
        deliverers = [
            *self.deliverers.values(),
            *(deliverer for deliverer, _ in self._draining.values()),
        ]
        await _drain_within_grace(deliverers)
        for name in (*self.deliverers, *self._draining):
            self._cancel(f"sink {name}")

    async def close(self) -> None:
        """Release every connection and file."""
        self._heap.close()
        for collector in self.collectors.values():
            await collector.close()
        for sink in (*self.sinks.values(), *(sink for _, sink in self._draining.values())):
            await sink.close()
        await self._builder.close()

    def _cancel(self, work: str) -> list[asyncio.Task[None]]:
        tasks = self._running.pop(work, [])
        for task in tasks:
            task.cancel()
        return tasks

    # -- reload ------------------------------------------------------------------------------------

    async def change(self, config: Config) -> TopologyDiff:
        """
        Apply *config*, and return what that has changed.

        Raises, with nothing changed, PeerBug if a part cannot be built, and ConfigError if it
        cannot or if a setting differs that cannot change while the instance runs; StoreFull or
        LeaseLost if the store does not take it now.
        """
        _refuse_what_is_fixed(self.config, config)
        config.require_work()
        sources = _difference(self.config.sources, config.sources)
        sinks = _difference(self.config.sinks, config.sinks)
        diff = _both(sources, sinks)
        if not self._is_sole:
            sources, sinks = (
                _of(self.collectors, sources),
                _parts_of(self.deliverers, sinks, config),
            )
        new_sinks, new_collectors = await self._build(config, sources, sinks)
        for name in (*sources.removed, *sources.changed):
            await self._stop_polling(name)
        for name in sinks.changed:
            await self._stop_delivering(name)
        self.config = config
        for name in sinks.removed if self._is_sole else ():
            self._draining[name] = self.deliverers.pop(name), self.sinks.pop(name)
        for name, (sink, deliverer) in new_sinks.items():
            await self.remove_orphan(name)
            self.sinks[name], self.deliverers[name] = sink, deliverer
        self.collectors.update(new_collectors)
        held = self.deliverers.values()
        pairs = [(source, each.name) for each in held for source in _feeds(config, each.name)]
        self._metrics.configure(sources=config.sources, sinks=config.sinks, pairs=pairs)
        self._store.resize(
            max_bytes=config.spool.max_bytes,
            retention=config.spool.retention,
            remember=config.spool.remember,
        )
        await self._restore()
        for name in self._draining.keys() & set(sinks.removed):
            self._drain(name)
        for name in new_sinks:
            self._begin_delivering(name)
        for name in new_collectors:
            self._begin_polling(name)
        return diff

    async def _build(
        self, config: Config, sources: TopologyDiff, sinks: TopologyDiff
    ) -> tuple[dict[str, tuple[Sink, Deliverer]], dict[str, SourceLoop]]:
        """Build what is new or has changed, and register *config*; if that fails, build nothing."""
        new_sinks: dict[str, tuple[Sink, Deliverer]] = {}
        new_collectors: dict[str, SourceLoop] = {}
        try:
            for name in (*sinks.added, *sinks.changed):
                self._lease_if_sole(f"sink {name}")
                new_sinks[name] = self._deliverer(config, name)
            for name in (*sources.added, *sources.changed):
                self._lease_if_sole(f"source {name}")
                new_collectors[name] = self._collector(config, name)
            # What is removed has an end from here on; what still runs spools nothing more for it.
            if self.is_registered:
                await self._register(config)
        except RelayError:
            await _close(new_sinks, new_collectors)
            raise
        return new_sinks, new_collectors

    async def _stop_polling(self, name: str) -> None:
        # It is not there if it was not begun, or if this was broken off once.
        if self._scheduler is not None and self._scheduler.get_job(f"poll {name}") is not None:
            self._scheduler.remove_job(f"poll {name}")
        await _ended(self._cancel(f"source {name}"))
        await self.collectors.pop(name).close()

    async def _stop_delivering(self, name: str) -> None:
        """Drain the requests of *name*; its backlog waits for the sink that replaces it."""
        await _drain_within_grace([self.deliverers.pop(name)])
        await _ended(self._cancel(f"sink {name}"))
        await self.sinks.pop(name).close()

    def _drain(self, name: str) -> None:
        """Let the sink *name*, no longer configured, deliver its backlog, and then close it."""
        assert self._tasks is not None  # noqa: S101  # as above
        deliverer, _ = self._draining[name]
        deliverer.finish()
        self._tasks.create_task(self._close_when_drained(name, deliverer))

    async def _close_when_drained(self, name: str, deliverer: Deliverer) -> None:
        delivering = self._running[f"sink {name}"][0]
        await asyncio.wait([delivering])
        if self._draining.get(name, (None,))[0] is deliverer:
            self._cancel(f"sink {name}")
            await self._draining.pop(name)[1].close()
            if not delivering.cancelled():
                _log.info("sink_drained", sink=name)

    async def remove_orphan(self, name: str) -> None:
        """Stop delivering to a sink that is not configured any more, if *name* is one."""
        if name in self._draining:
            deliverer, sink = self._draining.pop(name)
            await _drain_within_grace([deliverer])
            await asyncio.wait(self._cancel(f"sink {name}"))
            await sink.close()


async def _close(
    sinks: Mapping[str, tuple[Sink, Deliverer]], collectors: Mapping[str, SourceLoop]
) -> None:
    """Close what was built in vain."""
    for sink, _ in sinks.values():
        await sink.close()
    for collector in collectors.values():
        await collector.close()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Wait until *tasks*, which are cancelled, have ended; a run that has an end has none."""
    others = [task for task in tasks if task is not asyncio.current_task()]
    if others:
        await asyncio.wait(others)


async def _drain_within_grace(deliverers: list[Deliverer]) -> None:
    """Send nothing new, and wait at most *GRACE* for the requests in flight."""
    for deliverer in deliverers:
        deliverer.stop()
    # Worth waiting for: a request cancelled in flight may be delivered twice.
    draining = [asyncio.ensure_future(deliverer.drain()) for deliverer in deliverers]
    if draining:
        await asyncio.wait(draining, timeout=GRACE.total_seconds())
    for task in draining:
        task.cancel()


def _enabled(members: Any) -> dict[str, Any]:
    return {name: settings for name, settings in members.items() if settings.enabled}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> TopologyDiff:
    old, new = _enabled(before), _enabled(after)
    return TopologyDiff(
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=[name for name in new if name in old and new[name] != old[name]],
    )


def _both(some: TopologyDiff, others: TopologyDiff) -> TopologyDiff:
    return TopologyDiff(
        some.added + others.added, some.removed + others.removed, some.changed + others.changed
    )


def _feeds(config: Config, sink: str) -> Collection[str]:
    """Return the sources of *sink*: none if a reload removed it, and it is to be given away."""
    return config.sources_of(sink) if sink in config.sinks else ()


def _of(held: Collection[str], diff: TopologyDiff) -> TopologyDiff:
    """Return what of *diff* is *held* here: what is added waits for its lease."""
    return TopologyDiff(
        removed=[name for name in diff.removed if name in held],
        changed=[name for name in diff.changed if name in held],
    )


def _parts_of(held: Mapping[str, Deliverer], diff: TopologyDiff, config: Config) -> TopologyDiff:
    """
    Return which of the sinks and parts that are *held* here *diff* has changed.

    What is not in *config* any more, or is divided otherwise, goes on until it is given away.
    """
    units = set(units_of(config))
    return TopologyDiff(
        changed=[
            name
            for name, deliverer in held.items()
            if deliverer.name in diff.changed and f"sink {name}" in units
        ]
    )


def _unexpected(_: str, error: BaseException) -> None:
    raise error


def _refuse_what_is_fixed(old: Config, new: Config) -> None:
    """Raise ConfigError that names what cannot change while the instance runs."""
    problems = [
        f"{key} cannot change while the service runs: restart it"
        for key, before, after in (
            ("state_dir", old.state_dir, new.state_dir),
            ("store", old.store, new.store),
            ("replica", old.replica, new.replica),
            ("status", old.status, new.status),
            ("evidence.key", old.evidence.key, new.evidence.key),
            ("evidence.key_before", old.evidence.key_before, new.evidence.key_before),
        )
        if before != after
    ]
    for name, source in new.sources.items():
        before = old.sources.get(name)
        if before is None or before.vendor_key != source.vendor_key:
            continue
        if before.identity != source.identity:
            problems.append(
                f"sources.{name}: by its description as it is now, records would be known by other "
                "ids, and known events forwarded again: take that back; if it is meant, restart"
            )
    if problems:
        raise ConfigError(*problems)
