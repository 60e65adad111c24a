"""Dead letters in the database: works on a connection, within the caller's transaction."""

import json
import sqlite3
from collections.abc import Sequence

from auditrelay.events import pack, unpack
from auditrelay.store import DeadLetter, DeliveryStatus, StoredDeadLetter
from auditrelay.store.progress import Range
from auditrelay.window import micros, moment


def insert(db: sqlite3.Connection, sink: str | None, letter: DeadLetter) -> None:
    """Put *letter* aside for *sink*; one that lies there already gets its attempts added."""
    event = letter.event
    again = db.execute(
        "update dead_letter set replayed = null, reason = ?, status = ?, message = ?, "
        "attempts = attempts + ?, last_at = ? where uid = ? and source = ? and dropped is null "
        "and sink is (select id from sink where name = ?)",
        (
            letter.reason,
            letter.status,
            letter.message,
            letter.attempts,
            micros(letter.last_at),
            event.uid,
            event.source,
            sink,
        ),
    ).rowcount
    if again:
        return
    db.execute(
        "insert into dead_letter (sink, source, uid, native_id, reason, status, message, attempts, "
        "first_at, last_at, event) values ((select id from sink where name = ?), "
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sink,
            event.source,
            event.uid,
            event.native_id,
            letter.reason,
            letter.status,
            letter.message,
            letter.attempts,
            micros(letter.first_at),
            micros(letter.last_at),
            pack([event]),
        ),
    )


def delivered(db: sqlite3.Connection, sink: str, done: Sequence[Range]) -> None:
    """Let go of the dead letters that *sink* has taken after all, at the positions *done*."""
    waiting = db.execute(
        "select id, replayed from dead_letter where replayed is not null "
        "and sink = (select id from sink where name = ?)",
        (sink,),
    ).fetchall()
    for number, position in waiting:
        if any(start <= position < end for start, end in done):
            db.execute("delete from dead_letter where id = ?", (number,))


def find(
    db: sqlite3.Connection,
    *,
    sinks: Sequence[str] = (),
    sources: Sequence[str] = (),
    reasons: Sequence[str] = (),
    ids: Sequence[int] = (),
) -> list[StoredDeadLetter]:
    """Return the dead letters that match every filter given, oldest first."""
    wanted = {"sink.name": sinks, "source": sources, "reason": reasons, "dead_letter.id": ids}
    where = [
        f"{column} in (select value from json_each(?))"  # noqa: S608  # columns are ours
        for column, values in wanted.items()
        if values
    ]
    query = (
        "select dead_letter.id, sink.name, source, reason, message, status, attempts, "  # noqa: S608  # columns are ours
        "first_at, last_at, event, replayed is not null "
        "from dead_letter left join sink on sink.id = dead_letter.sink "
        f"where {' and '.join(['dropped is null', *where])} order by dead_letter.id"
    )
    return [
        StoredDeadLetter(
            row[0],
            row[1],
            row[2],
            DeadLetter(
                unpack(row[9])[0], row[3], row[4], row[5], row[6], moment(row[7]), moment(row[8])
            ),
            bool(row[10]),
        )
        for row in db.execute(query, [json.dumps(list(each)) for each in wanted.values() if each])
    ]


def at_rest(db: sqlite3.Connection, ids: Sequence[int]) -> list[StoredDeadLetter]:
    """Return those of the dead letters *ids* that are not on their way once more."""
    # For find no ids at all would mean all of them.
    return [letter for letter in find(db, ids=ids) if not letter.replayed] if ids else []


def on_its_way(db: sqlite3.Connection, number: int, position: int | None) -> None:
    """Remember that a dead letter lies in the spool at *position*; None: it is an event for all."""
    if position is None:
        db.execute("delete from dead_letter where id = ?", (number,))
    else:
        db.execute("update dead_letter set replayed = ? where id = ?", (position, number))


def drop(db: sqlite3.Connection, ids: Sequence[int], now: int) -> list[StoredDeadLetter]:
    """Empty those dead letters that are not on their way; return what they were."""
    found = at_rest(db, ids)
    for letter in found:
        db.execute(
            "update dead_letter set dropped = ?, event = zeroblob(0) where id = ?", (now, letter.id)
        )
    return found


def states(
    db: sqlite3.Connection, uids: Sequence[str]
) -> dict[tuple[str, str | None], DeliveryStatus]:
    """Return what became of those of *uids* that were put aside, by uid and sink."""
    return {
        (uid, sink): "dropped" if dropped else "waiting" if replayed else "dead_letter"
        for uid, sink, dropped, replayed in db.execute(
            "select uid, sink.name, dropped is not null, replayed is not null from dead_letter "
            "left join sink on sink.id = dead_letter.sink "
            "where uid in (select value from json_each(?))",
            (json.dumps(list(uids)),),
        )
    }


def of_no_sink(db: sqlite3.Connection, source: str) -> int:
    """Return how many dead letters *source* has that never came as far as a sink."""
    (count,) = db.execute(
        "select count(*) from dead_letter where sink is null and dropped is null and source = ?",
        (source,),
    ).fetchone()
    return int(count)
