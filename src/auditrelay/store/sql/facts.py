"""
Open facts in the database: written with what they tell of, and taken by the seal.

A fact commits in the very transaction that does what it says, so there is never a state that its
facts do not explain. Works on a connection, within the caller's transaction.
"""

from collections.abc import Sequence
from typing import Final

from auditrelay.evidence.facts import Body, text
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.tags import add_open, tag

INSTANCE: Final = "instance"
"""The unit of what neither a source nor a sink did."""

_SOURCE: Final = "source "
_SINK: Final = "sink "

_MOST: Final = 100
"""How many facts one statement inserts at most."""


def of_source(name: str) -> str:
    """Return the unit of the source *name*."""
    return _SOURCE + name


def of_sink(name: str) -> str:
    """Return the unit of the sink *name*."""
    return _SINK + name


def source_of(unit: str) -> str | None:
    """Return the name of the source that *unit* is of, if it is of one."""
    return unit[len(_SOURCE) :] if unit.startswith(_SOURCE) else None


def sink_of(unit: str) -> str | None:
    """Return the name of the sink that *unit* is of, if it is of one."""
    return unit[len(_SINK) :] if unit.startswith(_SINK) else None


def insert(db: Connection, unit: str, bodies: Sequence[Body], now: int) -> None:
    """Insert the facts *bodies* of *unit*, in their order."""
    # One statement, whatever there is to tell: see intake.
    for first in range(0, len(bodies), _MOST):
        lines = [text(body) for body in bodies[first : first + _MOST]]
        tags = [tag(db, "fact", unit, now, line) for line in lines]
        db.execute(
            "insert into fact (unit, at, text, tag) values " + ",".join(["(?,?,?,?)"] * len(lines)),  # noqa: S608  # constants
            [
                value
                for line, own in zip(lines, tags, strict=True)
                for value in (unit, now, line, own)
            ],
        )
        add_open(db, tags)
