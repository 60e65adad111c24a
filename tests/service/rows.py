"""The rows that replicas share, in memory, as ``store.postgres.leases`` has them."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tests.support.clock import NOON, FakeClock

from auditrelay.service.membership import Loss
from auditrelay.store.leases import Lease
from auditrelay.store.parts import part_of, peer_of
from auditrelay.store.replicas import (
    LIFE,
    Card,
    LeaseRow,
    Replica,
    Served,
    Server,
    Situation,
    Unreachable,
    Waiting,
)

if TYPE_CHECKING:
    from auditrelay.errors import RelayError


def overlap(one: str, other: str) -> bool:
    """Return whether both units are of one sink, in different numbers of parts."""
    into = [None if part is None else part.into for part in map(part_of, (one, other))]
    return one.startswith("sink ") and peer_of(one) == peer_of(other) and into[0] != into[1]


class Rows:
    """The database: its *clock* may differ from those of the replicas."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ahead = timedelta()
        """How much later its clock is than that of the replicas."""
        self.replicas: dict[UUID, Replica] = {}
        self.expires: dict[UUID, float] = {}
        self.seats: dict[UUID, str | None] = {}
        self.leases: dict[str, LeaseRow] = {}
        self.writes: dict[UUID, int] = {}
        self.requests: list[Waiting] = []
        self.end = 0
        self.key = ""
        """The id of the key of the evidence that is in force."""
        self.old_rows: int | None = 0
        self.reachable = True
        self.server: Server | None = Server("15.1", "7", 1)
        self.locked_by: UUID | None = None
        """A frozen replica that has begun to write."""
        self.lost_answers = 0
        """So many takes and gives happen, and the replica does not hear of it."""

    def now(self) -> float:
        return self.clock.monotonic() + self.ahead.total_seconds()

    def fresh(self, replica: UUID | None) -> bool:
        return replica in self.replicas and self.expires[replica] > self.now()

    def holder(self, unit: str) -> UUID | None:
        return self.leases[unit].holder

    def held_by(self, replica: UUID) -> set[str]:
        return {row.unit for row in self.leases.values() if row.holder == replica}

    def change(self, unit: str, **changes: Any) -> None:
        self.leases[unit] = replace(self.leases[unit], **changes)

    def remove(self, replica: UUID) -> None:
        for rows in (self.replicas, self.expires, self.seats, self.writes):
            rows.pop(replica, None)


