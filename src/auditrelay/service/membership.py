"""
Who holds which unit, and who is dead: what replicas conclude from what they see. Pure.

Every replica makes the same plan from the same rows, without any talk between them. It takes what
is free and planned for itself; only the keeper moves what another holds.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Final
from uuid import UUID

from auditrelay.store.leases import Lease
from auditrelay.store.parts import is_superseded, part_of, peer_of
from auditrelay.store.replicas import LIFE, Card, LeaseRow, Replica, parts_in_force

PULSE: Final = 1.0
"""Seconds from one look at the other replicas to the next."""

BEAT: Final = 3.0
"""Seconds from one sign of life to the next."""

SELF: Final = 7.0
"""
Seconds for which a beat lets this replica begin requests to sinks, by its own clock.

What is left of *LIFE* is for the network, and for clocks that do not run equally fast.
"""

FREE: Final = 5.0
"""Seconds after which a free unit is taken by any replica that serves it, planned or not."""

_Servers = tuple[UUID, ...]

# -- the plan --------------------------------------------------------------------------------------


def plan(
    replicas: Iterable[Replica], units: Iterable[str], leases: Iterable[LeaseRow]
) -> dict[str, UUID]:
    """
    Return which replica is to hold each of *units*; those that none serves are left out.

    Only replicas that are fresh, do not drain and run no command get something. Sources, sinks and
    the parts of each sink are balanced each for themselves: no unit could be moved, directly or by
    a chain of moves, from a replica to one with two fewer. So if all replicas serve the same, they
    differ by one at most. Of a sink the units of one number of parts are planned, that in force.
    A unit stays with its holder (or with the replica that it is being moved to) unless balance
    needs it elsewhere. Ties are broken by a hash of unit and replica.
    """
    able = {replica.id: replica for replica in replicas if replica.may_hold}
    numbers = parts_in_force(able.values())
    at: dict[str, UUID | None] = {
        lease.unit: lease.wanted_by if lease.wanted_by in able else lease.holder for lease in leases
    }
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for unit in units:
        if not is_superseded(unit, numbers):
            kinds[unit.partition(" ")[0] if part_of(unit) is None else peer_of(unit)].append(unit)
    planned: dict[str, UUID] = {}
    for members in kinds.values():
        balance = _Balance(able.values())
        for unit in sorted(members):
            balance.add(unit, at.get(unit))
        planned |= balance.result()
    return planned


def served(card: Card, replicas: Iterable[Replica]) -> set[str]:
    """
    Return what who has *card* serves, without units of sinks that are divided otherwise by now.

    What runs one command goes on with what it has.
    """
    numbers = {} if card.command else parts_in_force(replicas)
    return {unit for unit in card.serves if not is_superseded(unit, numbers)}


class _Balance:
    """The distribution of the units of one kind over the *replicas* that serve them."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self._replicas = sorted(replicas, key=lambda replica: replica.id)
        self._held: dict[UUID, defaultdict[_Servers, set[str]]] = {
            replica.id: defaultdict(set) for replica in self._replicas
        }
        """The units of each replica, by who serves them: there are few such sets of replicas."""
        self._free: list[tuple[str, _Servers]] = []

    def add(self, unit: str, at: UUID | None) -> None:
        """Add *unit*, which is *at* a replica and stays there if that can have it."""
        servers = tuple(replica.id for replica in self._replicas if unit in replica.serves)
        if at is not None and at in servers:
            self._held[at][servers].add(unit)
        elif servers:
            self._free.append((unit, servers))

    def result(self) -> dict[str, UUID]:
        """Distribute what is free, even out the rest, and return the holder of each unit."""
        for unit, servers in sorted(self._free, key=lambda free: len(free[1])):
            least = min(servers, key=lambda to: (self._load(to), -_preference(unit, to)))
            self._held[least][servers].add(unit)
        while chain := self._uneven():
            self._pass_on(chain)
        return {
            unit: replica
            for replica, held in self._held.items()
            for units in held.values()
            for unit in units
        }

    def _load(self, replica: UUID) -> int:
        return sum(map(len, self._held[replica].values()))

    def _uneven(self) -> list[UUID] | None:
        """Return a shortest chain of replicas from one to another with two fewer units, if any."""
        loads = {replica: self._load(replica) for replica in self._held}
        for start in sorted(loads, key=lambda replica: (-loads[replica], replica)):
            came: dict[UUID, UUID | None] = {start: None}
            least = start
            for at in (queue := [start]):
                for to in self._neighbours(at):
                    if to not in came:
                        came[to] = at
                        queue.append(to)
                        if loads[to] < loads[least]:
                            least = to
            if loads[least] <= loads[start] - 2:
                chain: list[UUID] = []
                back: UUID | None = least
                while back is not None:
                    chain.append(back)
                    back = came[back]
                return chain[::-1]
        return None

    def _neighbours(self, replica: UUID) -> list[UUID]:
        """Return the replicas that one of the units of *replica* could be moved to."""
        able = {to for servers, units in self._held[replica].items() if units for to in servers}
        return [other for other in self._held if other in able]

    def _pass_on(self, chain: list[UUID]) -> None:
        """Move one unit along each link of *chain*: the one that prefers the receiver most."""
        for giver, to in pairwise(chain):
            unit, servers = max(
                (
                    (unit, servers)
                    for servers, units in self._held[giver].items()
                    if to in servers
                    for unit in units
                ),
                key=lambda each: _preference(each[0], to),
            )
            self._held[giver][servers].remove(unit)
            self._held[to][servers].add(unit)


