"""
Additions to the spool: new pages of a source, resent events, replayed dead letters.

Works on a connection, within the caller's transaction. Python's sqlite3 releases the interpreter
lock for every row that it steps through, and a busy event loop may keep it for milliseconds each
time. So each statement that handles a page of events returns one row.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from auditrelay.events import AuditEvent
from auditrelay.store import Added, DeadLetter, Declared, Notice, Proof, StoredDeadLetter
from auditrelay.store.keys import known_key, time_of
from auditrelay.store.sqlite import backfills, dead_letters, known, ledger
from auditrelay.store.sqlite.journal import JournalWriter
from auditrelay.store.sqlite.sources import file_read, source_id
from auditrelay.store.sqlite.spool import Spool

_NOT_SPOOLED = -1
"""The position of a known event that was never spooled."""


def add(
    journal: JournalWriter,
    spool: Spool,
    events: Sequence[AuditEvent],
    keys: list[bytes],
    *,
    proof: Proof | None,
    notice: Notice | None,
    bad: Sequence[DeadLetter],
) -> Added:
    """Deduplicate *events* by *keys*, spool the new ones, enter the *proof*; see Store.add."""
    db, owner = journal.db, journal.owner
    new = known.find_new(db, owner, keys)
    late: list[int] = []
    if new:
        first = spool.append(db, owner, [events[index] for index in new], journal.now)
        known.remember(db, owner, [keys[index] for index in new], first)
        found = ledger.count_late(
            journal,
            [(time_of(keys[index]), keys[index][8:]) for index in new],
            [events[index].fetched - events[index].at for index in new],
        )
        late = [new[index] for index in found]
    if bad:
        _insert_bad_rows(db, owner, bad)
    added = Added(tuple(new), len(events) - len(new), tuple(late))
    if proof is None:
        return added
    declared, filled = _enter(journal, proof, len(new))
    notices = [
        notice(each, was_filled)
        for group, was_filled in ((declared, False), (filled, True))
        for each in group
        if each.new and notice is not None
    ]
    if notices:
        spool.append(db, owner, notices, journal.now)
    return replace(added, declared=tuple(declared), filled=tuple(filled))


def resend(
    journal: JournalWriter,
    spool: Spool,
    sinks: Sequence[str],
    events: Sequence[AuditEvent],
    proof: Proof,
) -> None:
    """Spool *events*, known or not, once for each of *sinks* alone, and enter the *proof*."""
    for sink in sinks if events else ():
        spool.append(journal.db, journal.owner, list(events), journal.now, only=sink)
    _enter(journal, proof, len(events))


def replay(
    db: sqlite3.Connection, spool: Spool, ids: Sequence[int], now: int
) -> list[StoredDeadLetter]:
    """Spool the dead letters *ids* that are not being replayed already; return which they are."""
    found = dead_letters.not_replaying(db, ids)
    for each in found:
        event = msgspec.structs.replace(each.letter.event, replayed=True)
        owner = source_id(db, each.source)
        position = spool.append(db, owner, [event], now, only=each.sink)
        dead_letters.start_replay(db, each.id, None if each.sink is None else position)
    return found


def _insert_bad_rows(db: sqlite3.Connection, owner: int, bad: Sequence[DeadLetter]) -> None:
    """Insert the rows *bad* that are not known yet as dead letters of no sink."""
    keys = [known_key(letter.event) for letter in bad]
    for index in known.find_new(db, owner, keys):
        known.remember(db, owner, [keys[index]], _NOT_SPOOLED)
        dead_letters.insert(db, None, bad[index])


def _enter(journal: JournalWriter, proof: Proof, new: int) -> tuple[list[Declared], list[Declared]]:
    """Enter *proof* into the ledger; return the gaps that it declared, and those it filled."""
    filled = [each for span in proof.covers for each in ledger.cover(journal, span)]
    declared = [
        each for span, reason in proof.gaps for each in ledger.declare(journal, span, reason)
    ]
    if proof.file is not None:
        file_read(journal.db, journal.owner, proof.file, journal.now)
    if proof.backfill is not None and proof.part is not None:
        backfills.part_done(journal.db, proof.backfill, proof.part, proof.read, proof.new + new)
    return declared, filled
