"""
One instance: builds every part from the configuration, starts them, and stops them in order.

This is the only module that knows all parts. The scheduler sets when work is due; the task group
owns the work, so that a bug in it ends the service visibly. The store makes that safe. A bug in the
code for one source or sink only holds that one.
"""

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import structlog

from auditrelay.clock import Clock
from auditrelay.collect.source_loop import SourceLoop
from auditrelay.config.model import Config
from auditrelay.deliver.deliverer import Deliverer
from auditrelay.errors import (
    ConfigError,
    LeaseLost,
    PeerBug,
    RelayError,
    StateError,
    StoreFull,
)
from auditrelay.service.commands import Commands
from auditrelay.service.control_socket import ControlSocket
from auditrelay.service.descriptors import allow_descriptors
from auditrelay.service.desk import Desk, NotServed, OnProgress, Request, Result
from auditrelay.service.heap import tune_heap
from auditrelay.service.instance_view import InstanceView
from auditrelay.service.keeper import Keeper
from auditrelay.service.registration import receivers
from auditrelay.service.state import State, opened
from auditrelay.service.store import Store
from auditrelay.service.systemd import Supervisor
from auditrelay.service.topology import Topology, new_scheduler, units_of
from auditrelay.service.workload import Workload
from auditrelay.status.port import StatusPort
from auditrelay.status.report import Failing
from auditrelay.store.leases import KEEPER, sole
from auditrelay.store.parts import name_of
from auditrelay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from auditrelay.service.replica import Replica

ATTEMPTS_ONCE: Final = 5
"""Most attempts at one request in a run that has an end (``run --once``, a command)."""

ROOM_PATIENCE: Final = timedelta(seconds=30)
"""How long a poll of a run that has an end waits for room in the spool."""

RELOAD_AGAIN: Final = 5.0
"""Seconds after which a configuration is applied again that the store has not taken."""

SWITCH_SECONDS: Final = 0.0005
"""
How long a thread may keep the interpreter while others wait for it.

The writer thread releases the interpreter for every statement. With Python's default of 5 ms a
busy event loop would make it wait ten times longer than the statement takes.
"""