@lru_cache(maxsize=10_000)
def _preference(unit: str, replica: UUID) -> int:
    """Return how much *unit* belongs to *replica*: a hash, so that new ones disturb few."""
    return int.from_bytes(blake2b(unit.encode() + replica.bytes, digest_size=8).digest())


# -- who is dead -----------------------------------------------------------------------------------


class Witness:
    """
    Sees whose beats stand still, by the clock of this machine alone.

    The clock of the database says as well when a replica has expired, but a failover may bring
    another clock, and after an outage of the database every row has expired. So a replica is dead
    only if both say so: over good pulses of at least *LIFE* without a gap its beats did not change.
    """

    def __init__(self) -> None:
        self._still: dict[UUID, tuple[int, float]] = {}
        """The beats of each replica, and since when they are that many."""
        self._sent: float | None = None

    def saw(self, replicas: Iterable[Replica], sent: float, answered: float) -> None:
        """
        Take note of *replicas*, which the database answered to a pulse between these two times.

        Of the time since the pulse before at most *BEAT* counts: in the rest this process may have
        been frozen, and the others with it.
        """
        unseen = 0.0 if self._sent is None else max(0.0, sent - self._sent - BEAT)
        still = self._still
        self._sent, self._still = sent, {}
        for replica in replicas:
            beats, since = still.get(replica.id, (None, 0.0))
            moved = beats != replica.beats
            self._still[replica.id] = replica.beats, answered if moved else since + unseen

    def interrupted(self) -> None:
        """Begin again: a pulse was not answered, and the others may not have reached it either."""
        self._still = {}
        self._sent = None

    def dead(self) -> set[UUID]:
        """Return the replicas whose beats have stood still for *LIFE*."""
        if self._sent is None:
            return set()
        return {each for each, (_, since) in self._still.items() if self._sent - since >= LIFE}


class Guard:
    """Whether this replica may begin what others may do as well once it is dead: sending."""

    def __init__(self) -> None:
        self._until = float("-inf")

    def renew(self, sent: float, expires_in: float) -> None:
        """
        Take note that by the clock of the database this replica lives for *expires_in* seconds.

        They count from when the pulse was *sent*, not from its answer: that is never too long. A
        beat that had to wait for a lock in the database expires sooner than *LIFE*: its time was
        taken before it waited.
        """
        self._until = max(self._until, sent + min(expires_in, LIFE) - (LIFE - SELF))

    def end(self) -> None:
        """Allow nothing more until the next :meth:`renew`."""
        self._until = float("-inf")

    def good(self, now: float) -> bool:
        """Return whether a request may begin *now*."""
        return now < self._until


# -- what was lost ---------------------------------------------------------------------------------


class Loss(Enum):
    """Why a replica does not hold a unit any more."""

    FENCED = "fenced"
    """Another replica has taken it."""
    ROLLED_BACK = "rolled_back"
    """The database has lost transactions of this replica that it had acknowledged."""
    MOVED = "moved"
    """It is given to another replica, or is not served here any more."""
    DRAINED = "drained"
    """This replica stops."""


