"""
The rows that say which replica lives, and which holds what. Works on a connection.

Each function is a whole transaction, which the caller begins and ends. Takes and writes are one
after the other: ``take`` and ``rekey`` run in transactions that alone write (``Connection.begin``).
So what was written under a lease was committed before another replica got it, or it fails. Nothing
else here may wait for that: a frozen replica may hold the lock, and only one that goes on beating
sees that and ends its session.

Every time is the clock of the database, ``clock_timestamp()``: ``now()`` is when the transaction
began. Even the former is older than the lock that an update had to wait for, as PostgreSQL computes
what it sets before it waits. So a beat does not wait long, and what it has written is read again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from auditrelay.evidence.heads import key_id
from auditrelay.store.leases import Lease
from auditrelay.store.postgres import schema
from auditrelay.store.replicas import (
    LIFE,
    Card,
    LeaseRow,
    Replica,
    Served,
    Server,
    Situation,
    Waiting,
)
from auditrelay.store.sql.connection import Connection
from auditrelay.store.sql.keying import KEY

BEAT_LOCK_SECONDS: Final = 1
"""How long a pulse may wait for a lock; the next one tries again."""

TIDY_MINUTES: Final = 10
"""For how long the row of a dead replica stays, for people to see."""

SMALL_TABLE: Final = 10_000
"""Rows of a table that has one for each source, sink, lease or replica, at most."""

_SERVES: Final = msgspec.json.Decoder(dict[str, Served])
_INFO: Final = msgspec.json.Decoder(dict[str, Any])

_EXPIRES: Final = f"clock_timestamp() + interval '{LIFE} seconds'"
_FRESH: Final = "r.expires > clock_timestamp()"

_JOIN: Final = f"""
insert into replica (id, name, version, expires, seat, serves, info)
values (:me, :name, :version, {_EXPIRES}, :seat, :serves, :info)
on conflict (id) do update set expires = excluded.expires
"""  # noqa: S608  # constants, as below

_BEAT: Final = f"""
update replica set beats = beats + 1, expires = {_EXPIRES}, draining = :draining, info = :info
where id = :me
"""  # noqa: S608

_REPLICAS: Final = """
select id, name, version, started, beats, draining, serves, info,
       extract(epoch from expires - clock_timestamp())::float8
from replica
"""

_LEASES: Final = "select unit, epoch, token, holder, since, wanted_by from lease"

_REQUESTS: Final = """
select id, unit, asked_by, taken_by from request where listens > clock_timestamp() order by id
"""

_ENDS: Final = f"""
select clock_timestamp(),
       coalesce((select value from meta where name = 'next_position'), 0)::bigint,
       coalesce((select max(size) from head), 0)::bigint,
       (select writes from writer where replica = :me), {schema.WRITABLE_FROM}, current_schema(),
       (select value from meta_bytes where name = '{KEY}')
"""  # noqa: S608  # a constant

_SERVER: Final = """
select current_setting('server_version'), (select system_identifier from pg_control_system()),
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
"""

_OVERLAPS: Final = """
    o.unit like 'sink %' and split_part(o.unit, ' ', 2) = split_part(l.unit, ' ', 2)
    and split_part(o.unit, '/', 2) <> split_part(l.unit, '/', 2) and l.unit like 'sink %'
"""
"""Whether the leases *o* and *l* are of one sink, in different numbers of parts."""

_IS_FREE: Final = f"""
    (l.holder is null
     or not exists (select from replica r where r.id = l.holder)
     or (l.holder = any (:dead)
         and not exists (select from replica r where r.id = l.holder and {_FRESH})))
"""  # noqa: S608

_FREE_OVERLAPPING: Final = f"""
update lease l set holder = null, token = null, since = clock_timestamp()
where l.token is not null and {_IS_FREE}
  and exists (select from unnest(:units::text[]) as o (unit) where {_OVERLAPS})
