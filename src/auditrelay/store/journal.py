"""A record of the journal, its hash over the one before it, and where a chain is broken; pure."""

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
    One record: times are microseconds since 1970, *end* is not part of the span.

    *what* is ``covered``, ``gap``, ``filled`` (a gap that was read after all), ``late`` (events
    that were found in the ledger's entry that starts at *start* after it was covered) or
    ``vanished`` (events that the source does not show any more).
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
    """Return the hash that binds the record *each* of the source *name* to the one *before*."""
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
    """Return what is wrong with the chain of the source *name*, or None if nothing is."""
    before = FIRST_HASH
    for number, each in enumerate(journal, 1):
        if each.seq != number:
            return f"record {number} of the journal is missing"
        before_it, before = before, hash_of(name, before, each)
        if before != each.hash:
            at = "or the one before it was" if before_it != FIRST_HASH else "was"
            return f"record {number} of the journal {at} edited or put elsewhere"
    if journal and before != head:
        return (
            f"the journal does not end with its last record: some after {len(journal)} is missing"
        )
    if not journal and head is not None:
        return "the whole journal is missing"
    return None


def xor(one: bytes, other: bytes) -> bytes:
    """Return the exclusive-or of two digests."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))
