"""
Requests of commands to the holder of a unit, and its answers: two tables instead of a socket.

Works on a connection, within the caller's transaction. A command is there as long as it renews
``listens``; the holder of the unit takes its request, and if that dies the next holder does.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from auditrelay.store.replicas import Answers, Taken
from auditrelay.store.sql.connection import Connection

LISTEN_SECONDS: Final = 15
"""For how long a command that does not renew it is thought to be there."""

_LISTENS: Final = f"clock_timestamp() + interval '{LISTEN_SECONDS} seconds'"

_ALIVE: Final = "r.expires > clock_timestamp()"

_ASK: Final = f"""
insert into request (unit, request, asked_by, listens)
select :unit, :request, :asked_by, {_LISTENS}
where exists (select from replica r where {_ALIVE} and not r.draining
              and r.serves::json -> :unit is not null)
returning id
"""  # noqa: S608  # constants, as below

_LISTEN: Final = f"update request set listens = {_LISTENS} where id = :id"  # noqa: S608

_SERVE: Final = f"""
update request q set taken_by = :me
from (select id, taken_by from request where id = :id for update) before
where q.id = before.id
  and exists (select from lease l where l.unit = q.unit and l.holder = :me)
  and (q.taken_by is null or q.taken_by = :me
       or not exists (select from replica r where r.id = q.taken_by and {_ALIVE}))
returning q.request, before.taken_by is not null
"""  # noqa: S608

_AFTER: Final = "select coalesce(max(seq) + 1, 0) from answer where request = :id"

_ANSWER: Final = """
with ours as (
    select id from request where id = :id and taken_by = :me for share
), written as (
    insert into answer (request, seq, line)
    select ours.id, :first + n - 1, line
    from ours, unnest(:lines::text[]) with ordinality as given (line, n)
    on conflict do nothing
)
select count(*) from ours
"""

_STATE: Final = f"""
select exists (select from replica r where r.id = q.taken_by and {_ALIVE})
from request q where q.id = :id
"""  # noqa: S608


def ask(db: Connection, unit: str, request: str, asked_by: str) -> int | None:
    """Put a request to the holder of *unit*; return its number, or None if no replica serves it."""
    row = db.execute(_ASK, {"unit": unit, "request": request, "asked_by": asked_by}).fetchone()
    return None if row is None else int(row[0])


def answers(db: Connection, number: int, seen: int, most: int) -> Answers | None:
    """
    Return at most *most* answers to the request *number* after number *seen*, and go on listening.

    Returns None if the request is gone.
    """
    db.execute(_LISTEN, {"id": number})
    state = db.execute(_STATE, {"id": number})
    lines = db.execute(
        "select seq, line from answer where request = :id and seq > :seen order by seq limit :most",
        {"id": number, "seen": seen, "most": most},
    )
    row = state.fetchone()
    if row is None:
        return None
    found = lines.fetchall()
    return Answers([line for _, line in found], found[-1][0] if found else seen, row[0])


def withdraw(db: Connection, number: int) -> None:
    """Remove the request *number* and its answers: its command has ended."""
    db.execute("delete from request where id = :id", {"id": number})
    db.execute("delete from answer where request = :id", {"id": number})


def serve(db: Connection, me: UUID, number: int) -> Taken | None:
    """Take the request *number* for *me*, if that holds the unit and no live replica has it."""
    row = db.execute(_SERVE, {"me": me, "id": number}).fetchone()
    if row is None:
        return None
    # Only now: what was answered meanwhile by who had it was not to be seen before.
    (after,) = db.execute(_AFTER, {"id": number}).fetchone()
    text, before = row
    return Taken(text, begun=before or after > 0, after=after)


def answer(
    db: Connection, me: UUID, number: int, first: int, lines: Sequence[str], *, last: bool
) -> bool:
    """
    Add *lines*, with numbers from *first* on, to the answers to *number*; once is enough.

    With the *last* one the request is to no unit any more, so that it is not done again. Returns
    False if it is not ours any more.
    """
    found = db.execute(_ANSWER, {"me": me, "id": number, "first": first, "lines": list(lines)})
    if last:
        db.execute(
            "update request set unit = '' where id = :id and taken_by = :me",
            {"id": number, "me": me},
        )
    return bool(found.fetchone()[0])


def put_back(db: Connection, me: UUID, number: int) -> None:
    """Let another replica take the request *number*."""
    db.execute(
        "update request set taken_by = null where id = :id and taken_by = :me",
        {"id": number, "me": me},
    )