"""  # noqa: S608

_TAKE: Final = f"""
with free as (
    select l.unit from lease l
    where l.unit = any (:units) and {_IS_FREE}
      and not exists (select from lease o where o.token is not null and {_OVERLAPS})
      and (l.wanted_by is null or l.wanted_by = :me
           or not exists (select from replica r where r.id = l.wanted_by and {_FRESH}))
      and exists (select from replica r where r.id = :me)
    for no key update skip locked
)
update lease l
set epoch = l.epoch + 1, token = gen_random_uuid(), holder = :me, since = clock_timestamp(),
    wanted_by = null
from free
where l.unit = free.unit
returning l.unit, l.epoch, l.token
"""  # noqa: S608

_REKEY: Final = """
update lease set token = gen_random_uuid(), epoch = epoch + 1, since = clock_timestamp()
where unit = :unit and token = :seen and holder = :me
returning unit, epoch, token
"""

_GIVE: Final = "update lease set holder = null, token = null, since = clock_timestamp()"

_WANT: Final = """
update lease l set wanted_by = w.replica
from unnest(:units::text[], :replicas::uuid[]) as w (unit, replica)
where l.unit = w.unit and l.holder is not null
"""

_END_SESSIONS: Final = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = current_user and datname = current_database()
  and application_name = any (:names)
  and wait_event is distinct from 'SyncRep'
"""
"""
One that waits for a synchronous standby is spared: it would become visible without being there.
"""


def application_name(replica: UUID) -> str:
    """Return the name of the sessions of *replica*, by which others end them once it is dead."""
    return f"auditrelay {replica}"


def server(db: Connection) -> Server:
    """
    Return which server this is.

    The timeline is that of the log it writes: another one after a failover to a standby. What the
    last checkpoint says of it comes later.
    """
    version, system, timeline = db.execute(_SERVER).fetchone()
    return Server(version, str(system), int(timeline, 16))


def join(db: Connection, me: UUID, card: Card) -> None:
    """
    Make the replica *me* known, and the units that it serves.

    Any other replica on its seat is dead: its row goes, so what it held is free at once. To join
    twice is to join once: the answer to the first time may have been lost.
    """
    if card.seat is not None:
        _forget(db, "seat = :seat and id <> :me", {"seat": card.seat, "me": me})
    row = {
        "me": me,
        "name": card.name,
        "version": card.version,
        "seat": card.seat,
        "serves": _json(card.serves),
        "info": _json({"command": card.command, "key": card.key}),
    }
    db.execute(_JOIN, row)
    db.execute(
        "insert into writer (replica, writes) values (:me, 0) on conflict do nothing", {"me": me}
    )
    ensure_units(db, card.serves)


def serve(db: Connection, me: UUID, serves: Mapping[str, Served]) -> None:
    """Change what the replica *me* serves."""
    db.execute(
        "update replica set serves = :serves where id = :me", {"serves": _json(serves), "me": me}
    )
    ensure_units(db, serves)


def ensure_units(db: Connection, units: Collection[str]) -> None:
    """See to it that each of *units* has a row, with which it can be taken."""
    db.execute(
        "insert into lease (unit, since) select unnest(:units::text[]), clock_timestamp() "
        "on conflict (unit) do nothing",
        {"units": sorted(units)},
    )


def beat(db: Connection, me: UUID, *, draining: bool, info: Mapping[str, Any]) -> None:
    """
    Give a sign of life of the replica *me*.

    If its row was tidied away it does not get it back: :func:`situation` does not show it.
    """
    db.execute(f"set local lock_timeout = '{BEAT_LOCK_SECONDS}s'")
    db.execute(_BEAT, {"me": me, "draining": draining, "info": _json(info)})


def situation(db: Connection, me: UUID) -> Situation:
    """
    Return what there is to see, with one wait for the database.

    Raises StateError if a newer version has made the state its own.
    """
    replicas = db.execute(_REPLICAS)
    leases = db.execute(_LEASES)
    requests = db.execute(_REQUESTS)
    now, end, heads, writes, oldest, name, public = db.execute(_ENDS, {"me": me}).fetchone()
    schema.require_writable(name, oldest)
    return Situation(
        now=now,
        replicas=tuple(map(_replica, replicas)),
        leases=tuple(LeaseRow(*row) for row in leases),
        requests=tuple(Waiting(*row) for row in requests),
        end=end,
        heads=heads,
        writes=writes,
        key="" if public is None else key_id(public),
    )


