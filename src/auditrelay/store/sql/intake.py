"""
Additions to the spool: new pages of a source, resent events, replayed dead letters.

Works on a connection, within the caller's transaction. Python's sqlite3 releases the interpreter
lock for every row that it steps through, and a busy event loop may keep it for milliseconds each
time. So each statement that handles a page of events returns one row.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice

import msgspec

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store import (
    Added,
    Changed,
    DeadLetter,
    Declared,
    LetterOf,
    Notice,
    OfLetter,
    Proof,
    StoredDeadLetter,
)
from auditrelay.store.keys import KEY, keys_of, known_key
from auditrelay.store.ledger import Change, Changes, NewEvents
from auditrelay.store.sql import backfills, contents, dead_letters, known, ledger, meta
from auditrelay.store.sql.accepted import NOTICE, REPLAY, accepted, own
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.facts import insert, of_sink, of_source
from auditrelay.store.sql.sinks import refilled
from auditrelay.store.sql.sources import file_read, source_id
from auditrelay.store.sql.spool import Spool, blob_of
from auditrelay.store.sql.uids import Uids, begin_adding
from auditrelay.window import micros

_NOT_SPOOLED = -1
"""The position of a known event that was never spooled."""

_MAX_EVENTS = 1000
"""How many single events become one page at most: a page is read as a whole."""

_Reports = Mapping[tuple[str, int, int], tuple[str, int]]
"""By kind, start and end of a gap: the uid and the place of the event that reports it."""


def add(
    db: Connection,
    spool: Spool,
    uids: Uids,
    source: str,
    events: Page,
    *,
    owner: int,
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

    *owner* is the id of the *source*. If they *are_new*, all of them, that was looked up.
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
    # What does not depend on each other is asked in a row: one wait for a database elsewhere.
    # What is computed before it has no lock of the database yet.
    page = events.take(new) if new else None
    blob = None if page is None else blob_of(page)
    asked = spool.ask(db, owner) if new else None
    logged = begin_adding(db, owner, new_keys) if new else None
    changes = ledger.changes(db, owner, proof, found, now)
    notices = _notices(changes, notice)

    bodies, end = [], None
    if page is not None:
        placed = spool.append(db, owner, page, now, asked=asked, blob=blob)
        end = placed.first + len(page)
        digests = page.raw_sha256
        known.remember(
            db, uids, owner, new_keys, digests=digests, first=placed.first, logged=logged
        )
        bodies.append(accepted(via, placed, page, new_keys, late=len(changes.late)))
        if proof.by is not None:
            bodies.append(facts.operator(did=via, by=proof.by, name=source))
    for index in new_bad:
        of_letter = [bad[index].event.raw_sha256]
        known.remember(db, uids, owner, [bad_keys[index]], digests=of_letter, first=_NOT_SPOOLED)
        dead_letters.insert(db, None, bad[index])
    bodies += _put_aside([(bad_keys[index], bad[index].reason) for index in new_bad])
    reports: _Reports = {}
    if notices:
        page = Page.of(notices.values())
        placed = spool.append(db, owner, page, now)
        end = placed.first + len(page)
        bodies.append(own(db, NOTICE, owner, placed, page, now=now))
        reports = {
            what: (event.uid, place)
            for place, (what, event) in enumerate(notices.items(), placed.first)
        }
    bodies += _write(db, owner, proof, changes, reports, new=len(new), before=end, now=now, via=via)
    insert(db, of_source(source), bodies, now)
    return Added(
        tuple(new),
        len(events) - len(new),
        tuple(new[index] for index in changes.late),
        tuple(changes.declared),
        tuple(changes.filled),
    )


def _notices(changes: Changes, notice: Notice | None) -> dict[tuple[str, int, int], AuditEvent]:
    """Return the events that report the gaps of *changes*, by kind, start and end."""
    if notice is None:
        return {}
    kinds: tuple[tuple[str, Iterable[Declared]], ...] = (
        ("gap", changes.declared),
        ("filled", changes.filled),
    )
    return {
        (kind, micros(each.interval.start), micros(each.interval.end)): notice(
            each, kind == "filled"
        )
        for kind, group in kinds
        for each in group
        if each.new
    }


def _put_aside(letters: Sequence[tuple[bytes, str]]) -> list[facts.Body]:
    """Return the facts about new records that are no events: key and reason of each."""
    by_reason: dict[str, list[bytes]] = {}
    for key, reason in letters:
        by_reason.setdefault(reason, []).append(key)
    return [
        facts.put_aside(reason=reason, events=len(keys), uids=facts.digest(sorted(keys)))
        for reason, keys in by_reason.items()
    ]


def report_changed(
    db: Connection,
    spool: Spool,
    uids: Uids,
    source: str,
    changes: Sequence[Changed],
    *,
    now: int,
) -> list[Changed]:
    """Enter the contents of *changes* that are not known, and spool their events; return these."""
    owner = source_id(db, source)
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
        page = Page.of([each.event for each in part if each.event])
        placed = spool.append(db, owner, page, now)
        insert(db, of_source(source), [own(db, NOTICE, owner, placed, page, now=now)], now)
    return reported


def resend(
    db: Connection,
    spool: Spool,
    source: str,
    *,
    sinks: Sequence[str],
    pages: Sequence[Page],
    proof: Proof,
    now: int,
) -> None:
    """Spool *pages*, known or not, once for each of *sinks* alone, and enter the *proof*."""
    owner = source_id(db, source)
    for sink in sinks:
        bodies = [
            refilled(spool.append(db, owner, page, now, only=sink), page, by=proof.by)
            for page in pages
            if len(page)
        ]
        insert(db, of_sink(sink), bodies, now)
    enter(db, source, proof, new=sum(map(len, pages)), now=now, via="backfill")


def enter(db: Connection, source: str, proof: Proof, *, new: int = 0, now: int, via: str) -> None:
    """Enter a *proof* whose events are known; *new* of them count as new in its backfill."""
    owner = source_id(db, source)
    changes = ledger.changes(db, owner, proof, NewEvents(), now)
    bodies = _write(db, owner, proof, changes, {}, new=new, before=None, now=now, via=via)
    insert(db, of_source(source), bodies, now)


def replay(
    db: Connection,
    spool: Spool,
    ids: Sequence[int],
    now: int,
    *,
    of: Mapping[int, LetterOf],
    by: int | None,
    unless: OfLetter,
) -> list[StoredDeadLetter]:
    """
    Spool the dead letters *ids* that are not being replayed already; return which they are.

    Those that *unless* is true of are left, and those whose source was removed: there is none whose
    event it could be.
    """
    known = {name for (name,) in db.execute("select name from source")}
    found = [
        each
        for each in dead_letters.not_replaying(db, ids, of)
        if each.source in known and not unless(each)
    ]
    for (source, sink), group in groupby(found, lambda each: (each.source, each.sink)):
        owner = source_id(db, source)
        while letters := list(islice(group, _MAX_EVENTS)):
            events = [msgspec.structs.replace(each.letter.event, replayed=True) for each in letters]
            page = Page.of(events)
            placed = spool.append(db, owner, page, now, only=sink)
            for position, each in enumerate(letters, placed.first):
                dead_letters.start_replay(db, each.id, None if sink is None else position)
            if sink is None:
                insert(db, of_source(source), [own(db, REPLAY, owner, placed, page, now=now)], now)
            else:
                bodies = facts.replayed(
                    first=placed.first,
                    count=len(page),
                    uids=page.uid,
                    stored=placed.stored,
                    by=by,
                )
                insert(db, of_sink(sink), [bodies], now)
    return found


def _write(
    db: Connection,
    owner: int,
    proof: Proof,
    changes: Changes,
    reports: _Reports,
    *,
    new: int,
    before: int | None,
    now: int,
    via: str,
) -> list[facts.Body]:
    """
    Write the *changes*, and what else *proof* says; return the facts that tell of it.

    *before* is the end of the spool, if that is known already.
    """
    bodies: list[facts.Body] = []
    ledger.write(db, owner, changes, via, now)
    if changes.history:
        before = meta.read(db, "next_position") if before is None else before
        bodies += [_of_ledger(each, via, before, reports, proof.by) for each in changes.history]
    if proof.file is not None:
        bodies += file_read(db, owner, proof.file, now)
    if proof.backfill is not None and proof.part is not None:
        backfills.part_done(db, proof.backfill, proof.part, proof.read, proof.new + new)
    return bodies


def _of_ledger(
    change: Change, via: str, before: int, reports: _Reports, by: int | None
) -> facts.Body:
    """
    Return the fact about a *change* of the ledger, which *by* has asked for.

    Its events have places below *before*.
    """
    start, end, reason = change.start, change.end, change.reason
    match change.what:
        case "covered":
            return facts.covered(via=via, start=start, end=end, before=before)
        case "gap" | "filled" as what:
            uid, place = reports.get((what, start, end), (None, None))
            made = facts.gap if what == "gap" else facts.filled
            return made(start=start, end=end, reason=reason, uid=uid, place=place)
        case "reopened":
            return facts.reopened(start=start, end=end, reason=reason, by=by)
        case "retracted":
            return facts.retracted(start=start, end=end, reason=reason, by=by)
