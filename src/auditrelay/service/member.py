"""
One replica among others: it pulses, takes what the plan gives it, and gives what others shall have.

Each turn of the loop sees the situation, and draws its conclusions in the order of what may not
wait: what is lost ends, then what is wanted elsewhere, then what is free is taken. Whatever may
take its time (building, draining, taking) is a task of its own, so that beats are never late.
"""

import asyncio
from collections.abc import Awaitable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from auditrelay.clock import Clock
from auditrelay.errors import LeaseLost, RelayError
from auditrelay.service.holdings import Holdings, Runner
from auditrelay.service.key_in_force import KeyInForce, May
from auditrelay.service.membership import (
    BEAT,
    PULSE,
    Free,
    Guard,
    Loss,
    Moves,
    Origins,
    Witness,
    lost,
    plan,
    rolled_back,
    served,
    unknown_to_us,
)
from auditrelay.service.reach import Reach
from auditrelay.service.registering import Registering
from auditrelay.store.leases import KEEPER, Lease
from auditrelay.store.replicas import (
    Card,
    LeaseRow,
    Served,
    Server,
    Situation,
    Unreachable,
    Waiting,
)
from auditrelay.telemetry.metrics import Metrics

TIDY: Final = 60.0
"""Seconds after which the keeper removes what dead replicas have left behind."""

