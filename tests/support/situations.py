"""What a pulse sees: replicas, and who holds what."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from auditrelay.store.replicas import LeaseRow, Replica, Situation

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def identity(name: str) -> UUID:
    return uuid5(UUID(int=0), name)


def replica(name: str, **changes: Any) -> Replica:
    usual: dict[str, Any] = {
        "id": identity(name),
        "name": name,
        "version": "1.0",
        "started": NOW,
        "beats": 3,
        "draining": False,
        "command": False,
        "serves": {},
        "expires_in": 8.0,
    }
    return Replica(**{**usual, **changes})


def held(unit: str, by: str | None, since: datetime | None = NOW) -> LeaseRow:
    holder = None if by is None else identity(by)
    return LeaseRow(unit, 1, holder, holder, since)


def situation(replicas: list[Replica], *leases: LeaseRow) -> Situation:
    return Situation(
        now=NOW,
        replicas=tuple(replicas),
        leases=leases,
        requests=(),
        end=0,
        heads=0,
        writes=0,
        key="",
    )
