"""What findings ask of a report, and how they put it."""

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

from auditrelay.status.model import AnyPeer, Report
from auditrelay.store.parts import peer_of

P = TypeVar("P", bound=AnyPeer)


def peers(report: Report) -> tuple[AnyPeer, ...]:
    """Return all sources and sinks."""
    return (*report.sources, *report.sinks)


def enabled(rows: Iterable[P]) -> Iterator[P]:
    """Yield those of *rows* that are enabled."""
    return (row for row in rows if row.enabled)


def is_unheld(report: Report, row: AnyPeer) -> bool:
    """Return whether no live replica holds *row*, or a part of it."""
    return any(peer_of(unit) == f"{row.kind} {row.name}" for unit in report.unheld or ())


def at(iso: str) -> datetime:
    """Return the time *iso*."""
    return datetime.fromisoformat(iso)


def age(report: Report, iso: str | None) -> timedelta:
    """Return how long ago *iso* was; the maximum, if it is unknown."""
    return timedelta.max if iso is None else at(report.at) - at(iso)


def command(report: Report, *words: str) -> str:
    """Return a command of ours, for a shell."""
    config = report.config
    return shlex.join(["auditrelay", *(("-c", config) if config else ()), *words])