def take(db: Connection, me: UUID, units: Collection[str], dead: Collection[UUID]) -> list[Lease]:
    """
    Take those of *units* that are free for the replica *me*, and return their leases.

    What a replica holds is free only if it is among the *dead*, whose beats *me* has seen standing
    still, and has expired by the clock of the database, too. Nothing of a sink is free while it is
    held in another number of parts; what the dead hold so is taken from them.
    """
    wanted = {"units": list(units), "dead": list(dead), "me": me}
    db.execute(_FREE_OVERLAPPING, {"units": wanted["units"], "dead": wanted["dead"]})
    return [Lease(*row) for row in db.execute(_TAKE, wanted)]


def end_sessions(db: Connection, dead: Collection[UUID]) -> None:
    """
    End the sessions of *dead* replicas.

    One that stopped between two messages of a transaction keeps its locks, the one that all writes
    need among them, and before PostgreSQL 17 no timeout of the server ends that.
    """
    db.execute(_END_SESSIONS, {"names": [application_name(replica) for replica in dead]})


def rekey(db: Connection, me: UUID, unit: str, seen: UUID) -> Lease | None:
    """
    Give the lease of *unit* that *me* has a new token in place of the one that was *seen*.

    Returns None if it has another token or holder by now.
    """
    row = db.execute(_REKEY, {"unit": unit, "seen": seen, "me": me}).fetchone()
    return None if row is None else Lease(*row)


def give(db: Connection, lease: Lease) -> None:
    """Give *lease* back, if it is still that one."""
    db.execute(
        f"{_GIVE} where unit = :unit and token = :token",
        {"unit": lease.unit, "token": lease.token},
    )


def want(db: Connection, moves: Mapping[str, UUID]) -> None:
    """Ask the holders of the units of *moves* to give them to those replicas."""
    db.execute(_WANT, {"units": list(moves), "replicas": list(moves.values())})


def leave(db: Connection, me: UUID) -> None:
    """Give back all that the replica *me* has, and remove it."""
    db.execute(f"{_GIVE} where holder = :me", {"me": me})
    db.execute("update request set taken_by = null where taken_by = :me", {"me": me})
    _forget(db, "id = :me", {"me": me})


def tidy(db: Connection) -> None:
    """Remove the replicas that have long been dead, and the requests of commands that left."""
    long_ago = f"< clock_timestamp() - interval '{TIDY_MINUTES} minutes'"
    _forget(db, f"expires {long_ago}", {})
    db.execute(
        f"with gone as (delete from request where listens {long_ago} returning id) "  # noqa: S608
        "delete from answer a using gone where a.request = gone.id"
    )


def old_rows(db: Connection) -> int:
    """
    Return how many old versions of its rows one small table has at most.

    These tables are written all the time, and vacuumed each minute. So there are many only if the
    database must keep them, for a session that may still see the state as it was
    (pg_stat_user_tables, https://www.postgresql.org/docs/current/monitoring-stats.html).
    """
    row = db.execute(
        "select coalesce(max(n_dead_tup), 0) from pg_stat_user_tables "
        "where schemaname = current_schema() and n_live_tup < :small",
        {"small": SMALL_TABLE},
    ).fetchone()
    assert row is not None  # noqa: S101  # an aggregate
    return int(row[0])


def _forget(db: Connection, which: str, parameters: Mapping[str, Any]) -> None:
    db.execute(
        f"with gone as (delete from replica where {which} returning id) "  # noqa: S608
        "delete from writer w using gone where w.replica = gone.id",
        parameters,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _replica(row: Sequence[Any]) -> Replica:
    replica, name, version, started, beats, draining, serves, info, expires_in = row
    said = _INFO.decode(info)
    return Replica(
        id=replica,
        name=name,
        version=version,
        started=started,
        beats=beats,
        draining=draining,
        command=said.get("command") is True,
        serves=_SERVES.decode(serves),
        info=said,
        expires_in=expires_in,
    )
