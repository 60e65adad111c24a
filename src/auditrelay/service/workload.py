"""What runs here under leases: sources and sinks, which the topology has, and the keeper."""

import asyncio
from collections.abc import Awaitable, Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from auditrelay.config.model import Config
from auditrelay.errors import LeaseLost, first_of
from auditrelay.service.gate import Gate
from auditrelay.service.keeper import Keeper
from auditrelay.service.membership import Loss
from auditrelay.service.store import Store
from auditrelay.service.topology import Topology, TopologyDiff
from auditrelay.store.leases import KEEPER, Lease


class Workload:
    """
    Runs what a lease is for, in *topology* or as a keeper that *new_keeper* makes.

    *keeper* is there as long as its lease is held.
    """

    def __init__(
        self, topology: Topology, store: Store, new_keeper: Callable[[Store], Keeper]
    ) -> None:
        self.keeper: Keeper | None = None
        self._topology = topology
        self._store = store
        self._new_keeper = new_keeper
        self._tasks: asyncio.TaskGroup | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self._keeping: list[asyncio.Task[None]] = []
        self._gate = Gate()
        """A reload is alone: what is gained or lost in the middle of it would be of neither."""

    def begin(self, tasks: asyncio.TaskGroup, scheduler: AsyncIOScheduler) -> None:
        """Start everything as tasks of *tasks*; *scheduler* sets what is due."""
        self._tasks, self._scheduler = tasks, scheduler
        self._topology.begin(tasks, scheduler)
        if self.keeper is not None:
            self._begin_keeping(self.keeper)

    async def gain(self, lease: Lease) -> None:
        """Build what runs under *lease*, and begin it."""
        if lease.unit != KEEPER:
            async with self._gate.passing():
                await self._topology.gain(lease)
            return
        keeper = self._new_keeper(self._store.under(lease))
        await keeper.sealer.begin()
        self.keeper = keeper
        self._store.on_condition = keeper.look
        self._begin_keeping(keeper)

    def _begin_keeping(self, keeper: Keeper) -> None:
        if self._tasks is None or self._scheduler is None:
            return
        keeper.schedule(self._scheduler)
        for loop in keeper.loops(self.has_read):
            self._keeping.append(self._tasks.create_task(self._until_lost(loop)))

    def has_read(self) -> bool:
        """
        Return whether each source has been polled since the start, or cannot be.

        And before that whether the sinks are known: the first head is for them as well.
        """
        return self._topology.is_registered and all(
            collector.worked_once
            or collector.condition.held
            or collector.condition.last_error is not None
            or collector.condition.paused_since is not None
            for collector in self._topology.collectors.values()
        )

    async def _until_lost(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except* LeaseLost as group:
            self._topology.on_lost(KEEPER, first_of(group))

    async def lose(self, lease: Lease, why: Loss) -> None:
        """End what runs under *lease*; in good order if it is still ours."""
        in_order = why in (Loss.MOVED, Loss.DRAINED)
        if lease.unit == KEEPER:
            await self._end_keeping(in_order=in_order)
        elif in_order:
            async with self._gate.passing():
                await self._topology.release(lease.unit)
        else:
            await self._topology.cut(lease.unit)  # at once: a reload may take long
            async with self._gate.passing():
                await self._topology.lose(lease.unit)

    async def _end_keeping(self, *, in_order: bool) -> None:
        for task in self._keeping:
            if task is not asyncio.current_task():
                task.cancel()
        self._keeping.clear()
        keeper, self.keeper = self.keeper, None
        self._store.on_condition = _nothing
        if keeper is not None and in_order:
            await keeper.sealer.end()

    async def end(self, *, in_order: bool = True) -> None:
        """End what the keeper does, if it is here."""
        await self._end_keeping(in_order=in_order)

    async def prune(self) -> None:
        """Delete what nothing needs any more, if the keeper is here."""
        if self.keeper is not None:
            await self.keeper.prune()

    async def register(self) -> None:
        """Register what is configured, between what is gained and lost."""
        async with self._gate.passing():
            await self._topology.register()
        if self.keeper is not None:
            self.keeper.look()

    async def change(self, config: Config) -> TopologyDiff:
        """Apply *config* as the topology does, between what is gained and lost."""
        async with self._gate.alone():
            return await self._topology.change(config)

    async def reload(self) -> None:
        """Tell of the configuration that is in force now, if the keeper is here."""
        if self.keeper is not None:
            await self.keeper.sealer.reload()

    async def seal(self) -> None:
        """Seal the evidence, if the keeper is here; what cannot be sealed it reports itself."""
        if self.keeper is not None:
            await self.keeper.sealer.seal()


def _nothing() -> None:
    """Do nothing: another instance looks."""
