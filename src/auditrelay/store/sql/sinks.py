"""
Sinks in the database: which sources each reads, what it has settled, and how it ends.

Works on a connection, within the caller's transaction.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import groupby

from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.events.reduced import reduced
from auditrelay.evidence import facts
from auditrelay.store import DeadLetter, RejectedEvent
from auditrelay.store.keys import known_keys
from auditrelay.store.places import position_of
from auditrelay.store.progress import Range
from auditrelay.store.sql import branches, dead_letters, meta, tags
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.damage import void
from auditrelay.store.sql.facts import insert, of_sink
from auditrelay.store.sql.readers import Reader, reader_of, waiting_for, without_page
from auditrelay.store.sql.sources import source_id
from auditrelay.store.sql.spool import PageDamaged, Placed, Spool, events_at


def start(db: Connection, name: str, sources: Collection[str], now: int) -> None:
    """Let the sink *name* read *sources*, besides those that it reads already."""
    row = db.execute("select sources, ends from sink where name = ?", (name,)).fetchone()
    read = set() if row is None else set(json.loads(row[0]))
    fed = _feeds(db, name)
    all_read, place = sorted(read.union(sources)), meta.read(db, "next_position")
    db.execute(
        "insert into sink (name, sources, position) values (?, ?, ?) "
        "on conflict (name) do update set sources = excluded.sources, ends = null",
        (name, json.dumps(all_read), place),
    )
    (number,) = db.execute("select id from sink where name = ?", (name,)).fetchone()
    db.executemany(
        "insert into feed (sink, source, since) values (?, ?, ?) on conflict do nothing",
        [(number, source, place) for source in all_read],
    )
    tags.put(db, "sink", "name = ?", name)
    tags.put(db, "feed", "sink = (select id from sink where name = ?)", name)
    feeds = _feeds(db, name)
    if row is not None and row[1] is not None:
        insert(db, of_sink(name), [facts.back(since=feeds)], now)
    elif row is None or feeds != fed:
        since = {source: place for source, place in feeds.items() if source not in fed}
        insert(db, of_sink(name), [facts.began(since=since)], now)


def _feeds(db: Connection, name: str) -> dict[str, int]:
    """Return from which place on the sink *name* receives which source."""
    query = "select source, since from feed where sink = (select id from sink where name = ?)"
    return dict(db.execute(query, (name,)).fetchall())


def retire(
    db: Connection,
    configured: Mapping[str, Collection[str]],
    sources: Collection[str],
    now: int,
) -> tuple[str, ...]:
    """End what is not *configured* at this position; return the sinks with a backlog."""
    place, among = meta.read(db, "next_position"), db.dialect.among
    for number, name, text, ends in db.execute(
        "select id, name, sources, ends from sink"
    ).fetchall():
        if ends is None and name not in configured:
            insert(db, of_sink(name), [facts.retired(place=place)], now)
        read = json.loads(text)
        kept = [each for each in read if each in configured.get(name, read) or each not in sources]
        if kept != read:
            db.execute("update sink set sources = ? where id = ?", (json.dumps(kept), number))
            db.execute(
                f"delete from feed where sink = ? and not (source {among})",  # noqa: S608  # constants
                (number, db.dialect.values(kept)),
            )
            without = sorted(set(read) - set(kept))
            body = {**facts.retired(place=place), "sources": without}
            insert(db, of_sink(name), [body], now)
    db.execute(
        f"update sink set ends = ? where ends is null and not (name {among})",  # noqa: S608  # constants
        (place, db.dialect.values(list(configured))),
    )
    tags.put(db, "sink")
    retired = db.execute("select name from sink where ends is not null order by name")
    return tuple(name for (name,) in retired.fetchall() if waiting_for(db, name)[0])


def settle(
    db: Connection,
    log: Spool,
    name: str,
    done: Sequence[Range],
    dead: Sequence[RejectedEvent],
    *,
    excluded: Mapping[str, Sequence[Range]],
    now: int,
) -> tuple[Reader, AbstractSet[int]]:
    """
    Add the ranges *done* to the progress of the sink *name*, insert the *dead* letters.

    Of those in *done* that are *excluded*, by glob, it is recorded that they were not sent. Returns
    the sink with its new progress, and the places of which the *log* has a reduced copy.
    """
    trust(db, name, now)
    # Before the reader: what is asked in a row is one wait for a database that is elsewhere.
    replaying = None if dead else dead_letters.replaying(db, name)
    reader = reader_of(db, name)
    progress = reader.progress.plus(done)
    # A hole is looked at when it arises; the first one always, since the position waits for it and
    # what was in it may have been removed.
    seen = set(reader.progress.holes()[1:])
    progress = progress.plus(
        without_page(db, reader, [hole for hole in progress.holes() if hole not in seen])
    )
    db.execute(
        "update sink set position = ?, ahead = ? where name = ?",
        (progress.position, json.dumps(progress.ahead), name),
    )
    tags.put(db, "sink", "name = ?", name)
    copies, bodies = _insert(db, log, name, dead, now) if dead else ({}, [])
    for source, group in groupby(sorted(copies.items(), key=_source), _source):
        page = Page.of(copy for _, copy in group)
        placed = log.append(db, source_id(db, source), page, now, only=name, beyond=True)
        bodies.append(refilled(placed, page, copies=page.uid))
    bodies += [facts.excluded(glob=glob, places=places) for glob, places in excluded.items()]
    insert(db, of_sink(name), bodies, now)
    # What was refused again is not being replayed any more.
    dead_letters.delete_delivered(db, replaying or dead_letters.replaying(db, name), done)
    return replace(reader, progress=progress), copies.keys()


def trust(db: Connection, name: str, now: int) -> None:
    """If the progress of the sink *name* is not what we wrote, go back to what was sealed."""
    if not tags.wrong(db, "sink", "name = ?", name):
        return
    row = db.execute(
        "select text from entry where unit = ? order by n desc limit 1", (of_sink(name),)
    ).fetchone()
    state = {} if row is None else json.loads(row[0])["state"] or {}
    since = min(_feeds(db, name).values(), default=0)
    position = state.get("position")
    ahead = [[first, first + count] for first, count in state.get("ahead", [])]
    db.execute(
        "update sink set position = ?, ahead = ? where name = ?",
        (since if position is None else position, json.dumps(ahead), name),
    )
    tags.put(db, "sink", "name = ?", name)
    branches.set_broken(db, f"the position of the sink {name} was changed: it repeats events", now)


def refilled(
    placed: Placed, page: Page, *, by: int | None = None, copies: Iterable[str] | None = None
) -> facts.Body:
    """
    Return the fact about a *page* for one sink alone.

    *by* is the operator who asked for it; *copies* are uids that only this page has.
    """
    return facts.refilled(
        first=placed.first,
        count=len(page),
        uids=facts.digest(known_keys(page)),
        stored=placed.stored,
        by=by,
        copies=copies,
    )


def _insert(
    db: Connection, log: Spool, name: str, dead: Sequence[RejectedEvent], now: int
) -> tuple[dict[int, AuditEvent], list[facts.Body]]:
    """
    Insert the *dead* letters of the sink *name*.

    Returns by place the reduced copies to send, and the facts about the letters. A page of the
    *log* that was changed meanwhile is taken out: its events become no letters, and are read again.
    """
    events = _whole_events_at(db, log, [position_of(each.place) for each in dead], now)
    copies = {}
    refused: dict[str, list[str]] = {}
    for each in dead:
        event = events.get(position_of(each.place))
        if event is None:
            continue
        letter = DeadLetter(
            event,
            each.reason,
            each.message,
            each.status,
            each.attempts,
            each.first_at,
            each.last_at,
        )
        entered = dead_letters.insert(db, name, letter)
        if entered != "known":
            refused.setdefault(each.reason, []).append(event.uid)
        if entered == "new" and each.reduced:
            copy = reduced(event, each.reason)
            if copy is not None:
                copies[each.place] = copy
    return copies, [facts.dead(reason=reason, uids=uids) for reason, uids in refused.items()]


def _whole_events_at(
    db: Connection, log: Spool, positions: Sequence[int], now: int
) -> dict[int, AuditEvent]:
    while True:
        try:
            return events_at(db, positions)
        except PageDamaged as damaged:
            void(db, log, damaged.first, now)


def _source(copy: tuple[int, AuditEvent]) -> str:
    return copy[1].source