def lost(known: Iterable[Lease], rows: Iterable[LeaseRow]) -> list[Lease]:
    """Return those of the leases *known* when the pulse was sent that *rows* do not have."""
    tokens = {row.unit: row.token for row in rows}
    return [lease for lease in known if tokens.get(lease.unit) != lease.token]


def rolled_back(known: int, writes: int | None) -> bool:
    """
    Return whether the database has fewer *writes* of this replica than were *known* before.

    Fewer than were known when the pulse was sent, not than are known now: a transaction may have
    been committed while it was under way. None, of which the caller sees that the replica is not
    known at all, is no fewer.
    """
    return writes is not None and writes < known


def unknown_to_us(me: UUID, held: Collection[str], rows: Iterable[LeaseRow]) -> list[LeaseRow]:
    """
    Return the leases that name *me* though nothing of them is *held*.

    The answer to a take was lost, or what gave them away. They are given a new token before
    anything runs under them: a token belongs to one life of what is in memory.
    """
    return [row for row in rows if row.holder == me and row.unit not in held]


# -- what is free, and what moves ------------------------------------------------------------------


class Free:
    """Since when units are free, by the clock of this machine."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def saw(
        self,
        rows: Iterable[LeaseRow],
        replicas: Iterable[Replica],
        dead: Collection[UUID],
        now: float,
    ) -> None:
        """Take note of who holds what; what a *dead* replica holds, or one without row, is free."""
        alive = {replica.id for replica in replicas} - set(dead)
        since, self._since = self._since, {}
        for row in rows:
            if row.holder not in alive:
                self._since[row.unit] = since.get(row.unit, now)

    def units(self) -> set[str]:
        """Return what is free."""
        return set(self._since)

    def unclaimed(self, now: float) -> set[str]:
        """Return what is free for so long that its planned holder does not take it."""
        return {unit for unit, since in self._since.items() if now - since >= FREE}


class Origins:
    """Where units come from: whether a replica held them, and which."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        """By unit the name of the replica that was last seen to hold it."""
        self._rows: dict[str, LeaseRow] = {}

    def saw(self, rows: Iterable[LeaseRow], replicas: Iterable[Replica]) -> None:
        """Take note of who holds what."""
        names = {replica.id: replica.name for replica in replicas}
        self._rows = {row.unit: row for row in rows}
        for unit, row in self._rows.items():
            if row.holder in names:
                self._holders[unit] = names[row.holder]

    def of(self, unit: str, me: UUID | None) -> tuple[str, str | None]:
        """
        Return why *unit* can be taken by *me*, and the name of who held it, if that was seen.

        The reasons are those of ``telemetry.metrics.TAKEOVERS``.
        """
        row, former = self._rows[unit], self._holders.get(unit)
        if row.holder is not None:
            return "dead", former
        return ("moved" if row.wanted_by == me else "free"), former


MOVE_EVERY: Final = 5.0
"""Seconds between two decisions of the keeper to move units."""

SETTLED: Final = 15.0
"""Seconds for which the replicas must have been the same before units are moved."""

_AT_ONCE: Final = 20
"""One unit in so many is moved at a time, and at least one."""


class Moves:
    """What the keeper moves, and when: a little now and then, so that a rollout is no stampede."""

    def __init__(self) -> None:
        self._members: frozenset[object] = frozenset()
        self._since = self._last = float("-inf")

    def due(
        self,
        replicas: Iterable[Replica],
        planned: Mapping[str, UUID],
        rows: Collection[LeaseRow],
        busy: Collection[str],
        now: float,
    ) -> dict[str, UUID]:
        """
        Return the units to move *now* and to whom, so that they come closer to what is *planned*.

        *busy* are units that do something for a command, which would be broken off.
        """
        replicas = list(replicas)
        members = frozenset(
            (replica.id, replica.draining, frozenset(replica.serves))
            for replica in replicas
            if replica.fresh
        )
        if members != self._members:
            self._members, self._since = members, now
        if now - self._since < SETTLED or now - self._last < MOVE_EVERY:
            return {}
        able = {replica.id for replica in replicas if replica.may_hold}
        moving = sum(row.wanted_by in able for row in rows)
        moves = {
            row.unit: planned[row.unit]
            for row in rows
            if row.unit in planned
            and row.holder in able
            and row.wanted_by not in able
            and row.holder != planned[row.unit]
            and row.unit not in busy
        }
        room = max(1, len(rows) // _AT_ONCE) - moving
        self._last = now
        return dict(sorted(moves.items())[: max(room, 0)])
