"""
Compare rows of the state that no digest is over with what the entries and other rows say.

What such a row says decides what is sent, kept or reported: when a head was made and whether it has
left, which sources a sink is fed with, whether a letter waits. Works on a connection, within one
snapshot.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from auditrelay.events import AuditEvent, unpack
from auditrelay.events.decode import NOT_DECODED
from auditrelay.evidence.heads import Head, key_id
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.expected import OfInstance, OfSink, OfSource
from auditrelay.store.keys import known_key, time_of
from auditrelay.store.sql import meta
from auditrelay.store.sql.accepted import own_keys
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.evidence import StoredHead
from auditrelay.store.sql.facts import of_source
from auditrelay.store.sql.known import FORGOTTEN

Say = Callable[..., None]
"""Adds a finding: its code, what does not fit, and where."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the entries say of a head: when it was made, in which log, and the key in force."""

    at: int
    log: str
    key: str


def check_head(db: Connection, head: StoredHead, word: Head, made: Made, say: Say) -> None:
    """Say what of the row of a *head*, whose *word* has the right root, is not as it was *made*."""
    where = f"head {head.size}"
    if head.at != made.at:
        what = "it has another time than the entry before it"
        say("rewritten", what, where=where, at=made.at)
    signed = key_id(bytes.fromhex(made.key)) if made.key else ""
    keys = db.keys
    checkable = keys is not None and keys.public.hex() == made.key
    if (word.log, word.key_id) != (made.log, signed) or (
        checkable and not word.is_signed_by(bytes.fromhex(made.key))
    ):
        what = "its word is of another log, or is not signed with the key of that time"
        say("rewritten", what, where=where, at=made.at)
    shown = [key[8:].hex() for key in own_keys(db, head.place)]
    if shown != [word.uid] and (shown or meta.find(db, FORGOTTEN) is None):
        what = f"the event that tells of it is not at place {head.place}"
        say("state", what, where=where, at=made.at)


def check_numbers(db: Connection, instance: OfInstance, say: Say) -> None:
    """Say which numbers of the state are not what rows and facts say."""
    (size,) = db.execute("select coalesce(sum(bytes), 0) from spool").fetchone()
    for name, found, must in (
        ("spool_bytes", meta.find(db, "spool_bytes"), size),
        ("runs", meta.find(db, "runs"), instance.runs),
    ):
        if found != must:
            say("state", f"it is {found}, and must be {must}", where=f"meta.{name}")


def check_row(
    db: Connection, number: int, expected: OfSink, feeds: Collection[str], say: Say
) -> None:
    """Say if a sink has another end, or is fed with other sources, than its facts and *feeds*."""
    sources, ends = db.execute("select sources, ends from sink where id = ?", (number,)).fetchone()
    if ends != expected.ends:
        what = f"it ends at place {ends}, and facts say {expected.ends} (None: it is configured)"
        say("state", what)
    if (set(json.loads(sources)) ^ set(feeds)) - set(expected.gone):
        say("state", "it is fed with other sources than it has feeds")


def check_strangers(db: Connection, sinks: Collection[str], say: Say) -> None:
    """Say which rows are of no sink that a fact tells of; *sinks* are those."""
    for (name,) in db.execute("select name from sink order by name"):
        if name not in sinks:
            say("state", "no fact tells of the sink", where=f"sink {name}")
    query = (
        "select id from dead_letter where sink is not null and sink not in (select id from sink)"
    )
    for (number,) in db.execute(query):
        say("letters", "it is of no sink", where=f"dead_letter {number}")


def check_letters(db: Connection, sources: Mapping[str, OfSource], say: Say) -> None:
    """Say which dead letters have another event than they name, or are dropped without a fact."""
    forgotten = meta.find(db, FORGOTTEN)
    dropped: dict[str, Counter[str]] = {}
    query = (
        "select id, sink is null, source, uid, event, dropped is not null, replayed is not null "
        "from dead_letter order by id"
    )
    for number, aside, source, uid, blob, is_dropped, is_replayed in db.execute(query):
        where = f"dead_letter {number}"
        if is_dropped:
            if aside:
                dropped.setdefault(source, Counter())[uid] += 1
            continue
        if aside and is_replayed:  # such a letter goes to all sinks, and is deleted at once
            say("letters", "it waits for a replay, which letters of no sink do not", where=where)
        event = _event_in(blob)
        if event is None:
            say("letters", f"the event of the dead letter {uid} is damaged", where=where)
        elif (event.uid, event.source) != (uid, source):
            what = f"the dead letter {uid} of {source} has the event {event.uid} of {event.source}"
            say("letters", what, where=where)
        elif aside and (forgotten is None or event.at >= forgotten):
            _check_put_aside(db, event, partial(say, where=where))
    for name, expected in sources.items():
        if not expected.removed and dropped.get(name, Counter()) != Counter(expected.dropped):
            what = "other records that were put aside were dropped than facts say"
            say("letters", what, where=f"source {name}")


def _event_in(blob: bytes) -> AuditEvent | None:
    """Return the event of a dead letter, None if it is damaged."""
    try:
        (event,) = unpack(blob)
    except (*NOT_DECODED, ValueError):  # or it is not one event
        return None
    return event


def _check_put_aside(db: Connection, event: AuditEvent, say: Say) -> None:
    row = db.execute(
        "select 1 from known where key = ? and position < 0 "
        "and source = (select id from source where name = ?)",
        (known_key(event), event.source),
    ).fetchone()
    if row is None:
        say("known", f"the uid of the dead letter {event.uid} is missing")


def check_deleted(db: Connection, say: Say) -> None:
    """Say of which sources events are recorded as deleted that never were forwarded."""
    oldest = meta.find(db, FORGOTTEN)
    query = (
        "select name, key from vanished join source on source.id = vanished.source where not "
        "exists (select 1 from known where source = vanished.source and key = vanished.key)"
    )
    strange = {name for name, key in db.execute(query) if oldest is None or time_of(key) >= oldest}
    for name in sorted(strange):
        what = "an event is recorded as deleted at the source that is not known"
        say("state", what, where=f"source {name}")


def check_head_places(db: Connection, units: Mapping[int, str], say: Say) -> None:
    """Say which heads have a place that is no page of our own; *units* are those of all pages."""
    for size, place in db.execute("select size, place from head order by size"):
        if units.get(place) != of_source(ALERTS):
            what = f"its event is at place {place}, which has no event of our own"
            say("state", what, where=f"head {size}")


def check_own_pages(db: Connection, places: Collection[int], say: Say) -> None:
    """Say of which pages uids of our own events are kept that no fact tells of."""
    for (first,) in db.execute("select first from own_page order by first"):
        if first not in places:
            say("known", f"uids are kept of a page at place {first}, which no fact tells of")