REST: Final = 60.0
"""Seconds for which a unit that could not begin here is left to others."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Membership(Protocol):
    """The rows that the replicas share. Every method raises Unreachable."""

    async def join(self, card: Card) -> UUID:
        """Join as a replica that has never been before, and return its id."""

    async def server(self) -> Server | None:
        """Return which server the database is on; None if it does not say so."""

    async def pulse(self, *, beat: bool, draining: bool, info: Mapping[str, Any]) -> Situation:
        """Give a sign of life, if it is a *beat*, and return what there is to see."""

    async def end_sessions(self, dead: Collection[UUID]) -> None:
        """End the sessions of *dead* replicas, which may hold locks."""

    async def take(self, units: Collection[str], dead: Collection[UUID]) -> list[Lease]:
        """Take those of *units* that are free, or held by one of the *dead*."""

    async def rekey(self, row: LeaseRow) -> Lease | None:
        """Give a lease that is ours a new token; return None if it is another one by now."""

    async def give(self, lease: Lease) -> None:
        """Give *lease* back, if it is still that one."""

    async def want(self, moves: Mapping[str, UUID]) -> None:
        """Ask the holders of the units of *moves* to give them to those replicas."""

    async def serve(self, serves: Mapping[str, Served]) -> None:
        """Change what this replica serves."""

    async def tidy(self) -> None:
        """Remove what dead replicas and commands have left behind."""

    async def old_rows(self) -> int | None:
        """Return how many old versions of rows a small table has; None if it does not say so."""

    async def leave(self) -> None:
        """Give back everything, and remove this replica."""


class Instance(Runner, Protocol):
    """What a member runs, and what it wants to know of it."""

    def joined(self, replica: UUID) -> None:
        """Write as *replica* from now on; it has written nothing yet."""

    async def register(self) -> None:
        """Tell the store what is configured. Raises LeaseLost and StoreFull."""

    def writes(self) -> int:
        """Return how many transactions of this replica are known to be committed."""

    def info(self) -> Mapping[str, Any]:
        """Return what the others may show of this replica."""

    def saw(self, situation: Situation) -> None:
        """Take note of what a pulse has seen."""

    def wake(self) -> None:
        """Deliver: the spool has grown, or there is a new head."""

    def offer(self, requests: Sequence[Waiting]) -> None:
        """Take up the *requests* to units that are held here; end what is not among them."""


class Member:
    """The replica that *card* describes, which runs *instance*; *metrics* are of a shared store."""

    def __init__(
        self,
        membership: Membership,
        instance: Instance,
        card: Card,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self.me: UUID | None = None
        self.situation: Situation | None = None
        """What the last pulse has seen."""
        self.reach = Reach(membership.server, clock=clock)
        """How it reaches the database."""
        self.joined = asyncio.Event()
        """Set once it is a member, and what it was given then runs."""
        self.old_rows = 0  # versions, in a small table of the store, as the keeper sees it
        self._membership = membership
        self._instance = instance
        self._card = card
        self._clock = clock
        self._guard, self._witness = Guard(), Witness()
        self._free, self._moves = Free(), Moves()
        self._broken: Loss | None = None
        self._draining = self._shown_draining = self._changed = False
        self._hurry = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._holdings: Holdings | None = None
        self._refused: dict[str, Lease] = {}
        self._resting: dict[str, tuple[float, str]] = {}
        """Units that could not begin here: until when they are left to others, and why."""
        self._taking: frozenset[str] = frozenset()
        self._took = False
        """Whether what was free has been taken, or was asked for in vain."""
        self._key, self._may = KeyInForce(card.key), May.NOTHING
        self._registering = Registering(
            instance.register, clock=clock, refused=self.rejoin, done=self._hurry.set
        )
        self._beaten = self._tidied = float("-inf")
        self._ended: frozenset[UUID] = frozenset()
        self._seen, self._origins = (0, 0), Origins()
        self._metrics = metrics or Metrics(shared=True)

    # -- for others --------------------------------------------------------------------------------

    @property
    def leases(self) -> dict[str, Lease]:
        """What is held now, by unit."""
        return self._holdings.leases if self._holdings is not None else {}

    def good(self) -> bool:
        """Return whether a request may begin that another replica would make if we were dead."""
        return self._guard.good(self._clock.boottime())

    @property
    def resting(self) -> dict[str, str]:
        """By unit why it could not begin here, if it is left to others for that."""
        return {unit: why for unit, (_, why) in self._resting.items()}

    def drain(self) -> None:
        """Give everything away in good order, and let :meth:`keep_pulsing` end."""
        self._draining = True
        self._hurry.set()

    @property
    def quiet(self) -> bool:
        """Whether nothing is beginning or ending here."""
        return self._holdings is not None and self._holdings.quiet

    def refused(self, unit: str) -> None:
        """
        Take note that the store refuses what is written under the lease of *unit*.

        If the next pulse sees that lease as ours all the same, it is this replica that is refused,
        and it joins again as another one.
        """
        if unit in self.leases:
            self._refused[unit] = self.leases[unit]
        self._hurry.set()

    def rejoin(self, why: Loss) -> None:
        """Drop everything and join again: the database has refused what this replica wrote."""
        self._broken = why
        self._hurry.set()

    def serve(self, serves: Mapping[str, Served]) -> None:
        """Serve other units from now on: what is not among them is given away."""
        self._card = replace(self._card, serves=serves)
        self._changed = True
        self._hurry.set()

    # -- the loop ----------------------------------------------------------------------------------

    async def keep_pulsing(self) -> None:
        """Be a member until :meth:`drain` is called and everything has been given away."""
        async with asyncio.TaskGroup() as tasks:
            self.begin(tasks)
            while not self._drained:
                self._hurry.clear()
                began = self._clock.boottime()
                await self.turn()
                left = PULSE - (self._clock.boottime() - began)
                await _pause(self._clock, left, self._hurry)
            await self._leave()

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Do what takes its time in *tasks*: a bug in it ends them all."""
        self._tasks = tasks
        self._holdings = Holdings(self._instance, tasks, self._failed)

    async def turn(self) -> None:
        """Pulse once, and draw the conclusions; join first where that has to be done."""
        try:
            with self.reach.asking():
                await self._turn()
        except Unreachable:
            self._witness.interrupted()
            if self._draining:  # nothing tells what is ours, and nothing is taken any more
                self._drain_all()

    async def _turn(self) -> None:
        if self._broken is not None:
            await self._start_again(self._broken)
        await self.reach.identify()
        if self.me is None:
            if self._draining:
                return
            await self._join()
        await self._pulse()

    async def _join(self) -> None:
        sent = self._clock.boottime()
        self.me = await self._membership.join(self._card)
        self._witness.interrupted()
        self._beaten, self._changed, self._shown_draining = sent, False, False
        self._instance.joined(self.me)
        _log.info("replica_joined", replica=str(self.me), name=self._card.name)

    async def _start_again(self, why: Loss) -> None:
        """End everything, and stop being this replica."""
        self._guard.end()
        self._refused.clear()
        _log.warning("replica_fenced", replica=str(self.me), reason=why.value)
        metrics, is_old = self._metrics, why is Loss.ROLLED_BACK
        (metrics.store_rolled_back if is_old else metrics.fenced).inc()
        self._registering.is_done &= not is_old  # that may be lost as well
        self._held.lose_all(why)
        with self.reach.not_asking():
            await self._held.settled()
        self._broken = None
        if self.me is not None:
            self.me = None
            await self._membership.leave()

    async def _pulse(self) -> None:
        assert self.me is not None  # noqa: S101  # joined
        if self._changed:
            await self._membership.serve(self._card.serves)
            self._changed = False
        known, writes = self._held.leases, self._instance.writes()
        refused = self._refused.copy()
        sent, at = self._clock.boottime(), self._clock.now()
        beat = sent - self._beaten >= BEAT - PULSE / 2 or self._shown_draining is not self._draining
        draining = self._draining
        now = await self._membership.pulse(beat=beat, draining=draining, info=self._instance.info())
        answered = self._clock.boottime()
        if beat:
            self._beaten, self._shown_draining = sent, draining
        self.reach.answered(sent, at, now.now)
        self._origins.saw(now.leases, now.replicas)
        self.situation = now
        self._instance.saw(now)
        own = next((each for each in now.replicas if each.id == self.me), None)
        if own is None or now.writes is None:
            self.rejoin(Loss.FENCED)  # taken for dead so long ago that it was tidied away
            return
        if rolled_back(writes, now.writes):
            self.rejoin(Loss.ROLLED_BACK)
            return
        self._guard.renew(sent, own.expires_in)
        self._witness.saw(now.replicas, sent, answered)
        gone = lost(known.values(), now.leases)
        if any(known.get(unit) == lease and lease not in gone for unit, lease in refused.items()):
            self.rejoin(Loss.FENCED)
            return
        self._refused = {u: each for u, each in self._refused.items() if refused.get(u) != each}
        for lease in gone:
            self._lose(lease)
        await self._conclude(now, answered)

    async def _conclude(self, now: Situation, at: float) -> None:
        still = self._witness.dead()
        dead = {each.id for each in now.replicas if each.id in still and not each.fresh}
        dead -= {self.me}
        if dead - self._ended:  # before anything is taken: they may hold the lock for that
            await self._membership.end_sessions(dead)
        self._ended = frozenset(dead)
        self._hand_over(now)
        planned = plan(now.replicas, [row.unit for row in now.leases], now.leases)
        self._free.saw(now.leases, now.replicas, dead, at)
        self._may = self._key.saw(now, self.me, at)
        if self._may is May.ALL and not self._registering.is_done:
            self._registering.begin(self._do)
            self._may = May.KEEPER
        if not self._draining and self._may is not May.NOTHING:
            self._take(planned, served(self._card, now.replicas), at)
        if (now.end, now.heads) != self._seen:
            self._seen = (now.end, now.heads)
            self._instance.wake()
        self._instance.offer(now.requests)
        if KEEPER in self.leases and not self._draining:
            self._keep(now, planned, at)
        if self._took and self._held.quiet:
            self.joined.set()

    # -- what is lost, and what is given -----------------------------------------------------------

    def _failed(self, lease: Lease, error: RelayError) -> None:
        if isinstance(error, LeaseLost):
            self.refused(lease.unit)
            return
        _log.warning("unit_not_begun", unit=lease.unit, reason=str(error))
        self._resting[lease.unit] = self._clock.boottime() + REST, str(error)

    def _lose(self, lease: Lease) -> None:
        if self._held.lose(lease, Loss.FENCED):
            self._metrics.fenced.inc()
            _log.warning("unit_fenced", unit=lease.unit, epoch=lease.epoch)

    def _hand_over(self, now: Situation) -> None:
        """Give what others shall have or is not served here; key again what we do not know of."""
        assert self.me is not None  # noqa: S101  # joined
        if self._draining:
            self._drain_all()
        able = {each.id for each in now.replicas if each.may_hold} - {self.me}
        leases, kept = self.leases, served(self._card, now.replicas) - self._resting.keys()
        for row in now.leases:
            if row.unit in leases and (row.wanted_by in able or row.unit not in kept):
                self._held.release(leases[row.unit], Loss.MOVED, self._give)
        for row in unknown_to_us(self.me, self._held.units | self._taking, now.leases):
            self._held.acquire(row.unit, partial(self._claim, row))

    async def _claim(self, row: LeaseRow) -> Lease | None:
        """Give what names us a new token, and return its lease; or give it away."""
        if self._draining or row.unit not in self._card.serves:
            if row.token is not None:
                await self._give(Lease(row.unit, row.epoch, row.token))
            return None
        try:
            lease = await self._membership.rekey(row)
        except Unreachable:
            return None  # the next pulse sees what came of it
        if lease is not None:
            _log.info("unit_taken", unit=lease.unit, epoch=lease.epoch, reason="ours", former=None)
        return lease

    def _drain_all(self) -> None:
        for lease in self.leases.values():
            self._held.release(lease, Loss.DRAINED, self._give)

    async def _give(self, lease: Lease) -> None:
        try:
            await self._membership.give(lease)
        except Unreachable:
            return  # the next pulse sees whether it is ours
        _log.info("unit_given", unit=lease.unit, epoch=lease.epoch)

    # -- what is taken -----------------------------------------------------------------------------

    def _take(self, planned: Mapping[str, UUID], serves: set[str], at: float) -> None:
        """Take what is free and planned for us, or for a replica that does not come for it."""
        free, unclaimed = self._free.units(), self._free.unclaimed(at)
        self._resting = {unit: each for unit, each in self._resting.items() if at < each[0]}
        wanted = {
            unit
            for unit in (free & serves) - self._resting.keys()
            if (planned.get(unit) == self.me or unit in unclaimed or self._card.command)
            and (self._may is May.ALL or unit == KEEPER)
        } - self._held.units
        if wanted and not self._taking:
            self._taking = frozenset(wanted)
            origins = {unit: self._origins.of(unit, self.me) for unit in wanted}
            self._do(self._taken(origins, set(self._ended)))
        self._took = self._took or (self._may is May.ALL and not wanted)

    async def _taken(
        self, units: Mapping[str, tuple[str, str | None]], dead: Collection[UUID]
    ) -> None:
        """Take *units*; of each it is known why, and who held it."""
        me = self.me
        try:
            leases = await self._membership.take(units, dead)
        except Unreachable:
            leases = []  # the next pulse sees what came of it
        finally:
            self._taking, self._took = frozenset(), self._took or self._may is May.ALL
        for lease in leases:
            if self.me == me and self._broken is None:
                why, former = units[lease.unit]
                _log.info(
                    "unit_taken", unit=lease.unit, epoch=lease.epoch, reason=why, former=former
                )
                self._metrics.takeovers.labels(why).inc()
                self._held.gain(lease)

    # -- what the keeper does ----------------------------------------------------------------------

    def _keep(self, now: Situation, planned: Mapping[str, UUID], at: float) -> None:
        busy = {each.unit for each in now.requests if each.taken_by is not None}
        moves = self._moves.due(now.replicas, planned, now.leases, busy, at)
        if moves:
            _log.info("units_moved", units=sorted(moves))
            self._do(self._tried(self._membership.want(moves)))
        if at - self._tidied >= TIDY:
            self._tidied = at
            self._do(self._tried(self._tidy()))

    async def _tidy(self) -> None:
        await self._membership.tidy()
        self.old_rows = await self._membership.old_rows() or 0

    async def _tried(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Unreachable as error:
            _log.warning("store_unreachable", reason=str(error))

    # -- the end -----------------------------------------------------------------------------------

    @property
    def _drained(self) -> bool:
        return self._draining and not self._held.units and not self._taking

    async def _leave(self) -> None:
        self._guard.end()
        if self.me is not None:
            await self._tried(self._membership.leave())
            _log.info("replica_left", replica=str(self.me))

    @property
    def _held(self) -> Holdings:
        assert self._holdings is not None  # noqa: S101  # keep_pulsing makes it
        return self._holdings

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None  # noqa: S101  # as above
        return self._tasks.create_task(work)


async def _pause(clock: Clock, seconds: float, hurry: asyncio.Event) -> None:
    """Wait for *seconds*, or until there is a reason to *hurry*."""
    waiting = [
        asyncio.ensure_future(clock.sleep(max(seconds, 0.0))),
        asyncio.ensure_future(hurry.wait()),
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
