"""The tables of the state, and the upgrade from older schemas."""

import sqlite3

from auditrelay.store.sqlite import journal
from auditrelay.store.sqlite.uids import log_known

SCHEMA_VERSION = 3

DEAD_LETTER = """
create table dead_letter (
    id integer primary key autoincrement,
    sink integer,                    -- null: rejected before any sink
    source text not null,
    uid text not null,
    native_id text,
    reason text not null,
    status integer,
    message text not null,
    attempts integer not null,
    first_at integer not null,
    last_at integer not null,
    event blob not null,             -- empty once it was dropped
    replayed integer,                -- its position in the spool while it is sent again
    dropped integer                  -- when an operator discarded it; it stays as evidence
) strict;
create index dead_letter_sink on dead_letter (sink);
create index dead_letter_uid on dead_letter (uid);
"""

SINCE_2 = """
create table journal (
    source integer not null,
    seq integer not null,
    recorded integer not null,
    what text not null,              -- as in store.journal.Record
    start integer not null,
    end integer not null,
    reason text,                     -- of a gap
    via text not null,               -- kind of read: poll, resweep 1h, backfill...
    events integer not null,
    digest blob not null,
    hash blob not null,              -- of the record before and of this one
    primary key (source, seq)
) strict, without rowid;
create table vanished (              -- events deleted at source, under the name that states have
    source integer not null,
    key blob not null,               -- as in known
    noted integer not null,
    primary key (source, key)
) strict, without rowid;
create table lateness (
    source integer not null,
    via text not null,
    seconds integer not null,        -- upper bound of the bucket
    events integer not null,
    primary key (source, via, seconds)
) strict, without rowid;
create table parcel (
    source integer not null,
    key blob not null,               -- digest of its content
    name text not null,
    recorded integer not null,
    primary key (source, key)
) strict, without rowid;
create table feed (
    sink integer not null,
    source text not null,
    since integer not null,          -- position from which on the sink receives the source
    primary key (sink, source)
) strict, without rowid;
create table backfill (
    id integer primary key,
    source integer not null,
    sinks text not null,             -- JSON list of the sinks that it is for; empty: all
    start integer not null,
    end integer not null,
    began integer not null,
    ended integer
) strict;
create table backfill_part (
    backfill integer not null,
    start integer not null,
    end integer not null,
    events integer not null,
    new integer not null,
    primary key (backfill, start)
) strict, without rowid;
"""

SINCE_3 = """
create table uid_log (
    id integer primary key,
    source integer not null,
    newest integer not null,         -- of times
    uids blob not null,              -- the first 8 bytes of each
    times blob not null              -- of each the 8 bytes that its key in known begins with
) strict;
create index uid_log_source on uid_log (source);
"""

SCHEMA = """
create table meta (name text primary key, value any) strict, without rowid;
create table source (
    id integer primary key,
    name text not null unique,
    started integer not null,        -- microseconds since 1970, like every time here
    condition text not null default '{}',
    head blob                        -- hash of the last record of its journal
) strict;
create table coverage (
    source integer not null,
    start integer not null,
    end integer not null,
    gap text,                        -- null: covered
    events integer not null default 0,
    digest blob not null,
    recorded integer not null,
    primary key (source, start)
) strict, without rowid;
create table resweep (
    source integer not null,
    delay integer not null,
    until integer not null,
    primary key (source, delay)
) strict, without rowid;
create table known (
    source integer not null,
    key blob not null,               -- 8 bytes of event time, big-endian, then 20 of uid
    position integer not null,
    digest blob,                     -- 8 bytes of that of the raw record; null: from schema 2
    primary key (source, key)
) strict, without rowid;
create table spool (
    first integer primary key,       -- position of the page's first event
    count integer not null,
    source integer not null,
    stored integer not null,
    bytes integer not null,
    events blob not null,            -- deflated
    only integer,                    -- the one sink that it is for; null: all that read the source
    sha blob,                        -- room for what proves the page
    tag blob
) strict;
create table sink (
    id integer primary key,
    name text not null unique,
    sources text not null,           -- JSON list of source names
    position integer not null,
    ahead text not null default '[]',
    ends integer,                    -- no longer configured since this position; null: it is
    condition text not null default '{}'
) strict;
insert into meta values ('next_position', 0), ('spool_bytes', 0);
"""

_UPGRADES = {
    1: f"""
alter table source add column head blob;
alter table spool add column only integer;
alter table dead_letter rename to dead_letter_1;
drop index dead_letter_sink;
{DEAD_LETTER}
insert into dead_letter select *, null, null from dead_letter_1;
drop table dead_letter_1;
{SINCE_2}
insert into feed select sink.id, each.value, 0 from sink, json_each(sink.sources) as each;
""",  # noqa: S608  # constants
    2: f"""
alter table known add column digest blob;
alter table spool add column sha blob;
alter table spool add column tag blob;
{SINCE_3}
""",
}
"""The statements that upgrade each older schema to the next one."""


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of the schema that *db* has."""
    version: int = db.execute("pragma user_version").fetchone()[0]
    return version


def upgrade(db: sqlite3.Connection) -> None:
    """Upgrade an older schema to SCHEMA_VERSION in one transaction."""
    version = version_of(db)
    if version == SCHEMA_VERSION:
        return
    db.execute("begin immediate")
    for step in range(version, SCHEMA_VERSION):
        for statement in _UPGRADES[step].split(";\n"):
            db.execute(statement)
    if version < 2:
        journal.import_ledger(db)
    if version < 3:
        log_known(db)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    db.execute("commit")
