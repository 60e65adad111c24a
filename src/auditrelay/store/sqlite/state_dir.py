"""The state directory: made, locked, and its database opened or refused, never replaced."""

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from auditrelay.errors import Locked, StateError
from auditrelay.store.sqlite import journal

DATABASE = "state.db"
_LOCK = "lock"
_BALLAST = "ballast"
_BALLAST_BYTES = 1 << 20
_APPLICATION_ID = 0x41524C59  # "ARLY", so that `file` and we know our own
_CHECK_UP_TO = 64 << 20  # bytes; checking every page of more would hold up the start

SCHEMA_VERSION = 2
_DEAD_LETTER = """
create table dead_letter (
    id integer primary key autoincrement,
    sink integer,                    -- null: it never came as far as a sink
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
    dropped integer                  -- when an operator gave it up; it stays as evidence
) strict;
create index dead_letter_sink on dead_letter (sink);
create index dead_letter_uid on dead_letter (uid);
"""
_SINCE_2 = """
create table journal (
    source integer not null,
    seq integer not null,
    recorded integer not null,
    what text not null,              -- covered, gap, filled, late or vanished
    start integer not null,
    end integer not null,
    reason text,                     -- of a gap
    via text not null,               -- who read it: poll, second look, backfill...
    events integer not null,
    digest blob not null,
    hash blob not null,              -- of the record before and of this one
    primary key (source, seq)
) strict, without rowid;
create table vanished (
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
_SCHEMA = """
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
    primary key (source, key)
) strict, without rowid;
create table spool (
    first integer primary key,       -- position of the page's first event
    count integer not null,
    source integer not null,
    stored integer not null,
    bytes integer not null,
    events blob not null,            -- deflated
    only integer                     -- the one sink that it is for; null: all that read the source
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
{_DEAD_LETTER}
insert into dead_letter select *, null, null from dead_letter_1;
drop table dead_letter_1;
{_SINCE_2}
insert into feed select sink.id, each.value, 0 from sink, json_each(sink.sources) as each;
""",  # noqa: S608  # constants
}
"""What leads from each older schema to the next."""


def prepare(state_dir: Path) -> None:
    """Make *state_dir*, for its owner only. Raises StateError."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = state_dir.stat()
        if mode.st_uid == os.geteuid() and mode.st_mode & 0o077:
            state_dir.chmod(0o700)
        if not os.access(state_dir, os.R_OK | os.W_OK | os.X_OK):
            raise StateError(f"the state directory {state_dir} cannot be read and written")
    except OSError as error:
        raise StateError(
            f"the state directory {state_dir} cannot be used: {error.strerror}"
        ) from error


@contextlib.contextmanager
def locked(state_dir: Path, version: str) -> Iterator[None]:
    """Hold *state_dir* for this process alone. Raises StateError that names who holds it."""
    path = state_dir / _LOCK
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"cannot open {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"the state directory {state_dir} is in use by {_holder(file)}; "
                "stop that instance first, or give this one its own state_dir"
            ) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version,
        }
        # On a full disk the lock still holds; only its label is missing.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(file)


def _holder(file: int) -> str:
    try:
        told = json.loads(os.pread(file, 4096, 0))
        return (
            f"auditrelay {told['version']}, process {told['pid']} on {told['host']}, "
            f"since {told['since']}"
        )
    except (ValueError, KeyError, TypeError):
        return "another process"


def create(state_dir: Path) -> None:
    """
    Make the database if there is none yet. Raises StateError.

    It is built beside its place and renamed into it, so that a half-made one never stands there,
    and an empty or damaged file in its place is always somebody's accident and never ours.
    """
    path = state_dir / DATABASE
    if path.exists():
        return
    if (state_dir / f"{DATABASE}-wal").exists():
        raise StateError(
            f"{path} is missing but its write-ahead log is there: restore the file from a backup, "
            "or move the log away to start anew (events since the last backup would be read again)"
        )
    made = state_dir / f"{DATABASE}.new"
    try:
        for leftover in (made, Path(f"{made}-journal")):
            leftover.unlink(missing_ok=True)
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as db:
            db.execute("pragma auto_vacuum = incremental")
            db.executescript(f"begin; {_SCHEMA} {_DEAD_LETTER} {_SINCE_2} commit;")
            db.execute(f"pragma application_id = {_APPLICATION_ID}")
            db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        made.rename(path)
        folder = os.open(state_dir, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"cannot create {path}: {error}") from error


def connect(state_dir: Path, *, write: bool) -> sqlite3.Connection:
    """Open the database for one thread. Raises StateError if it is damaged, newer, or not ours."""
    path = state_dir / DATABASE
    try:
        if path.stat().st_size == 0:
            raise StateError(_damaged(path, "it is empty"))
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=10,
            check_same_thread=False,
        )
    except FileNotFoundError:
        raise StateError(f"there is no state in {state_dir} yet") from None
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"cannot open {path}: {error}") from error
    try:
        _recognise(db, path, write=write)
        db.execute(f"pragma query_only = {0 if write else 1}")
        if write:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            _examine(db, path)
            _upgrade(db)
    except sqlite3.DatabaseError as error:
        db.close()
        raise StateError(_damaged(path, str(error))) from error
    except StateError:
        db.close()
        raise
    return db


def _recognise(db: sqlite3.Connection, path: Path, *, write: bool) -> None:
    (application,) = db.execute("pragma application_id").fetchone()
    if application != _APPLICATION_ID:
        raise StateError(f"{path} is a database, but not one of auditrelay; it is left alone")
    version = _version(db)
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by a newer auditrelay (schema {version}; this one understands "
            f"{SCHEMA_VERSION}); it is left alone: install the newer version again"
        )
    if version < SCHEMA_VERSION and not write:
        raise StateError(
            f"{path} was written by an older auditrelay; it is brought up to date when the service "
            "starts the next time: auditrelay run"
        )


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("pragma user_version").fetchone()[0]
    return version


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring an older schema up to date, all of it or nothing."""
    version = _version(db)
    if version == SCHEMA_VERSION:
        return
    db.execute("begin immediate")
    for step in range(version, SCHEMA_VERSION):
        for statement in _UPGRADES[step].split(";\n"):
            db.execute(statement)
    if version < 2:
        journal.take_over(db)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    db.execute("commit")


def _examine(db: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > _CHECK_UP_TO:
        return
    (verdict,) = db.execute("pragma quick_check(1)").fetchone()
    if verdict != "ok":
        raise StateError(_damaged(path, verdict))


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged ({why}); it is left as it is. Restore it from a backup, or move it "
        "away to start anew: what it held undelivered would be read again as far back as "
        "initial_lookback"
    )


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def take_ballast(state_dir: Path) -> bool:
    """
    Reserve some room on the disk; return whether there was room for it.

    When the disk is full, giving it back lets positions still be written, so that delivery goes
    on and pruning can make room.
    """
    path = state_dir / _BALLAST
    try:
        if path.exists() and path.stat().st_size == _BALLAST_BYTES:
            return True
        with open(path, "wb", opener=_for_owner) as file:
            file.write(b"\0" * _BALLAST_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def drop_ballast(state_dir: Path) -> None:
    """Give the reserved room back."""
    (state_dir / _BALLAST).unlink(missing_ok=True)
