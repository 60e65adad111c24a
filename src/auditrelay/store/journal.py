"""A record of the journal, its hash over the record before it, and breaks in the chain; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

DAY = 86_400_000_000
"""Microseconds."""

NO_DIGEST = bytes(20)

FIRST_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Record:
    """
    One record: times are microseconds since 1970, *end* is exclusive.

    *what* is ``covered``, ``gap``, ``filled`` (a gap that was read after all), ``late`` (events
    found in the ledger entry starting at *start* after it was covered) or ``vanished`` (events
    deleted at the source). *via* is the kind of read: ``poll``, ``resweep 1h``, ``backfill``,
    ``repair``, ``export FILE``. Both are part of the hash, so records keep the spelling of their
    time: ``vanished`` stays, although the metric and the glossary say deleted at source.
    """

    seq: int
    recorded: int
    what: str
    start: int
    end: int
    reason: str | None
    via: str
    events: int
    digest: bytes
    hash: bytes


def hash_of(name: str, before: bytes, each: Record) -> bytes:
    """Return the hash of the record *each* of the source *name* and of the hash *before* it."""
    text = orjson.dumps(
        [
            name,
            each.seq,
            each.recorded,
            each.what,
            each.start,
            each.end,
            each.reason,
            each.via,
            each.events,
            each.digest.hex(),
        ]
    )
    return sha256(before + text).digest()


def find_break(name: str, head: bytes | None, journal: Sequence[Record]) -> str | None:
    """Return where the chain of the source *name* is broken, or None if it is intact."""
    before = FIRST_HASH
    for number, each in enumerate(journal, 1):
        if each.seq != number:
            return f"record {number} of the journal is missing"
        before_it, before = before, hash_of(name, before, each)
        if before != each.hash:
            at = "or the one before it was" if before_it != FIRST_HASH else "was"
            return f"record {number} of the journal {at} edited or moved"
    if journal and before != head:
        return (
            f"the journal was cut off: at least one record after record {len(journal)} is missing"
        )
    if not journal and head is not None:
        return "the whole journal is missing"
    return None


def xor(one: bytes, other: bytes) -> bytes:
    """Return the exclusive-or of two digests."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))