GC_THRESHOLD: Final = 10_000
"""
How many more containers may be allocated than freed before a collection of the youngest.

A page is thousands of short-lived dictionaries without cycles: with Python's default of 700 the
collector would traverse them again and again.
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def _tune() -> None:
    """Tune the interpreter for a process that decodes many small objects and keeps few."""
    tune_heap()
    allow_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 1000)


class App:
    """
    One running instance of *config*. Use :meth:`open`.

    *attempts* bounds the attempts at one request of a sink, for a run that has an end.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        metrics: Metrics,
        *,
        clock: Clock,
        attempts: int | None = None,
        state: State | None = None,
    ) -> None:
        # What is built from what; a line leads down to what is called.
        #
        #   control socket          SIGHUP            status port, systemd
        #         |                   |                        |
        #     Commands                | change()         InstanceView ----- Keeper
        #         |                   |                        | status(),   |
        #         | backfill,         |                        | stuck()     | alerts, seals,
        #         | verify, ...       |                        |             | what is pruned
        #         +--------------- Topology -------------------+             |
        #         |               /        \                                 |
        #         |       Collector        Deliverer                         |
        #         |       one a source     one a sink                        |
        #         |           | add()          | read(), settle()            |
        #         +-----------+------------ Store ---------------------------+
        #
        self._store = store
        self._clock = clock
        self.metrics = metrics
        self._topology = Topology(
            config,
            store,
            metrics,
            clock=clock,
            leases=None if state is None or state.share is None else (),
            attempts=attempts,
            patience=None if attempts is None else ROOM_PATIENCE,
        )
        self.view = InstanceView(self._topology, store, metrics, store.log, clock=clock)
        self._desk: Desk = ControlSocket(config.state_dir) if state is None else state.desk
        self._work = Workload(self._topology, store, self._new_keeper)
        self._commands = Commands(
            self._topology,
            store,
            clock=clock,
            seal=self._work.seal,
            configured_at=lambda name: (
                () if self._replica is None else self._replica.configured_at(name)
            ),
        )
        self._replica = None if state is None else self._replica_of(state, metrics)
        self._failed: set[str] = set()
        """Sinks that have failed in a run that has an end."""

    def _replica_of(self, state: State, metrics: Metrics) -> "Replica | None":
        if state.share is None:
            return None
        from auditrelay.service import replica  # noqa: PLC0415  # not for an instance alone

        return replica.Replica(
            state.share, self._topology, self._work, self.view, metrics, clock=self._clock
        )

    def _new_keeper(self, store: Store) -> Keeper:
        return Keeper(
            store,
            lambda: self._config,
            clock=self._clock,
            report=self.view.status,
            announce=self._topology.announce,
            on_seal=self._on_seal,
            feeds=None if self._replica is None else self._replica.feeds,
        )

    @property
    def _config(self) -> Config:
        return self._topology.config

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: Config, clock: Clock, *, attempts: int | None = None
    ) -> AsyncIterator[Self]:
        """
        Lock the state directory and build everything that is enabled; all of it goes by *clock*.

        Raises StateError if another instance has locked the state or it cannot be used,
        ConfigError if a part cannot be built.
        """
        config.require_work()
        _tune()
        metrics = Metrics(
            sources=config.sources,
            sinks=config.sinks,
            pairs=[
                (source, sink)
                for sink, settings in config.sinks.items()
                if settings.enabled
                for source in config.sources_of(sink)
            ],
            shared=config.store is not None,
        )
        async with opened(config, clock, metrics, has_end=attempts is not None) as state:
            app = cls(config, state.store, metrics, clock=clock, attempts=attempts, state=state)
            try:
                if app._replica is None:
                    await app._work.gain(sole(KEEPER))
                    await app._topology.register()
                yield app
            finally:
                await app._topology.close()

    # -- running -----------------------------------------------------------------------------------

    async def serve(
        self,
        stop: asyncio.Event,
        reload: asyncio.Event,
        reread: Callable[[], Config],
        started: Callable[[str], None],
        supervisor: Supervisor,
    ) -> None:
        """
        Run until *stop* is set, then drain the requests in flight within *GRACE*.

        Whenever *reload* is set, *reread* is called for the configuration as it is now; it may
        raise ConfigError. *started* is called with the address of the status port once everything
        runs; *supervisor* is notified from then on.
        """
        self.view.restart_command = supervisor.restart_command
        port = StatusPort(self._config.status.listen, self.view, token=self._config.status.token)
        scheduler = new_scheduler()
        async with asyncio.TaskGroup() as tasks:
            status = tasks.create_task(port.serve())
            self._work.begin(tasks, scheduler)
            others: list[asyncio.Task[None]] = [
                tasks.create_task(self._desk.serve(self._commands.do))
            ]
            scheduler.start()
            started(port.address)
            supervisor.ready(self.view.summary())
            others += [
                tasks.create_task(supervisor.keep_notifying(self.view)),
                tasks.create_task(self._keep_reloading(reload, reread, supervisor)),
            ]
            pulsing = None
            if self._replica is not None:
                pulsing = tasks.create_task(self._replica.keep_pulsing())
            await stop.wait()
            supervisor.stopping()
            if self._replica is not None and pulsing is not None:
                await self._replica.leave(pulsing)
            scheduler.shutdown(wait=False)
            for task in others:
                task.cancel()
            await self._topology.end()
            await self._work.end(in_order=self._replica is None)  # it has left, or cannot
            port.stop()
            await asyncio.wait([status])

    def _on_seal(self, failing: Failing | None) -> None:
        self.view.failing = failing

    async def _keep_reloading(
        self, due: asyncio.Event, reread: Callable[[], Config], supervisor: Supervisor
    ) -> None:
        """Apply the configuration again whenever that is *due*; a bad one changes nothing."""
        while True:
            await due.wait()
            due.clear()
            supervisor.reloading()
            is_postponed = False
            try:
                changes = await self._work.change(reread())
            except ConfigError as error:
                _log.error("reload_refused", problems=list(error.problems))
            except PeerBug as error:
                _log.error("reload_refused", problems=[str(error)])
            except (StoreFull, LeaseLost) as error:  # it passes, and nothing else waits for that
                _log.warning("reload_postponed", reason=str(error))
                is_postponed = True
            else:
                _log.info("reloaded", **asdict(changes))
                await self._work.reload()
                if self._replica is not None:
                    self._replica.reload(self._config)
            supervisor.ready(self.view.summary())
            if is_postponed:
                await self._clock.sleep(RELOAD_AGAIN)
                due.set()

    async def run_command_offline(
        self, request: Request, on_progress: OnProgress
    ) -> tuple[Result, list[str]]:
        """
        Do *request* without a running service, and deliver what it forwards.

        Returns the result, and why what stays in the spool for the service was not delivered.
        """
        async with self._holding(self._needed_for(request)) as missing:
            if missing:
                raise StateError(f"{_listed(missing)} cannot be had: a replica holds it")
            async with self._delivering() as undelivered:
                result = await self._commands.do(request, on_progress, os.getuid())
            await self._work.end()
        return result, undelivered

    async def ask_others(self, request: Request, on_progress: OnProgress) -> Result | None:
        """Let a running replica do *request*; return None if none serves what it is about."""
        if self._replica is None:
            return None
        try:
            return await self._desk.ask(request, on_progress)
        except NotServed:
            return None

    @contextlib.asynccontextmanager
    async def _holding(self, units: Collection[str]) -> AsyncIterator[set[str]]:
        """Hold *units* for the block, and yield what cannot be had; alone we hold everything."""
        if self._replica is None:
            yield set()
            return
        async with self._replica.holding(units) as missing:
            yield missing

    def _needed_for(self, request: Request) -> list[str]:
        """Return the units that *request* needs: a source with its sinks, or all."""
        source = getattr(request, "source", None)
        if source is None:
            return [*units_of(self._config), KEEPER]
        sinks = {name for name, fed in receivers(self._config).items() if source in fed}
        needed = (unit for unit in units_of(self._config) if name_of(unit) in sinks)
        return [f"source {source}", *needed, KEEPER]

    async def once(self) -> list[str]:
        """
        Read every source to its settled end, deliver everything, return the failures.

        What another replica holds is left to it, and among the failures. Raises StateError if it
        holds all.
        """
        wanted = [*units_of(self._config), KEEPER]
        async with self._holding(wanted) as missing:
            if len(missing) == len(wanted):
                raise StateError(
                    "there is nothing to do: other replicas hold all sources and sinks"
                )
            left = [f"{unit} is left to the replica that holds it" for unit in sorted(missing)]
            return [*left, *await self._once()]

    async def _once(self) -> list[str]:

        async def collect(collector: SourceLoop) -> None:
            try:
                await collector.poll()
            except StateError:
                raise
            except RelayError as error:
                failures.append(f"{collector.name}: {error}")

        async with self._delivering() as failures, asyncio.TaskGroup() as polls:
            for collector in self._topology.collectors.values():
                polls.create_task(collect(collector))
        await self._work.prune()  # by now replies have said what time it is
        await self._work.end()
        async with self._delivering() as untold:  # the head
            pass
        return [*failures, *untold]

    @contextlib.asynccontextmanager
    async def _delivering(self) -> AsyncIterator[list[str]]:
        """
        Deliver during the block, and after it until every sink has everything or has failed.

        Yields the list of failures, a sentence each; it is complete when the block has ended. A
        sink that has failed is left out from then on.
        """
        failures: list[str] = []

        async def deliver(name: str, deliverer: Deliverer) -> None:
            try:
                await deliverer.keep_delivering()
            except* StateError:
                raise
            except* RelayError as group:
                self._failed.add(name)
                failures.append(f"{name}: {group.exceptions[0]}")

        deliverers = {
            name: deliverer
            for name, deliverer in self._topology.deliverers.items()
            if name not in self._failed
        }
        async with asyncio.TaskGroup() as tasks:
            for name, deliverer in deliverers.items():
                tasks.create_task(deliver(name, deliverer))
            yield failures
            for deliverer in deliverers.values():
                deliverer.finish()


def _listed(units: Collection[str]) -> str:
    return ", ".join(sorted(units))
