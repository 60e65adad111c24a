"""The replicas on a shared store, for the report: who is alive, and who holds what. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from auditrelay.status.model import ReplicaStatus
from auditrelay.store.leases import KEEPER
from auditrelay.store.parts import is_superseded, name_of, peer_of
from auditrelay.store.replicas import Replica, Situation, parts_in_force
from auditrelay.window import iso

if TYPE_CHECKING:
    from uuid import UUID

UNKNOWN = Situation(
    now=datetime.min.replace(tzinfo=UTC),
    replicas=(),
    leases=(),
    requests=(),
    end=0,
    heads=0,
    writes=None,
    key="",
)
"""What is seen before the first pulse."""


def replicas_of(situation: Situation) -> tuple[ReplicaStatus, ...]:
    """Return the replicas in *situation*, the oldest first; those that run a command are none."""
    held: dict[object, list[str]] = {}
    for lease in situation.leases:
        if lease.holder is not None:
            held.setdefault(lease.holder, []).append(lease.unit)
    return tuple(
        ReplicaStatus(
            name=each.name,
            version=each.version,
            since=iso(each.started),
            alive=each.fresh,
            units=tuple(sorted(held.get(each.id, ()))),
            stuck=tuple(map(str, each.info.get("stuck", ()))),
            unable={str(unit): str(why) for unit, why in each.info.get("unable", {}).items()},
            clock_offset_seconds=float(each.info.get("offset", 0.0)),
            round_trip_seconds=float(each.info.get("round_trip", 0.0)),
            old_rows=int(each.info.get("old_rows", 0)),
        )
        for each in sorted(situation.replicas, key=lambda each: each.started)
        if not each.command
    )


@dataclass(frozen=True, slots=True)
class Holders:
    """Which live replicas hold a source or sink, and whether *all* of it is held."""

    names: tuple[str, ...]
    all: bool

    @property
    def listed(self) -> str | None:
        """The names in one text; None if there are none."""
        return ", ".join(self.names) or None


def holders_of(situation: Situation, numbers: Mapping[str, int]) -> Mapping[str, Holders]:
    """
    Return by source and sink (``sink NAME``) who holds it.

    A sink is in as many parts as *numbers* say, or in one.
    """
    names = {each.id: each.name for each in situation.replicas if each.fresh}
    holders: defaultdict[str, list[str | None]] = defaultdict(list)
    for lease in situation.leases:
        if not is_superseded(lease.unit, {peer_of(lease.unit): 1, **numbers}):
            name = None if lease.holder is None else names.get(lease.holder)
            holders[peer_of(lease.unit)].append(name)
    return {
        peer: Holders(tuple(sorted({each for each in held if each is not None})), None not in held)
        for peer, held in holders.items()
    }


def parts_of(situation: Situation, configured: Mapping[str, int]) -> Mapping[str, int]:
    """Return by sink into how many parts it is divided: as *configured*, if none serves it."""
    return {**configured, **parts_in_force(situation.replicas)}


def unheld_since(situation: Situation, numbers: Mapping[str, int]) -> dict[str, datetime | None]:
    """
    Return the units that no live replica holds, and since when; of sinks in so many parts.

    What a dead one held is held by none since its last beat expired; None: that is not known any
    more, as its row has been tidied away.
    """
    replicas = {each.id: each for each in situation.replicas}
    since: dict[str, datetime | None] = {}
    for lease in situation.leases:
        if is_superseded(lease.unit, {peer_of(lease.unit): 1, **numbers}):
            continue
        holder = None if lease.holder is None else replicas.get(lease.holder)
        if lease.holder is None:
            since[lease.unit] = lease.since
        elif holder is None:
            since[lease.unit] = None
        elif not holder.fresh:
            since[lease.unit] = situation.now + timedelta(seconds=holder.expires_in)
    return since


def throughput_of(situation: Situation) -> dict[str, tuple[int, ...]]:
    """Return by sink the events of each of the last minutes, as its live holders say together."""
    throughput: dict[str, tuple[int, ...]] = {}
    for unit, holder in _live_holders(situation).items():
        if (counts := holder.info.get("throughput", {}).get(unit)) is not None:
            # They end with the minute that is now, and may not begin with the same one.
            both = zip_longest(
                reversed(throughput.get(name_of(unit), ())), map(int, reversed(counts)), fillvalue=0
            )
            throughput[name_of(unit)] = tuple(map(sum, both))[::-1]
    return throughput


def failing_of(situation: Situation) -> tuple[str, datetime] | None:
    """Return why the evidence could not be sealed, and since when, as the live keeper says."""
    keeper = _live_holders(situation).get(KEEPER)
    failing: Any = None if keeper is None else keeper.info.get("failing")
    return None if failing is None else (str(failing[0]), datetime.fromisoformat(failing[1]))


def _live_holders(situation: Situation) -> dict[str, Replica]:
    alive: dict[UUID | None, Replica] = {each.id: each for each in situation.replicas if each.fresh}
    return {lease.unit: alive[lease.holder] for lease in situation.leases if lease.holder in alive}
