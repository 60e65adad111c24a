"""
Additions to the spool: new pages of a source, resent events, replayed dead letters.

Works on a connection, within the caller's transaction. Python's sqlite3 releases the interpreter
lock for every row that it steps through, and a busy event loop may keep it for milliseconds each
time. So each statement that handles a page of events returns one row.
"""

import sqlite3
from collections.abc import Sequence
from itertools import groupby, islice

import msgspec

from auditrelay.events.page import Page
from auditrelay.store import Added, Changed, DeadLetter, Notice, Proof, StoredDeadLetter
from auditrelay.store.journal import Record
from auditrelay.store.keys import KEY, keys_of, known_key
from auditrelay.store.ledger import Changes, NewEvents
from auditrelay.store.sqlite import backfills, contents, dead_letters, journal, known, ledger
from auditrelay.store.sqlite.sources import file_read, source_id
from auditrelay.store.sqlite.spool import Spool
from auditrelay.store.sqlite.uids import Uids

_NOT_SPOOLED = -1
"""The position of a known event that was never spooled."""

_MAX_EVENTS = 1000
"""How many single events become one page at most: a page is read as a whole."""


def add(
    db: sqlite3.Connection,
    spool: Spool,
    uids: Uids,
    owner: int,
    events: Page,
    *,
    keys: Sequence[bytes],
    are_new: bool,
    proof: Proof,
    notice: Notice | None,
    bad: Sequence[DeadLetter],
    now: int,
    via: str,
) -> Added:
    """
    Deduplicate *events* by *keys*, spool the new ones, enter the *proof*; see Intake.add.

    If they *are_new*, all of them, that was looked up.
    """
    # First everything is read, then what it means is decided, and last everything is written.
    new = range(len(keys)) if are_new else known.find_new(db, uids, owner, keys)
    new_keys = [keys[index] for index in new]
    bad_keys = [known_key(letter.event) for letter in bad]
    on_page = {key[8:] for key in new_keys}
    new_bad = [
        index
        for index in known.find_new(db, uids, owner, bad_keys)
        if bad_keys[index][8:] not in on_page
    ]
    found = NewEvents(
        new_keys,
        [events.fetched[index] - events.at[index] for index in new],
        [bad_keys[index] for index in new_bad],
    )
    changes = ledger.changes(db, owner, proof, found, now)
    records = journal.extended(db, owner, changes.journal, now=now, via=via)
    notices = [
        notice(each, was_filled)
        for group, was_filled in ((changes.declared, False), (changes.filled, True))
        for each in group
        if each.new and notice is not None
    ]

    if new:
        page = events.take(new)
        first = spool.append(db, owner, page, now)
        known.remember(db, uids, owner, new_keys, digests=page.raw_sha256, first=first)
    for index in new_bad:
        digests = [bad[index].event.raw_sha256]
        known.remember(db, uids, owner, [bad_keys[index]], digests=digests, first=_NOT_SPOOLED)
        dead_letters.insert(db, None, bad[index])
    _write(db, owner, proof, changes, records, new=len(new), now=now, via=via)
    if notices:
        spool.append(db, owner, Page.of(notices), now)
    return Added(
        tuple(new),
        len(events) - len(new),
        tuple(new[index] for index in changes.late),
        tuple(changes.declared),
        tuple(changes.filled),
    )


def report_changed(
    db: sqlite3.Connection,
    spool: Spool,
    uids: Uids,
    owner: int,
    changes: Sequence[Changed],
    *,
    now: int,
) -> list[Changed]:
    """Enter the contents of *changes* that are not known, and spool their events; return these."""
    keys = keys_of([each.uid for each in changes], [each.at for each in changes])
    found = known.find(db, uids, owner, keys)
    reported = []
    for key, each in zip(keys, changes, strict=True):
        row = found.get(key[8:])
        [content] = contents.contents(db, owner, [row and row[:KEY]])
        if row is None or content is None or not content.is_other(each.digest):
            continue
        contents.write(db, owner, row[:KEY], each.digest, accept=each.event is None)
        if each.event is not None:
            reported.append(each)
    for first in range(0, len(reported), _MAX_EVENTS):
        part = reported[first : first + _MAX_EVENTS]
        spool.append(db, owner, Page.of([each.event for each in part if each.event]), now)
    return reported


def resend(
    db: sqlite3.Connection,
    spool: Spool,
    owner: int,
    *,
    sinks: Sequence[str],
    pages: Sequence[Page],
    proof: Proof,
    now: int,
) -> None:
    """Spool *pages*, known or not, once for each of *sinks* alone, and enter the *proof*."""
    for sink in sinks:
        for page in pages:
            if len(page):
                spool.append(db, owner, page, now, only=sink)
    enter(db, owner, proof, new=sum(map(len, pages)), now=now, via="backfill")


def enter(
    db: sqlite3.Connection, owner: int, proof: Proof, *, new: int = 0, now: int, via: str
) -> None:
    """Enter a *proof* whose events are known; *new* of them count as new in its backfill."""
    changes = ledger.changes(db, owner, proof, NewEvents(), now)
    records = journal.extended(db, owner, changes.journal, now=now, via=via)
    _write(db, owner, proof, changes, records, new=new, now=now, via=via)


def replay(
    db: sqlite3.Connection, spool: Spool, ids: Sequence[int], now: int
) -> list[StoredDeadLetter]:
    """Spool the dead letters *ids* that are not being replayed already; return which they are."""
    found = dead_letters.not_replaying(db, ids)
    for (source, sink), group in groupby(found, lambda each: (each.source, each.sink)):
        owner = source_id(db, source)
        while letters := list(islice(group, _MAX_EVENTS)):
            events = [msgspec.structs.replace(each.letter.event, replayed=True) for each in letters]
            first = spool.append(db, owner, Page.of(events), now, only=sink)
            for position, each in enumerate(letters, first):
                dead_letters.start_replay(db, each.id, None if sink is None else position)
    return found


def _write(
    db: sqlite3.Connection,
    owner: int,
    proof: Proof,
    changes: Changes,
    records: Sequence[Record],
    *,
    new: int,
    now: int,
    via: str,
) -> None:
    """Write the *changes*, their *records*, and what else *proof* says."""
    ledger.write(db, owner, changes, via)
    journal.write(db, owner, records)
    if proof.file is not None:
        file_read(db, owner, proof.file, now)
    if proof.backfill is not None and proof.part is not None:
        backfills.part_done(db, proof.backfill, proof.part, proof.read, proof.new + new)
