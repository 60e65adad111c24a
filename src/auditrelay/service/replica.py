"""This process as one replica of several: what its membership runs, and tells the others."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import RolledBack
from auditrelay.service.configured_feeds import ConfiguredFeeds
from auditrelay.service.instance_view import InstanceView
from auditrelay.service.keeper import Feeds
from auditrelay.service.member import Member
from auditrelay.service.membership import Loss
from auditrelay.service.topology import Topology
from auditrelay.service.workload import Workload
from auditrelay.store.leases import Lease
from auditrelay.store.replicas import LIFE, Situation, Waiting

if TYPE_CHECKING:
    from auditrelay.service.shared import Share

_PATIENCE: Final = LIFE + 3.0
"""Seconds after which what a replica held is free that has died just now."""

_LOOK: Final = 0.1
"""Seconds between two looks at what is held by now."""


class Replica:
    """Runs *work* under the leases that its *member* gains and loses. See ``member.Instance``."""

    def __init__(
        self,
        share: "Share",
        topology: Topology,
        work: Workload,
        view: InstanceView,
        *,
        clock: Clock,
    ) -> None:
        self._share = share
        self._topology = topology
        self._work = work
        self._view = view
        self._clock = clock
        self.member = Member(share.membership, self, share.card(), clock=clock)
        self._configured = ConfiguredFeeds()
        topology.may_send = self.member.good
        view.situation = self._situation
        view.joined = self._is_joined
        topology.on_lost = self._on_lost

    def _situation(self) -> Situation | None:
        return self.member.situation

    def _is_joined(self) -> bool:
        return self.member.joined.is_set()

    def _on_lost(self, unit: str, error: BaseException) -> None:
        if isinstance(error, RolledBack):
            self.member.rejoin(Loss.ROLLED_BACK)
        else:
            self.member.refused(unit)

    async def gain(self, lease: Lease) -> None:
        """Build what runs under *lease*, and begin it."""
        await self._work.gain(lease)

    async def lose(self, lease: Lease, why: Loss) -> None:
        """End what runs under *lease*."""
        await self._work.lose(lease, why)

    def joined(self, replica: UUID) -> None:
        """Write as *replica* from now on."""
        self._share.joined(replica)

    def writes(self) -> int:
        """Return how many transactions of this replica are known to be committed."""
        return self._share.engine.writer.writes

    def info(self) -> Mapping[str, Any]:
        """Return what the others may show of this replica."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"stuck": self._view.stuck(), "memory_peak_bytes": usage.ru_maxrss * 1024}

    def wake(self) -> None:
        """Deliver: the spool has grown, or there is a new head."""
        self._topology.announce()

    def saw(self, situation: Situation) -> None:
        """Take note of what a pulse has seen."""
        self._configured.saw(situation.replicas, self._clock.monotonic())

    def reload(self, config: Config) -> None:
        """Serve what *config*, which is in force now, has."""
        self.member.serve(self._share.reload(config).serves)

    def feeds(self) -> Feeds | None:
        """Return what is configured, by all live replicas; None while that is not known."""
        return self._configured.current(self._clock.monotonic())

    def offer(self, requests: Sequence[Waiting]) -> None:
        """Take up the *requests* to units that are held here."""
        if self.member.me is not None:
            self._share.desk.offer(self.member.me, requests, self.member.leases)

    @contextlib.asynccontextmanager
    async def holding(self, units: Collection[str]) -> AsyncIterator[set[str]]:
        """
        Hold those of *units* that are free, for the length of the block; yield those that are not.

        A run that has an end joins for them alone, and leaves them again in good order. What a dead
        replica held is waited for.
        """
        self.member = Member(
            self._share.membership, self, self._share.card(units), clock=self._clock
        )
        self._topology.may_send = self.member.good
        async with asyncio.TaskGroup() as tasks:
            pulsing = tasks.create_task(self.member.keep_pulsing())
            try:
                await self._obtain(set(units), pulsing)
                yield set(units) - self.member.leases.keys()
            finally:
                self.member.drain()
                await asyncio.wait([pulsing])

    async def _obtain(self, units: set[str], pulsing: asyncio.Task[None]) -> None:
        began = self._clock.monotonic()
        while not (pulsing.done() or (units <= self.member.leases.keys() and self.member.quiet)):
            if self.member.joined.is_set() and self._clock.monotonic() - began > _PATIENCE:
                return
            await self._clock.sleep(_LOOK)
