"""The replicas on a shared store, for the report: who is alive, and who holds what. Pure."""

from collections.abc import Mapping

from auditrelay.status.model import ReplicaStatus
from auditrelay.store.replicas import Situation
from auditrelay.window import iso


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
