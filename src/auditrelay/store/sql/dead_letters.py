"""Dead letters in the database: works on a connection, within the caller's transaction."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

from auditrelay.events import pack, unpack
from auditrelay.evidence import facts
from auditrelay.store import DeadLetter, DeliveryStatus, LetterOf, StoredDeadLetter
from auditrelay.store.progress import Range
from auditrelay.store.sql import tags
from auditrelay.store.sql.connection import Connection, Cursor
from auditrelay.store.sql.facts import insert as tell
from auditrelay.store.sql.facts import of_sink, of_source
from auditrelay.window import micros, moment

Entered = Literal["new", "again", "known"]
"""Whether a dead letter is new, was refused again after a replay, or has only been updated."""


def insert(db: Connection, sink: str | None, letter: DeadLetter) -> Entered:
    """Insert *letter* for *sink*; if there is one of that event, update it, adding the attempts."""
    event = letter.event
    row = db.execute(
        "select id, replayed is not null from dead_letter where uid = ? and source = ? "
        "and dropped is null "
        "and coalesce(sink, 0) = coalesce((select id from sink where name = ?), 0)",
        (event.uid, event.source, sink),
    ).fetchone()
    if row is not None:
        number, was_replayed = row
        db.execute(
            "update dead_letter set replayed = null, reason = ?, status = ?, message = ?, "
            "attempts = attempts + ?, last_at = ? where id = ?",
            (
                letter.reason,
                letter.status,
                letter.message,
                letter.attempts,
                micros(letter.last_at),
                number,
            ),
        )
        tags.put(db, "dead_letter", "id = ?", number)
        return "again" if was_replayed else "known"
    (number,) = db.execute(
        "insert into dead_letter (sink, source, uid, native_id, reason, status, message, attempts, "
        "first_at, last_at, event) values ((select id from sink where name = ?), "
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?) returning id",
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
    ).fetchone()
    tags.put(db, "dead_letter", "id = ?", number)
    return "new"


def replaying(db: Connection, sink: str) -> Cursor:
    """Ask for the dead letters that *sink* is being sent again."""
    return db.execute(
        "select id, replayed from dead_letter where replayed is not null "
        "and sink = (select id from sink where name = ?)",
        (sink,),
    )


def delete_delivered(db: Connection, replaying: Cursor, done: Sequence[Range]) -> None:
    """Delete those of the *replaying* that the sink has acknowledged, at the positions *done*."""
    for number, position in replaying.fetchall():
        if any(start <= position < end for start, end in done):
            db.execute("delete from dead_letter where id = ?", (number,))


def find(
    db: Connection,
    *,
    sinks: Sequence[str] = (),
    sources: Sequence[str] = (),
    reasons: Sequence[str] = (),
    ids: Sequence[int] = (),
) -> list[StoredDeadLetter]:
    """Return the dead letters that match every filter given, oldest first."""
    wanted = {"sink.name": sinks, "source": sources, "reason": reasons, "dead_letter.id": ids}
    where = [f"{column} {db.dialect.among}" for column, values in wanted.items() if values]
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
        for row in db.execute(query, [db.dialect.values(each) for each in wanted.values() if each])
    ]


def not_replaying(
    db: Connection, ids: Sequence[int], of: Mapping[int, LetterOf]
) -> list[StoredDeadLetter]:
    """Return those of the dead letters *ids* that are those of *of*, and not being replayed."""
    # To *find*, an empty list of ids means all of them.
    if not ids:
        return []
    # One that was changed is not sent: it stays where the operator sees it.
    strange = set(tags.wrong(db, "dead_letter"))
    return [
        letter
        for letter in find(db, ids=ids)
        if not letter.replayed
        and letter.id not in strange
        and of.get(letter.id) in (None, letter.of)
    ]


def start_replay(db: Connection, number: int, position: int | None) -> None:
    """
    Record that the dead letter *number* is in the spool again, at *position*.

    None: it was spooled for all sinks, as an ordinary event, and is deleted here.
    """
    if position is None:
        db.execute("delete from dead_letter where id = ?", (number,))
    else:
        db.execute("update dead_letter set replayed = ? where id = ?", (position, number))
        tags.put(db, "dead_letter", "id = ?", number)


def drop(
    db: Connection, ids: Sequence[int], now: int, *, of: Mapping[int, LetterOf], by: int | None
) -> list[StoredDeadLetter]:
    """Discard the dead letters *ids* that are not being replayed: delete their events."""
    found = not_replaying(db, ids, of)
    for letter in found:
        db.execute(
            "update dead_letter set dropped = ?, event = ? where id = ?", (now, b"", letter.id)
        )
        tags.put(db, "dead_letter", "id = ?", letter.id)
    for (unit, reason), group in groupby(sorted(found, key=_group), _group):
        uids = [letter.letter.event.uid for letter in group]
        tell(db, unit, [facts.dropped(reason=reason, uids=uids, by=by)], now)
    return found


def _group(letter: StoredDeadLetter) -> tuple[str, str]:
    """Return the unit that *letter* belongs to, and its reason."""
    unit = of_source(letter.source) if letter.sink is None else of_sink(letter.sink)
    return unit, letter.letter.reason


def statuses(db: Connection, uids: Sequence[str]) -> dict[tuple[str, str | None], DeliveryStatus]:
    """Return by uid and sink the status of those of *uids* that have a dead letter."""
    return {
        (uid, sink): "dropped" if dropped else "waiting" if replayed else "dead_letter"
        for uid, sink, dropped, replayed in db.execute(
            "select uid, sink.name, dropped is not null, replayed is not null from dead_letter "  # noqa: S608  # constants
            "left join sink on sink.id = dead_letter.sink "
            f"where uid {db.dialect.among}",
            (db.dialect.values(uids),),
        )
    }


def count_without_sink(db: Connection, source: str) -> int:
    """Return how many records of *source* became dead letters before any sink."""
    (count,) = db.execute(
        "select count(*) from dead_letter where sink is null and dropped is null and source = ?",
        (source,),
    ).fetchone()
    return int(count)
