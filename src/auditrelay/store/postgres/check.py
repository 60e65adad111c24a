"""What ``auditrelay check`` asks the shared database: what rules it out, and what is a risk."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import psycopg
from psycopg.sql import SQL, Identifier

from auditrelay.clock import Clock
from auditrelay.errors import RelayError, StateError
from auditrelay.store.postgres import schema
from auditrelay.store.postgres.address import Address
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.errors import translate
from auditrelay.telemetry import humanize

CONNECTIONS: Final = 7
"""The most connections of one replica."""

_ROUND_TRIPS: Final = 5
_SLOW: Final = 2.0
"""Seconds: a fifth of what a replica is given to live between two beats."""
_CLOCK: Final = timedelta(seconds=30)
_OLD: Final = timedelta(hours=1)

_DML: Final = ("select", "insert", "update", "delete")

_APPLICATION: Final = "auditrelay check"


@dataclass(frozen=True, slots=True)
class Checked:
    """
    What was found: *about* the database in a few words, why it cannot be used, and what is a risk.

    *refusals* and *risks* are sentences.
    """

    about: str
    refusals: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()


def check(address: Address, clock: Clock) -> Checked:
    """
    Ask the database at *address*, and change nothing. It blocks, for some round trips.

    Raises StateError if it cannot be reached.
    """
    try:
        with address.connect(_APPLICATION) as raw:
            return _check(raw, address, clock)
    except psycopg.Error as error:
        found = translate(error)
        if not isinstance(found, RelayError):
            found = StateError(f"{address.safe}: {' '.join(str(error).split())}")
        raise found from error


def _check(raw: psycopg.Connection[tuple[Any, ...]], address: Address, clock: Clock) -> Checked:
    database = _Database(raw, address)
    took = _round_trip(raw, clock)
    refusals = list(_unusable(database))
    if not refusals:
        refusals = list(_missing_rights(database))
    risks = [
        *_time(raw, clock, took),
        *_durability(database),
        *_pooler(database),
        *(() if refusals else _room(database)),  # it counts what is in a table
        *_old_snapshots(database),
    ]
    if not database.has_tables and not refusals:
        risks.append(
            f"there is no schema {address.schema} with the state yet: the first run makes it, or "
            "`auditrelay setup postgres`"
        )
    encrypted = "by TLS" if raw.pgconn.ssl_in_use else "without TLS, on this machine"
    about = f"PostgreSQL {database.release}, {encrypted}, {took * 1000:.1f} ms a round trip"
    if not refusals:
        refusals = list(_schema(database))  # the last: nothing else may use the connection now
    return Checked(about, tuple(refusals), tuple(risks))


class _Database:
    """The database that *raw* leads to, as the questions below need it."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]], address: Address) -> None:
        self.raw = raw
        self.address = address
        self.version, self.release = self.row(
            "select current_setting('server_version_num')::int, current_setting('server_version')"
        )
        # Of the catalog, which shows it also to a role that may not use the schema.
        (self.has_tables,) = self.row(
            "select exists (select from pg_class join pg_namespace n on n.oid = relnamespace"
            " where nspname = %s and relname = 'meta')",
            (address.schema,),
        )

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Return the one row that *sql* finds."""
        return self.rows(sql, parameters)[0]

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that *sql* finds."""
        return self.raw.execute(sql.encode(), parameters or None).fetchall()

    def setting(self, name: str) -> str:
        """Return a setting, as it is in a session of this role."""
        return cast("str", self.row("select current_setting(%s)", (name,))[0])


def _round_trip(raw: psycopg.Connection[Any], clock: Clock) -> float:
    """Return the shortest of some round trips, in seconds."""
    took = []
    for _ in range(_ROUND_TRIPS):
        began = clock.monotonic()
        raw.execute("select 1").fetchone()
        took.append(clock.monotonic() - began)
    return min(took)


# -- what rules it out -----------------------------------------------------------------------------


def _unusable(database: _Database) -> Iterator[str]:
    oldest = schema.OLDEST_SERVER // 10000
    if database.version < schema.OLDEST_SERVER:
        yield f"PostgreSQL {database.release} is too old: {oldest} or newer is needed"
    encoding = database.setting("server_encoding")
    if encoding != "UTF8":
        yield (
            f"the database has the encoding {encoding}: create one with encoding 'UTF8' "
            "template template0"
        )


def _missing_rights(database: _Database) -> Iterator[str]:
    name = database.address.schema
    role, may_create = database.row(
        "select current_user, has_database_privilege(current_database(), 'create')"
    )
    setup = "run `auditrelay setup postgres` with the address of its owner in AUDITRELAY_STORE"
    if not database.has_tables:
        found = database.rows(
            "select has_schema_privilege(oid, 'create') from pg_namespace where nspname = %s",
            (name,),
        )
        if not (found[0][0] if found else may_create):
            yield (
                f"there is no schema {name} with the state, and the role {role} may not make it: "
                f"{setup}"
            )
        return
    (usage,) = database.row("select has_schema_privilege(%s, 'usage')", (name,))
    missing = [] if usage else [f"usage on the schema {name}"]
    for right in _DML:
        tables = database.rows(
            "select relname from pg_class join pg_namespace n on n.oid = relnamespace"
            " where nspname = %s and relkind in ('r', 'p') and not has_table_privilege("
            "pg_class.oid, %s) order by 1",
            (name, right),
        )
        if tables:
            missing.append(f"{right} on {_some([table for (table,) in tables])}")
    functions = database.rows(
        "select proname from pg_proc join pg_namespace n on n.oid = pronamespace"
        " where nspname = %s and not has_function_privilege(pg_proc.oid, 'execute') order by 1",
        (name,),
    )
    if functions:
        missing.append(f"execute on {_some([function for (function,) in functions])}")
    if missing:
        yield f"the role {role} lacks {'; '.join(missing)}: the owner grants it (docs/postgres.md)"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _schema(database: _Database) -> Iterator[str]:
    """Yield why this version cannot use the schema, asked for as the service asks."""
    if database.has_tables:
        try:
            schema.verify(Connection(database.raw, database.address.schema))
        except StateError as error:
            yield str(error)


