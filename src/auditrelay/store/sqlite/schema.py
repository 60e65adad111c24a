"""The tables of the state, and the upgrade from older schemas."""

from auditrelay.store.sql.uids import log_known
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.taking_over import take_over

SCHEMA_VERSION = 4

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

_JOURNAL = """
create table journal (
    source integer not null,
    seq integer not null,
    recorded integer not null,
    what text not null,              -- covered, gap, filled, reopened, retracted, late, vanished
    start integer not null,
    end integer not null,
    reason text,                     -- of a gap
    via text not null,               -- kind of read: poll, resweep 1h, backfill...
    events integer not null,
    digest blob not null,
    hash blob not null,              -- of the record before and of this one
    primary key (source, seq)
) strict, without rowid;
"""
"""What the ledger had before there were facts; what is in it goes into a fact (``taken_over``)."""

SINCE_2 = """
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

SINCE_4 = """
create table fact (                  -- open: the next seal takes it
    id integer primary key,
    unit text not null,              -- source NAME, sink NAME, or instance
    at integer not null,
    text text not null,              -- as in evidence.facts
    tag blob
) strict;
create table entry (
    n integer primary key,           -- its index in the tree
    unit text not null,
    text text not null               -- the line: it is what is hashed, and never made again
) strict;
create index entry_unit on entry (unit);
create trigger entry_is_not_updated before update on entry begin select raise(abort, 'sealed'); end;
create trigger entry_is_not_deleted before delete on entry begin select raise(abort, 'sealed'); end;
create table head (
    size integer primary key,
    at integer not null,
    root blob not null,
    word text not null,
    place integer not null           -- of the event that tells of it
) strict;
create trigger head_is_not_updated before update on head begin select raise(abort, 'sealed'); end;
create trigger head_is_not_deleted before delete on head begin select raise(abort, 'sealed'); end;
create table late (                  -- where late events were found, by day, for the status page
    source integer not null,
    start integer not null,          -- of the ledger entry
    via text not null,
    day integer not null,
    end integer not null,
    recorded integer not null,
    events integer not null,
    primary key (source, start, via, day)
) strict, without rowid;
create table own_page (              -- a page whose uids are not known at their places: notices
    first integer primary key,       -- as in spool, which may have pruned it
    source integer not null,
    recorded integer not null,
    keys blob not null               -- as in known, joined
) strict;
alter table sink add column tag blob;
alter table feed add column tag blob;
alter table dead_letter add column tag blob;
"""

SCHEMA = """
create table meta (name text primary key, value any) strict, without rowid;
create table source (
    id integer primary key,
    name text not null unique,
    started integer not null,        -- microseconds since 1970, like every time here
    condition text not null default '{}'
) strict;
create table coverage (
    source integer not null,
    start integer not null,
    end integer not null,
    gap text,                        -- null: covered
    events integer not null default 0,
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
    sha blob,                        -- SHA-256 of the blob; null: from before schema 4
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
{_JOURNAL}
insert into journal select source, row_number() over (partition by source order by start),
  recorded, iif(gap is null, 'covered', 'gap'), start, end, gap, 'before the journal', events,
  digest, zeroblob(32) from coverage;
{SINCE_2}
insert into feed select sink.id, each.value, 0 from sink, json_each(sink.sources) as each;
""",  # noqa: S608  # constants
    2: f"""
alter table known add column digest blob;
alter table spool add column sha blob;
alter table spool add column tag blob;
{SINCE_3}
""",
    3: SINCE_4,
}
"""The statements that upgrade each older schema to the next one."""

_AFTER = """
drop table journal;
alter table source drop column head;
alter table coverage drop column digest;
"""
"""The statements that remove what was taken over."""


def version_of(db: Connection) -> int:
    """Return the version of the schema that *db* has."""
    version: int = db.execute("pragma user_version").fetchone()[0]
    return version


def upgrade(db: Connection) -> None:
    """Upgrade an older schema to SCHEMA_VERSION in one transaction."""
    version = version_of(db)
    if version == SCHEMA_VERSION:
        return
    db.execute("begin immediate")
    for step in range(version, SCHEMA_VERSION):
        _run(db, _UPGRADES[step])
    if version < 3:
        log_known(db)
    take_over(db, schema=version)
    _run(db, _AFTER)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    db.execute("commit")


def _run(db: Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        db.execute(statement)
