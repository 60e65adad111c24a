"""The replicas on a shared store, for the report: who is alive, and who holds what. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from auditrelay.status.model import ReplicaStatus
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import Replica, Situation
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
        )
        for each in sorted(situation.replicas, key=lambda each: each.started)
        if not each.command
    )


def holders_of(situation: Situation) -> Mapping[str, str | None]:
    """Return by unit the name of the live replica that holds it; None: no live one does."""
    names = {each.id: each.name for each in situation.replicas if each.fresh}
    return {
        lease.unit: None if lease.holder is None else names.get(lease.holder)
        for lease in situation.leases
    }


def unheld_since(situation: Situation) -> dict[str, datetime | None]:
    """
    Return the units that no live replica holds, and since when.

    What a dead one held is held by none since its last beat expired; None: that is not known any
    more, as its row has been tidied away.
    """
    replicas = {each.id: each for each in situation.replicas}
    since: dict[str, datetime | None] = {}
    for lease in situation.leases:
        holder = None if lease.holder is None else replicas.get(lease.holder)
        if lease.holder is None:
            since[lease.unit] = lease.since
        elif holder is None:
            since[lease.unit] = None
        elif not holder.fresh:
            since[lease.unit] = situation.now + timedelta(seconds=holder.expires_in)
    return since


def throughput_of(situation: Situation) -> dict[str, tuple[int, ...]]:
    """Return by sink the events of each of the last minutes, as its live holder says."""
    return {
        unit.partition(" ")[2]: tuple(map(int, counts))
        for unit, holder in _live_holders(situation).items()
        if (counts := holder.info.get("throughput", {}).get(unit)) is not None
    }


def failing_of(situation: Situation) -> tuple[str, datetime] | None:
    """Return why the evidence could not be sealed, and since when, as the live keeper says."""
    keeper = _live_holders(situation).get(KEEPER)
    failing: Any = None if keeper is None else keeper.info.get("failing")
    return None if failing is None else (str(failing[0]), datetime.fromisoformat(failing[1]))


def _live_holders(situation: Situation) -> dict[str, Replica]:
    alive: dict[UUID | None, Replica] = {each.id: each for each in situation.replicas if each.fresh}
    return {lease.unit: alive[lease.holder] for lease in situation.leases if lease.holder in alive}