class FakeMembership:
    """One replica's access to *rows*."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.me = uuid4()
        self.beats = 0
        self.key = ""
        self.ended: list[set[UUID]] = []
        self.partitioned = False

    def _reach(self) -> None:
        if self.partitioned or not self.rows.reachable:
            raise Unreachable("there is no database")

    async def _alone(self) -> None:
        self._reach()
        while self.rows.locked_by is not None:  # noqa: ASYNC110  # a few rounds of the loop
            await asyncio.sleep(0)

    def _answer(self) -> None:
        if self.rows.lost_answers:
            self.rows.lost_answers -= 1
            raise Unreachable("the answer was lost")

    async def join(self, card: Card) -> UUID:
        self._reach()
        rows, self.me = self.rows, uuid4()
        if card.seat is not None:
            for before in [each for each, seat in rows.seats.items() if seat == card.seat]:
                rows.remove(before)
        rows.replicas[self.me] = Replica(
            self.me,
            card.name,
            card.version,
            NOON,
            beats=0,
            draining=False,
            command=card.command,
            serves=card.serves,
            expires_in=LIFE,
            info={"key": card.key},
        )
        self.key = card.key
        rows.expires[self.me] = rows.now() + LIFE
        rows.seats[self.me], rows.writes[self.me] = card.seat, 0
        self._ensure(card.serves)
        return self.me

    def _ensure(self, units: Collection[str]) -> None:
        for unit in units:
            self.rows.leases.setdefault(unit, LeaseRow(unit))

    async def server(self) -> Server | None:
        self._reach()
        return self.rows.server

    async def pulse(self, *, beat: bool, draining: bool, info: Mapping[str, Any]) -> Situation:
        self._reach()
        rows = self.rows
        if beat and self.me in rows.replicas:
            self.beats += 1
            old = rows.replicas[self.me]
            said = {**info, "key": self.key}
            rows.replicas[self.me] = replace(old, beats=old.beats + 1, draining=draining, info=said)
            rows.expires[self.me] = rows.now() + LIFE
        return Situation(
            now=rows.clock.now() + rows.ahead,
            replicas=tuple(
                replace(each, expires_in=rows.expires[each.id] - rows.now())
                for each in rows.replicas.values()
            ),
            leases=tuple(rows.leases.values()),
            requests=tuple(rows.requests),
            end=rows.end,
            heads=0,
            writes=rows.writes.get(self.me),
            key=rows.key,
        )

    async def end_sessions(self, dead: Collection[UUID]) -> None:
        self._reach()
        self.ended.append(set(dead))
        if self.rows.locked_by in dead:
            self.rows.locked_by = None

    async def take(self, units: Collection[str], dead: Collection[UUID]) -> list[Lease]:
        await self._alone()
        rows, taken = self.rows, []
        for unit in sorted(units):
            row = rows.leases[unit]
            overlapping = [each for each in rows.leases.values() if overlap(each.unit, unit)]
            for each in overlapping:
                if self._is_free(each, dead):
                    rows.change(each.unit, token=None, holder=None)
            if any(rows.holder(each.unit) is not None for each in overlapping):
                continue
            if not self._is_free(row, dead) or self.me not in rows.replicas:
                continue
            if row.wanted_by not in (None, self.me) and rows.fresh(row.wanted_by):
                continue
            token = uuid4()
            rows.leases[unit] = LeaseRow(unit, row.epoch + 1, token, self.me)
            taken.append(Lease(unit, row.epoch + 1, token))
        self._answer()
        return taken

    def _is_free(self, row: LeaseRow, dead: Collection[UUID]) -> bool:
        rows = self.rows
        return row.holder not in rows.replicas or (
            row.holder in dead and not rows.fresh(row.holder)
        )

    async def rekey(self, row: LeaseRow) -> Lease | None:
        await self._alone()
        found = self.rows.leases[row.unit]
        if row.token is None or (found.token, found.holder) != (row.token, self.me):
            return None
        token = uuid4()
        self.rows.change(row.unit, token=token, epoch=found.epoch + 1)
        return Lease(row.unit, found.epoch + 1, token)

    async def give(self, lease: Lease) -> None:
        self._reach()
        if self.rows.leases[lease.unit].token == lease.token:
            self.rows.change(lease.unit, token=None, holder=None)
        self._answer()

    async def want(self, moves: Mapping[str, UUID]) -> None:
        self._reach()
        for unit, to in moves.items():
            self.rows.change(unit, wanted_by=to)

    async def serve(self, serves: Mapping[str, Served]) -> None:
        self._reach()
        mine = self.rows.replicas[self.me]
        self.rows.replicas[self.me] = replace(mine, serves=serves)
        self._ensure(serves)

    async def tidy(self) -> None:
        self._reach()

    async def old_rows(self) -> int | None:
        self._reach()
        return self.rows.old_rows

    async def leave(self) -> None:
        self._reach()
        for unit in self.rows.held_by(self.me):
            self.rows.change(unit, token=None, holder=None)
        self.rows.remove(self.me)


class FakeInstance:
    """Runs nothing, and notes what it was asked for."""

    def __init__(self) -> None:
        self.running: dict[str, Lease] = {}
        self.lost: list[tuple[str, Loss]] = []
        self.ids: list[UUID] = []
        self.known_writes = 0
        self.woken = 0
        self.registered = 0
        """How often it was asked to."""
        self.unregistered: RelayError | None = None
        """What it raises then."""
        self.seen: Situation | None = None
        self.offered: Sequence[Waiting] = ()
        self.failing: RelayError | None = None
        """What it raises when it shall gain something."""
        self.unruly: RelayError | None = None
        """What it raises when it shall lose something in good order."""
        self.slow: asyncio.Event | None = None
        """What it waits for before it gains, or loses in good order."""

    def joined(self, replica: UUID) -> None:
        self.ids.append(replica)
        self.known_writes = 0

    async def register(self) -> None:
        self.registered += 1
        if self.unregistered is not None:
            raise self.unregistered

    def writes(self) -> int:
        return self.known_writes

    def info(self) -> Mapping[str, Any]:
        return {}

    def saw(self, situation: Situation) -> None:
        self.seen = situation

    def wake(self) -> None:
        self.woken += 1

    def offer(self, requests: Sequence[Waiting]) -> None:
        self.offered = requests

    async def gain(self, lease: Lease) -> None:
        assert lease.unit not in self.running, "it runs already"
        if self.failing is not None:
            raise self.failing
        if self.slow is not None:
            await self.slow.wait()
        self.running[lease.unit] = lease

    async def lose(self, lease: Lease, why: Loss) -> None:
        if why in (Loss.MOVED, Loss.DRAINED):
            if self.unruly is not None:
                raise self.unruly
            if self.slow is not None:
                await self.slow.wait()
        self.running.pop(lease.unit, None)
        self.lost.append((lease.unit, why))
