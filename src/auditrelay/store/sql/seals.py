"""
The seals of a sink, as one text by name: each is needed until the sink has settled its events.

They tell nothing about what was delivered (docs/decisions/0042-sealed-batches.md), so no fact and
no tag is about them. Works on a connection, within the caller's transaction.
"""

from collections.abc import Sequence

import msgspec

from auditrelay.store.seals import Seal, Seals
from auditrelay.store.sql import branches, meta
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.readers import reader_of

_NAME = "seals "
"""In front of the name of a sink."""


def of(db: Connection, sink: str) -> Seals:
    """Return the seals of *sink* of which it has yet to settle a place."""
    text = meta.find_text(db, _NAME + sink)
    progress = reader_of(db, sink).progress
    waiting = tuple(
        seal
        for seal in _decode(text)
        if any(progress.open_ranges(start, end) for start, end in seal.places)
    )
    return Seals(branches.log_of(db), waiting)


def add(db: Connection, sink: str, new: Sequence[Seal]) -> Seals:
    """Write the seals in *new*, in place of those that share places with them."""
    log, old = of(db, sink)
    kept = [seal for seal in old if not any(map(seal.shares_places, new))]
    text = msgspec.json.encode([*kept, *new]).decode()
    meta.put_text(db, _NAME + sink, text)
    return Seals(log, (*kept, *new))


def forget(db: Connection, sink: str) -> None:
    """Delete the seals of *sink*."""
    meta.put_text(db, _NAME + sink, None)


def _decode(text: str | None) -> list[Seal]:
    try:
        return [] if text is None else msgspec.json.decode(text, type=list[Seal])
    except ValueError:
        return []  # it was changed: its events get other seals
