"""This process as one replica of several: what its membership runs, and tells the others."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from auditrelay.clock import Clock
from auditrelay.config.model import Config
from auditrelay.errors import RolledBack, StateError
from auditrelay.service.ability import Directories, unable
from auditrelay.service.configured_feeds import ConfiguredFeeds
from auditrelay.service.disagreements import Disagreements
from auditrelay.service.instance_view import InstanceView
from auditrelay.service.keeper import Feeds
from auditrelay.service.member import Member
from auditrelay.service.membership import Loss
from auditrelay.service.state import PATIENCE
from auditrelay.service.topology import Topology
from auditrelay.service.workload import Workload
from auditrelay.status.model import StoreStatus
from auditrelay.status.replica_findings import CLOCK_OFF
from auditrelay.store.leases import KEEPER, Lease
from auditrelay.store.parts import name_of
from auditrelay.store.replicas import LIFE, Card, Served, Situation, Unreachable, Waiting
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import iso

if TYPE_CHECKING:
    from auditrelay.service.shared import Share

_PATIENCE: Final = LIFE + 3.0
"""Seconds after which what a replica held is free that has died just now."""

_LEAVE: Final = 10.0
"""Seconds for which a replica that stops tries to give away what it has: the store may be away."""

_LOOK: Final = 0.1
"""Seconds between two looks at what is held by now."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Replica:
    """
    Runs *work* under the leases that its *member* gains and loses.

    See ``member.Instance``, and ``instance_view.Fleet`` for what it shows.
    """

    def __init__(
        self,
        share: "Share",
        topology: Topology,
        work: Workload,
        view: InstanceView,
        metrics: Metrics,
        *,
        clock: Clock,
    ) -> None:
        self._share = share
        self._metrics = metrics
        self._topology = topology
        self._work = work
        self._view = view
        self._clock = clock
        self._config = topology.config
        self._directories = Directories(topology.config, clock=clock)
        self._is_command = False
        self._unable = unable(self._config, offset=timedelta(), missing=self._directories.missing)
        self._serves = share.served(self._config)
        self.member = self._member(share.card(self._able()))
        self._configured = ConfiguredFeeds()
        self._disagreements = Disagreements()
        self._disputed: set[str] = set()
        self._is_off = False
        self._ending: set[str] = set()
        """The units that are held until what runs for them has ended."""
        topology.may_send = self.member.good
        view.fleet = self
        topology.on_lost = self._on_lost

    def _member(self, card: Card) -> Member:
        return Member(self._share.membership, self, card, clock=self._clock, metrics=self._metrics)

    def _on_lost(self, unit: str, error: BaseException) -> None:
        if isinstance(error, RolledBack):
            self.member.rejoin(Loss.ROLLED_BACK)
        else:
            self.member.refused(unit)

    async def gain(self, lease: Lease) -> None:
        """Build what runs under *lease*, and begin it."""
        await self._work.gain(lease)

    async def lose(self, lease: Lease, why: Loss) -> None:
        """End what runs under *lease*, and before that what a command has it do."""
        self._ending.add(lease.unit)
        try:
            self._share.desk.leave(lease.unit)
            await self._work.lose(lease, why)
        finally:
            self._ending.discard(lease.unit)

    def joined(self, replica: UUID) -> None:
        """Write as *replica* from now on."""
        self._share.joined(replica)

    async def register(self) -> None:
        """Tell the store what is configured."""
        await self._work.register()

    def writes(self) -> int:
        """Return how many transactions of this replica are known to be committed."""
        return self._share.engine.writer.writes

    def info(self) -> Mapping[str, Any]:
        """Return what the others may show of this replica."""
        usage, now = resource.getrusage(resource.RUSAGE_SELF), self._clock.now()
        failing, reach = self._view.failing, self.member.reach
        return {
            "stuck": self._view.stuck(),
            "memory_peak_bytes": usage.ru_maxrss * 1024,
            "offset": round(reach.offset.total_seconds(), 1) + 0.0,  # no -0.0
            "round_trip": round(reach.round_trip, 1),
            "old_rows": self.member.old_rows if KEEPER in self.member.leases else 0,
            "unable": {**self._unable, **self.member.resting},
            "throughput": {
                f"sink {name}": each.throughput.per_minute(now)
                for name, each in self._topology.deliverers.items()
            },
            "elsewhere": self._share.elsewhere(self._config),
            "failing": None if failing is None else (failing[0], iso(failing[1])),
        }

    def wake(self) -> None:
        """Deliver: the spool has grown, or there is a new head."""
        self._topology.announce()

    def saw(self, situation: Situation) -> None:
        """Take note of what a pulse has seen."""
        self._configured.saw(situation.replicas, self._clock.monotonic())
        self._disagreements.saw(situation.replicas, situation.now)
        disputed = set(self._disagreements.lasting(situation.now))
        for unit in sorted(disputed - self._disputed):
            _log.warning("replicas_disagree", unit=unit)
        self._disputed = disputed
        offset = self.member.reach.offset
        is_off = abs(offset.total_seconds()) > CLOCK_OFF
        if is_off and not self._is_off:
            ahead = -round(offset.total_seconds(), 1)
            _log.warning("clock_differs", peer="the database", ahead_seconds=ahead)
        self._is_off = is_off
        for name, deliverer in self._topology.deliverers.items():
            if name != deliverer.name:  # a part of a sink, which may have waited for the others
                deliverer.wake.set()
        if not self._is_command:
            self._reconsider(offset)

    def _reconsider(self, offset: timedelta) -> None:
        """Serve what we can serve, if that has changed."""
        self._directories.look(self._config)
        before = self._unable.keys()
        self._unable = unable(self._config, offset=offset, missing=self._directories.missing)
        for unit in sorted(self._unable.keys() - before):
            _log.warning("unit_not_served", unit=unit, reason=self._unable[unit])
        if before != self._unable.keys():
            self.member.serve(self._able())

    def _able(self) -> dict[str, Served]:
        return {unit: each for unit, each in self._serves.items() if unit not in self._unable}

    # -- for what is shown -------------------------------------------------------------------------

    def situation(self) -> Situation | None:
        """Return what the last pulse has seen; None before the first one."""
        return self.member.situation

    def has_joined(self) -> bool:
        """Return whether it is a member, and what it was given then runs."""
        return self.member.joined.is_set()

    def held(self) -> Collection[str]:
        """Return the units that this replica holds."""
        return self.member.leases.keys()

    def store(self) -> StoreStatus:
        """Return how the store is, and what the replicas do not agree on."""
        away, seen = self.member.reach.away_since, self.member.situation
        now = self._clock.now() if seen is None else seen.now
        return StoreStatus(
            up=away is None,
            away_since=None if away is None else iso(away),
            disagreements={
                unit: iso(since.astimezone(UTC))
                for unit, since in self._disagreements.lasting(now).items()
            },
        )

    def clock_offset(self) -> float:
        """Return how far the clock of the store is ahead of ours, in seconds."""
        return self.member.reach.offset.total_seconds()

    def pulse_age(self) -> float:
        """Return how many seconds ago the store has last answered a pulse."""
        return self.member.reach.age()

    def is_overdue(self) -> bool:
        """Return whether no pulse was tried for long, though the store is not waited for."""
        return self.member.reach.is_overdue()

    def away_until(self) -> float:
        """Return until when (monotonic) the store was waited for: now, if it is."""
        return self._share.engine.away_until

    def configured_at(self, name: str) -> list[str]:
        """Return which live replicas have a source or sink *name*, whether they serve it or not."""
        seen = self.member.situation
        return [
            each.name
            for each in (() if seen is None else seen.replicas)
            if each.fresh
            and (
                name in map(name_of, each.serves)
                or name in map(name_of, each.info.get("unable", ()))
                or name in each.info.get("elsewhere", ())
            )
        ]

    # -- for what the membership asks --------------------------------------------------------------

    def reload(self, config: Config) -> None:
        """Serve what *config*, which is in force now, has."""
        self._config, self._serves = config, self._share.served(config)
        offset = self.member.reach.offset
        self._unable = unable(config, offset=offset, missing=self._directories.missing)
        self.member.serve(self._able())

    def feeds(self) -> Feeds | None:
        """Return what is configured, by all live replicas; None while that is not known."""
        return self._configured.current(self._clock.monotonic())

    def offer(self, requests: Sequence[Waiting]) -> None:
        """Take up the *requests* to units that are held here."""
        if self.member.me is not None:
            held = self.member.leases.keys() - self._ending
            self._share.desk.offer(self.member.me, requests, held)

    async def keep_pulsing(self) -> None:
        """
        Be a member until everything has been given away.

        Raises StateError, with all given back, if the state cannot be used any more: a newer
        version has made it its own, or it is damaged.
        """
        try:
            await self.member.keep_pulsing()
        except* StateError:
            with contextlib.suppress(Unreachable):
                await self._share.membership.leave()
            raise

    async def leave(self, pulsing: asyncio.Task[None]) -> None:
        """Give everything away in good order, if the store answers in time; end *pulsing*."""
        self.member.drain()
        await asyncio.wait([pulsing], timeout=_LEAVE)
        pulsing.cancel()
        await asyncio.wait([pulsing])

    @contextlib.asynccontextmanager
    async def holding(self, units: Collection[str]) -> AsyncIterator[set[str]]:
        """
        Hold those of *units* that are free, for the length of the block; yield those that are not.

        A run that has an end joins for them alone, and leaves them again in good order. What a dead
        replica held is waited for. Raises StateError, in a group, if the store does not answer.
        """
        served = {unit: each for unit, each in self._serves.items() if unit in units}
        self._is_command = True
        self.member = self._member(self._share.card(served, command=True))
        self._topology.may_send = self.member.good
        async with asyncio.TaskGroup() as tasks:
            pulsing = tasks.create_task(self.keep_pulsing())
            try:
                await self._obtain(set(served), pulsing)
                yield set(units) - self.member.leases.keys()
            finally:
                await self.leave(pulsing)

    async def _obtain(self, units: set[str], pulsing: asyncio.Task[None]) -> None:
        began = self._clock.monotonic()
        while not (pulsing.done() or (units <= self.member.leases.keys() and self.member.quiet)):
            waited = self._clock.monotonic() - began
            if self.member.joined.is_set() and waited > _PATIENCE:
                return
            if not self.member.joined.is_set() and waited > PATIENCE:
                away = self.member.situation is None
                why = "the database with the state has not answered" if away else "it has not begun"
                raise StateError(f"{why} for {PATIENCE:.0f} seconds")
            await self._clock.sleep(_LOOK)
