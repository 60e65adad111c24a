"""
The journal of a source: what was read when and how, each record chained to the one before it. Pure.

The ledger is what is covered now; the journal is its history. Every record has a hash over itself
and the hash of the record before it, and the source has the hash of its last record. So an edited,
removed or moved record breaks the chain, and a ledger that contradicts its journal is found. The
hash has no key: an attacker who can write the database can recompute the whole journal. A head that
was logged before (``ledger_sealed``) does not show that: the records of its day went on growing.

A record grows until its day ends (UTC), so that years of five-minute polls need only a few records
a day.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import orjson

DAY: Final = 86_400_000_000
"""Microseconds."""

NO_DIGEST: Final = bytes(20)

FIRST_HASH: Final = bytes(32)

REACH: Final = 50
"""How many records back one may still grow: all records after it are rehashed each time."""

TAIL: Final = REACH + 2
"""How many of the last records :func:`extend` needs: those that may grow, and the one before."""


@dataclass(frozen=True, slots=True)
class Record:
    """
    One record: times are microseconds since 1970, *end* is exclusive.

    *what* is ``covered``, ``gap``, ``filled`` (a gap that was read after all), ``reopened`` or
    ``retracted`` (a gap that an operator has taken back: it is to be read again, or will be once
    its time has come), ``late`` (events found in the ledger entry starting at *start* after it was
    covered) or ``vanished`` (events deleted at the source). *via* is the kind of read: ``poll``,
    ``resweep 1h``, ``backfill``, ``repair``, ``export FILE``, or ``reopen``. Both are part of the
    hash, so records keep the spelling of their time: ``vanished`` stays, although the metric and
    the glossary say deleted at source.
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


@dataclass(frozen=True, slots=True)
class Change:
    """What a record is to say: see :class:`Record`."""

    what: str
    start: int
    end: int
    reason: str | None = None
    events: int = 0
    digest: bytes = NO_DIGEST


def extend(
    name: str, tail: Sequence[Record], changes: Iterable[Change], *, now: int, via: str
) -> list[Record]:
    """
    Enter *changes* into the journal of the source *name*, *via* one kind of read, at *now*.

    *tail* are its last ``TAIL`` records, or all if there are fewer. Returns the records that are
    new or differ, oldest first; the hash of the last one is the new head.
    """
    records = list(tail)
    first = len(records)
    for change in changes:
        place = _growing(records, change, now, via)
        if place is None:
            place = len(records)
            seq = records[-1].seq + 1 if records else 1
            records.append(
                Record(
                    seq,
                    now,
                    change.what,
                    change.start,
                    change.end,
                    change.reason,
                    via,
                    change.events,
                    change.digest,
                    FIRST_HASH,
                )
            )
        else:
            each = records[place]
            records[place] = replace(
                each,
                recorded=now,
                end=max(each.end, change.end),
                events=each.events + change.events,
                digest=xor(each.digest, change.digest),
            )
        first = min(first, place)
    before = records[first - 1].hash if first else FIRST_HASH
    for place in range(first, len(records)):
        before = hash_of(name, before, records[place])
        records[place] = replace(records[place], hash=before)
    return records[first:]


def _growing(records: Sequence[Record], change: Change, now: int, via: str) -> int | None:
    """Return the index of the record of today that *change* continues, if there is one."""
    # Late and deleted events belong to the ledger entry at *start*; the rest extends an end.
    at_start = change.what in ("late", "vanished")
    for place in range(len(records) - 1, -1, -1):
        each = records[place]
        if each.seq < records[-1].seq - REACH:
            break
        if (
            (each.start if at_start else each.end) == change.start
            and (each.what, each.reason, each.via) == (change.what, change.reason, via)
            and each.start // DAY == change.start // DAY
            and each.recorded // DAY == now // DAY
        ):
            return place
    return None


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


def xor(*digests: bytes) -> bytes:
    """Return the exclusive-or of *digests* and uids, of 20 bytes each."""
    return folded(b"".join(digests))


def folded(joined: bytes) -> bytes:
    """Return the exclusive-or of the digests that are *joined*, of 20 bytes each."""
    # As one large number, of which one half is folded onto the other until one digest is left.
    total, count, bits = int.from_bytes(joined), len(joined) // len(NO_DIGEST), 8 * len(NO_DIGEST)
    while count > 1:
        count = (count + 1) // 2
        total = (total >> bits * count) ^ (total & ((1 << bits * count) - 1))
    return total.to_bytes(len(NO_DIGEST))
