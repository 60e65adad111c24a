"""
What the replicas on one database see of each other. Values only.

A *replica* is one process that serves sources and sinks of a database that it shares with others.
It is alive by one row, which it renews with every *beat*. All times here are by the clock of the
database; what a replica concludes from its own clock alone is in ``service.membership``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from auditrelay.errors import RelayError
from auditrelay.store.parts import in_force

LIFE: Final = 10.0
"""Seconds that a beat keeps a replica alive, by the clock of the database."""


class Unreachable(RelayError):
    """The database did not answer this time; what was asked of it may have happened."""


@dataclass(frozen=True, slots=True)
class Served:
    """
    How a replica serves a unit: the *digest* of its settings, without secrets.

    Of a sink also the *sources* that it receives there.
    """

    digest: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """
    What a replica says of itself when it joins.

    The *name* is for people; two replicas may have the same. The *seat* is the lock file that it
    has locked (boot id, device and inode): an earlier replica on the same seat is dead for certain.
    A replica that runs one *command* takes nothing that it did not ask for. *key* is the id of its
    key of the evidence, "" if it has none.
    """

    name: str
    version: str
    serves: Mapping[str, Served]
    seat: str | None = None
    command: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """A row of the table ``replica``; *expires_in* is in seconds, negative once it has expired."""

    id: UUID
    name: str
    version: str
    started: datetime
    beats: int
    draining: bool
    command: bool
    serves: Mapping[str, Served]
    expires_in: float
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """Whether it is alive by the clock of the database."""
        return self.expires_in > 0

    @property
    def may_hold(self) -> bool:
        """Whether the plan may give something to it, or leave it there."""
        return self.fresh and not self.draining and not self.command


def parts_in_force(replicas: Iterable[Replica]) -> Mapping[str, int]:
    """Return by sink into how many parts it is divided, by what those serve that may hold any."""
    return in_force(replica.serves for replica in replicas if replica.may_hold)


@dataclass(frozen=True, slots=True)
class Server:
    """Which server a database is on; its standbys have the same *system*, and later *timeline*s."""

    version: str
    system: str
    timeline: int


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """
    A row of the table ``lease``: who holds *unit*, and since when; or since when it is free.

    *wanted_by* is the replica that the keeper wants to have it.
    """

    unit: str
    epoch: int = 0
    token: UUID | None = None
    holder: UUID | None = None
    since: datetime | None = None
    wanted_by: UUID | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request *id* to the holder of *unit*; its command still listens."""

    id: int
    unit: str
    asked_by: str
    taken_by: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """
    What one pulse has seen, at one moment by the clock of the database (*now*).

    *end* is the end of the spool and *heads* the size of the newest head of the evidence: there is
    something to deliver once either has grown. *writes* is how many transactions of this replica
    have been committed, None if the database does not know it. *key* is the id of the key of the
    evidence that is in force, "" if there is none.
    """

    now: datetime
    replicas: tuple[Replica, ...]
    leases: tuple[LeaseRow, ...]
    requests: tuple[Waiting, ...]
    end: int
    heads: int
    writes: int | None
    key: str


@dataclass(frozen=True, slots=True)
class Taken:
    """
    A request that a replica has taken; *begun* if another one, or an earlier life, had begun it.

    Its answers go on with the number *after*.
    """

    request: str
    begun: bool
    after: int


@dataclass(frozen=True, slots=True)
class Answers:
    """The *lines* that follow; *seen* is the last's number, *alive* if a live replica works on."""

    lines: Sequence[str]
    seen: int
    alive: bool
