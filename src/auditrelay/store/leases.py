"""
Leases: the right of one instance to write for a source or a sink.

A reader or deliverer carries the lease that it was given, in the store that ``under`` returns; the
lease is never looked up by the name of the source. A source has several readers: polls, resweeps,
the slices of a backfill. One of them may outlive the lease; if it found the next one by name it
would go on, and prove a window whose first pages were read under another lease and are lost.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

KEEPER: Final = "keeper"
"""The unit of what one instance does for all: seals, alerts, what is pruned."""


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The lease of a *unit*, which is ``source NAME``, ``sink NAME`` or the keeper.

    *epoch* counts the leases of the unit, for people and logs. Only the *token*, which is random,
    fences: after a failover that lost commits, the same epoch may be given out twice.
    """

    unit: str
    epoch: int
    token: UUID


def sole(unit: str) -> Lease:
    """Return the lease of *unit* of the only instance on a state directory, whose lock it has."""
    return Lease(unit, 0, UUID(int=0))
