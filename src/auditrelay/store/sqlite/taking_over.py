"""
Take over a state from before there was evidence: what is found in it, as the first facts of a log.

Nothing is claimed of the time before. Works on a connection, within the caller's transaction.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from auditrelay.evidence import facts
from auditrelay.store.keys import time_of
from auditrelay.store.sql.branches import begin_log
from auditrelay.store.sql.facts import INSTANCE, insert, of_sink, of_source
from auditrelay.store.sql.known import FORGOTTEN
from auditrelay.store.sqlite.connection import Connection

_STEP: Final = 20_000
"""How many known keys are read at once: there may be millions."""

_NOW: Final = "select cast((julianday('now') - 2440587.5) * 86400000000 as integer)"


def take_over(db: Connection, *, schema: int) -> None:
    """Begin a log, and write what is found in the state, which was of *schema*, as open facts."""
    begin_log(db)
    # Older versions moved it whenever they looked for uids to forget, found or not: no fact can
    # tell of it, and none of what the log explains was forgotten before the log began.
    db.execute("delete from meta where name = ?", (FORGOTTEN,))
    (now,) = db.execute(_NOW).fetchone()
    (place,) = db.execute("select value from meta where name = 'next_position'").fetchone()
    insert(db, INSTANCE, [facts.taken_over(schema=schema, place=place)], now)
    for owner, name, started, head in db.execute(
        "select id, name, started, head from source order by name"
    ).fetchall():
        records = db.execute(
            "select seq, recorded, what, start, end, reason, via, events, lower(hex(digest)) "
            "from journal where source = ? order by seq",
            (owner,),
        ).fetchall()
        events, uids = _known(db, owner)
        found = facts.found(started=started, events=events, uids=uids, head=head, records=records)
        insert(db, of_source(name), [found, *_of_source(db, owner, name)], now)
    for number, name, ends in db.execute("select id, name, ends from sink order by name"):
        insert(db, of_sink(name), _of_sink(db, number, ends), now)
    db.execute(
        "insert into late select source, start, via, recorded / 86400000000, max(end), "
        "max(recorded), sum(events) from journal where what = 'late' group by 1, 2, 3, 4"
    )


def _known(db: Connection, owner: int) -> tuple[int, bytes]:
    """Return how many forwarded events of the source *owner* are known, and their digest."""
    count, last, hashing = 0, b"", sha256()
    while True:
        found, end, joined = db.execute(
            "select count(*), max(key), cast(group_concat(key, '') as blob) from "
            "(select key from known where source = ? and key > ? and position >= 0 "
            "order by key limit ?)",
            (owner, last, _STEP),
        ).fetchone()
        if not found:
            return count, hashing.digest()
        count, last = count + found, end
        hashing.update(joined)


def _of_source(db: Connection, owner: int, name: str) -> list[facts.Body]:
    """Return the facts about resweeps, files, deleted events and dead letters of a source."""
    found = [
        facts.looked_again(delay=delay // 1_000_000, until=until)
        for delay, until in db.execute(
            "select delay, until from resweep where source = ? order by delay", (owner,)
        )
    ]
    found += [
        facts.file(key=key, name=file, owner=None)
        for key, file in db.execute(
            "select key, name from parcel where source = ? order by key", (owner,)
        )
    ]
    gone = [
        key
        for (key,) in db.execute("select key from vanished where source = ? order by key", (owner,))
    ]
    if gone:
        start, end = (time_of(key) for key in (gone[0], gone[-1]))
        uids = facts.digest(gone)
        found.append(facts.vanished(start=start, end=end + 1, events=len(gone), uids=uids))
    aside = [
        key
        for (key,) in db.execute(
            "select key from known where source = ? and position < 0 order by key", (owner,)
        )
    ]
    if aside:
        found.append(
            facts.put_aside(reason="taken over", events=len(aside), uids=facts.digest(aside))
        )
    for reason, _, _, dropped in _letters(db, "source = ? and sink is null", name):
        found += [facts.dropped(reason=reason, uids=dropped, by=None)] if dropped else []
    return found


def _of_sink(db: Connection, number: int, ends: int | None) -> list[facts.Body]:
    """Return the facts about the feeds and the dead letters of a sink."""
    since = dict(db.execute("select source, since from feed where sink = ?", (number,)).fetchall())
    found = [facts.began(since=since)]
    if ends is not None:
        found.append(facts.retired(place=ends))
    for reason, uids, replayed, dropped in _letters(db, "sink = ?", number):
        found.append(facts.dead(reason=reason, uids=uids))
        if replayed:
            # Of the page that they are in nothing is claimed; they are deleted with its delivery.
            again = facts.replayed(first=0, count=0, uids=replayed, stored=b"", by=None)
            found.append({**again, "pages": [], "stored": None})
        found += [facts.dropped(reason=reason, uids=dropped, by=None)] if dropped else []
    return found


def _letters(
    db: Connection, which: str, owner: int | str
) -> Iterator[tuple[str, list[str], list[str], list[str]]]:
    """Yield the dead letters *which* are of *owner*: reason, uids, those replayed, and dropped."""
    for reason, *uids in db.execute(
        "select reason, json_group_array(uid), "  # noqa: S608  # constants
        "json_group_array(uid) filter (where replayed is not null), "
        "json_group_array(uid) filter (where dropped is not null) "
        f"from dead_letter where {which} group by reason order by reason",
        (owner,),
    ):
        each, replayed, dropped = map(json.loads, uids)
        yield reason, each, replayed, dropped
