"""States as older versions wrote them, made of one that the present version has written."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Final

from auditrelay.store.sqlite import schema
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.state_dir import DATABASE
from auditrelay.store.sqlite.tip import TIP

SCHEMA_1: Final = """
create table meta (name text primary key, value any) strict, without rowid;
create table source (
    id integer primary key,
    name text not null unique,
    started integer not null,
    condition text not null default '{}'
) strict;
create table coverage (
    source integer not null,
    start integer not null,
    end integer not null,
    gap text,
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
    key blob not null,
    position integer not null,
    primary key (source, key)
) strict, without rowid;
create table spool (
    first integer primary key,
    count integer not null,
    source integer not null,
    stored integer not null,
    bytes integer not null,
    events blob not null
) strict;
create table sink (
    id integer primary key,
    name text not null unique,
    sources text not null,
    position integer not null,
    ahead text not null default '[]',
    ends integer,
    condition text not null default '{}'
) strict;
create table dead_letter (
    id integer primary key autoincrement,
    sink integer not null,
    source text not null,
    uid text not null,
    native_id text,
    reason text not null,
    status integer,
    message text not null,
    attempts integer not null,
    first_at integer not null,
    last_at integer not null,
    event blob not null
) strict;
create index dead_letter_sink on dead_letter (sink);
insert into meta values ('next_position', 0), ('spool_bytes', 0);
"""

_OF_THE_LEDGER: Final = ("covered", "gap", "filled", "reopened", "retracted")

_FIRST_ONLY_HAD: Final = {
    "dead_letter": "sink is not null and replayed is null and dropped is null",
    "spool": "only is null",
}
"""What the first schema could express of these tables."""


def make_older(folder: Path, version: int) -> None:
    """
    Make the state in *folder*, of which nothing was sealed, one of the schema *version*, 1 to 3.

    It has the same sources, sinks and events, as far as that schema can say so, and a journal in
    place of facts; what else the evidence consists of is gone. In the first one there is no record
    that was put aside.
    """
    older = folder / "older.db"
    with contextlib.closing(sqlite3.connect(older, isolation_level=None, factory=Connection)) as db:
        db.executescript(f"pragma auto_vacuum = incremental; {SCHEMA_1}")
        db.execute("pragma application_id = 0x41524C59")
        for step in range(1, version):
            schema._run(db, schema._UPGRADES[step])
        db.execute(f"pragma user_version = {version}")
        db.execute("attach ? as new", (str(folder / DATABASE),))
        for table in _tables(db, "main"):
            if table in _tables(db, "new") and table != "meta":
                _copy(db, table, version)
        db.execute(
            "insert or replace into main.meta select * from new.meta where name = 'next_position'"
        )
        db.execute(  # of the pages that it has
            "insert or replace into main.meta "
            "select 'spool_bytes', coalesce(sum(bytes), 0) from main.spool"
        )
        if version > 1:
            _write_journal(db)
    for suffix in ("-wal", "-shm"):
        folder.joinpath(DATABASE + suffix).unlink(missing_ok=True)
    older.chmod(0o600)
    older.replace(folder / DATABASE)
    (folder / TIP).unlink(missing_ok=True)


def _copy(db: Connection, table: str, version: int) -> None:
    wanted, there = _columns(db, "main", table), _columns(db, "new", table)
    columns = [each for each in wanted if each in there]
    values = list(columns)
    if table == "coverage":
        columns, values = [*columns, "digest"], [*values, "zeroblob(20)"]
    where = _FIRST_ONLY_HAD.get(table, "true") if version == 1 else "true"
    db.execute(
        f"insert into main.{table} ({', '.join(columns)}) "  # names of ours
        f"select {', '.join(values)} from new.{table} where {where}"
    )


def _write_journal(db: Connection) -> None:
    """Write the records that an older version would have: what became of the ledger."""
    for owner, name in db.execute("select id, name from source").fetchall():
        rows = db.execute("select at, text from new.fact where unit = ?", (f"source {name}",))
        bodies = [(at, json.loads(text)) for at, text in rows]
        records = [each for each in bodies if each[1]["fact"] in _OF_THE_LEDGER]
        for seq, (at, body) in enumerate(records, 1):
            span = body["start"], body["end"]
            db.execute(
                "insert into journal values (?, ?, ?, ?, ?, ?, ?, ?, 0, zeroblob(20), "
                "zeroblob(32))",
                (owner, seq, at, body["fact"], *span, body.get("reason"), body.get("via", "poll")),
            )


def _tables(db: Connection, which: str) -> set[str]:
    rows = db.execute(
        f"select name from {which}.sqlite_schema where type = 'table' "  # main or new
        "and name not like 'sqlite_%'"
    )
    return {name for (name,) in rows}


def _columns(db: Connection, which: str, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"pragma {which}.table_info({table})")]