# -- what is a risk --------------------------------------------------------------------------------


def _time(raw: psycopg.Connection[Any], clock: Clock, took: float) -> Iterator[str]:
    found = raw.execute("select clock_timestamp()").fetchone()
    ours = clock.now() - timedelta(seconds=took / 2)
    off = (found[0] if found else ours) - ours
    if abs(off) > _CLOCK:
        yield (
            f"the clock of the database is {abs(off).total_seconds():.0f} s "
            f"{'ahead of' if off > timedelta(0) else 'behind'} this one's: keep both right (NTP)"
        )
    if took > _SLOW:
        yield f"a round trip takes {took:.1f} s: replicas may take each other for dead"


def _durability(database: _Database) -> Iterator[str]:
    for name in ("fsync", "full_page_writes"):
        if database.setting(name) == "off":
            yield f"{name} is off: a crash of its machine may damage the database, or lose commits"
    if database.setting("synchronous_commit") == "off":
        yield "synchronous_commit is off: each of our transactions sets it on for itself"
    (standbys,) = database.row("select count(*) from pg_stat_replication")
    if standbys and not database.setting("synchronous_standby_names").strip():
        yield (
            "there is a standby, and synchronous_standby_names is empty: a failover may repeat "
            "what was delivered in the last moments before it"
        )


def _pooler(database: _Database) -> Iterator[str]:
    (backend,) = database.row("select pg_backend_pid()")
    # A pooler tells its clients the ids of its own, since they may get another server process.
    if backend != database.raw.info.backend_pid:
        yield (
            "there is a pooler in between (such as PgBouncer): it must pool by session or by "
            f"transaction, never by statement, and allow {CONNECTIONS} connections a replica"
        )


_LIMITS: Final = {
    "the server": (
        "select current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true)::int, 0),"
        " count(*) from pg_stat_activity where usesysid is not null"
    ),
    "the role": (
        "select rolconnlimit, (select count(*) from pg_stat_activity where usesysid = pg_roles.oid)"
        " from pg_roles where rolname = current_user"
    ),
    "the database": (
        "select datconnlimit, (select count(*) from pg_stat_activity where datid = pg_database.oid"
        " and usesysid is not null) from pg_database where datname = current_database()"
    ),
}
"""By whose limit it is: the SQL for that limit, -1 for none, and the connections that count."""


def _room(database: _Database) -> Iterator[str]:
    replicas, held = _replicas(database)
    wanted = CONNECTIONS * replicas - held
    for whose, sql in _LIMITS.items():
        limit, used = database.row(sql)
        free = limit - used + 1  # this one ends
        if limit >= 0 and free < wanted:
            yield (
                f"{whose} has room for {humanize.count(max(0, free), 'more connection')}, and "
                f"{humanize.count(replicas, 'replica')} may need {wanted} more: raise its limit, "
                f"to leave {CONNECTIONS} for each replica"
            )


def _replicas(database: _Database) -> tuple[int, int]:
    """Return how many replicas there are, at least one, and how many connections they have."""
    if not database.has_tables:
        return 1, 0
    found = database.raw.execute(
        SQL("select count(*) from {}.replica where expires > clock_timestamp()").format(
            Identifier(database.address.schema)
        )
    ).fetchone()
    (held,) = database.row(
        "select count(*) from pg_stat_activity where usename = current_user and datname ="
        " current_database() and application_name like 'auditrelay%%' and pid <> pg_backend_pid()"
        " and application_name <> %s",
        (_APPLICATION,),
    )
    return max(1, found[0] if found else 1), int(held)


def _old_snapshots(database: _Database) -> Iterator[str]:
    """Yield what keeps the server from clearing away old rows. Others' sessions may be unseen."""
    advice = "old rows cannot be cleared away meanwhile, and every write becomes slower"
    old = database.rows(
        "select pid, usename from pg_stat_activity where backend_xmin is not null"
        " and pid <> pg_backend_pid()"
        " and xact_start < clock_timestamp() - %s order by xact_start",
        (_OLD,),
    )
    for pid, user in old[:1]:
        yield (
            f"a transaction of {user} (process {pid}) has been open for more than an hour: {advice}"
        )
    prepared = database.rows(
        "select gid from pg_prepared_xacts where prepared < clock_timestamp()"
        " - %s order by prepared",
        (_OLD,),
    )
    for (gid,) in prepared[:1]:
        yield f"the transaction {gid} was prepared more than an hour ago, and is open: {advice}"
    slots = database.rows(
        "select slot_name from pg_replication_slots where not active"
        " and coalesce(xmin, catalog_xmin) is not null order by 1"
    )
    for (slot,) in slots[:1]:
        yield f"the replication slot {slot} is not in use, and still holds its place: {advice}"
