"""The state directory: create and lock it, open its database or refuse it, never replace it."""

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from auditrelay.errors import Locked, StateError, StoreFull
from auditrelay.evidence.heads import Keys
from auditrelay.files import open_regular
from auditrelay.store.sql.branches import begin_log
from auditrelay.store.sqlite.connection import Connection
from auditrelay.store.sqlite.schema import (
    DEAD_LETTER,
    SCHEMA,
    SCHEMA_VERSION,
    SINCE_2,
    SINCE_3,
    SINCE_4,
    upgrade,
    version_of,
)
from auditrelay.store.sqlite.writer import is_busy, translate

DATABASE = "state.db"

_LOCK = "lock"

_APPLICATION_ID = 0x41524C59  # "ARLY": identifies the file to `file` and to us

_NO_ACCESS = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}

_LOG_BYTES = 8 << 20

_CHECK_UP_TO = 64 << 20  # bytes; checking all pages of a larger file would delay the start


def prepare(state_dir: Path) -> None:
    """
    Create *state_dir*, private to its owner.

    Raises StateError if it cannot be used, or if another user could change what is in it. It may
    belong to root: that is how a volume is mounted for a container.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = state_dir.stat()
        if status.st_uid not in (os.geteuid(), 0):
            raise StateError(
                f"the state directory {state_dir} belongs to the user {status.st_uid}, not to "
                f"{os.geteuid()}, as which this runs: run it as that user, or chown the directory"
            )
        if status.st_uid == os.geteuid():
            if status.st_mode & 0o077:
                state_dir.chmod(0o700)
        elif status.st_mode & stat.S_IWOTH:
            raise StateError(
                f"every user of this machine can write to the state directory {state_dir}: "
                f"chmod o-w {state_dir}"
            )
        if (state_dir / DATABASE).is_symlink():
            raise StateError(f"{state_dir / DATABASE} is a link: put the file itself there")
        if not os.access(state_dir, os.R_OK | os.W_OK | os.X_OK):
            raise StateError(f"the state directory {state_dir} cannot be read and written")
    except OSError as error:
        raise StateError(
            f"the state directory {state_dir} cannot be used: {error.strerror}"
        ) from error


def is_there(state_dir: Path) -> bool:
    """Return whether there is a state in *state_dir*. Raises StateError if that cannot be seen."""
    try:
        (state_dir / DATABASE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StateError(
            f"the state in {state_dir} cannot be read: {error.strerror}; run this as the user that "
            "the service runs as, or as root"
        ) from error
    return True


@contextlib.contextmanager
def locked(state_dir: Path, version: str, now: datetime) -> Iterator[None]:
    """
    Lock *state_dir* for this process, which is of *version*, since *now*.

    Raises Locked, naming the process that has the lock.
    """
    path = state_dir / _LOCK
    try:
        file = open_regular(path, os.O_RDWR | os.O_CREAT, follow=False)
    except OSError as error:
        raise StateError(f"cannot open {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"the state directory {state_dir} is in use by {_owner(file)}; "
                "stop that instance first, or give this one its own state_dir"
            ) from None
        label = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": now.isoformat(timespec="seconds"),
            "version": version,
        }
        # On a full disk the lock works all the same; only its label is missing.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(label).encode(), 0)
        yield
    finally:
        os.close(file)


def seat(state_dir: Path) -> str:
    """
    Return what names the lock of *state_dir*, which is locked, on this run of this machine.

    Raises StateError.
    """
    try:
        found = (state_dir / _LOCK).stat()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError as error:
        raise StateError(f"cannot read the lock of {state_dir}: {error.strerror}") from error
    return f"{boot}:{found.st_dev}:{found.st_ino}"


def _owner(file: int) -> str:
    try:
        label = json.loads(os.pread(file, 4096, 0))
        return (
            f"auditrelay {label['version']}, process {label['pid']} on {label['host']}, "
            f"since {label['since']}"
        )
    except (ValueError, KeyError, TypeError):
        return "another process"


def create(state_dir: Path) -> None:
    """
    Create the database if there is none yet. Raises StateError.

    It is built under another name and then renamed, so that the database is never half-made. An
    empty or damaged file under its name is therefore never our doing.
    """
    path = state_dir / DATABASE
    if path.exists():
        return
    if (state_dir / f"{DATABASE}-wal").exists():
        raise StateError(
            f"{path} is missing but its write-ahead log is there: restore the file from a backup, "
            "or move the log away to start from scratch (events since the last backup would be "
            "read again)"
        )
    made = state_dir / f"{DATABASE}.new"
    try:
        for unfinished in (made, Path(f"{made}-journal")):
            unfinished.unlink(missing_ok=True)
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(
            sqlite3.connect(made, isolation_level=None, factory=Connection)
        ) as db:
            db.execute("pragma auto_vacuum = incremental")
            db.executescript(f"begin; {SCHEMA} {DEAD_LETTER} {SINCE_2} {SINCE_3} {SINCE_4} commit;")
            begin_log(db)
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


def connect(state_dir: Path, *, write: bool, keys: Keys | None = None) -> Connection:
    """
    Open the database for one thread, and upgrade an older one if it is to *write*.

    With *keys* what is written is tagged, and what is read can be known from what is not ours.

    Raises StateError if it is damaged, newer, or not ours, or if the disk has no room to upgrade.
    """
    path = state_dir / DATABASE
    try:
        if path.stat().st_size == 0:
            raise StateError(_damaged(path, "it is empty"))
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=10,
            factory=Connection,
            check_same_thread=False,
        )
    except FileNotFoundError:
        raise StateError(f"there is no state in {state_dir} yet") from None
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"cannot open {path}: {error}") from error
    db.keys = keys
    try:
        _recognise(db, path, write=write)
        db.execute(f"pragma query_only = {0 if write else 1}")
        if write:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            # After a checkpoint the file of the log is cut to this; without, it stays as it was.
            db.execute(f"pragma journal_size_limit = {_LOG_BYTES}")
            _examine(db, path)
            upgrade(db)
    except sqlite3.DatabaseError as error:
        db.close()
        if isinstance(translate(error), StoreFull):
            raise StateError(
                f"the disk has no room to open {path} or to upgrade it ({error}); nothing was "
                "changed: make room and start again"
            ) from error
        raise StateError(_unusable(path, error)) from error
    except StateError:
        db.close()
        raise
    return db


def _recognise(db: Connection, path: Path, *, write: bool) -> None:
    (application,) = db.execute("pragma application_id").fetchone()
    if application != _APPLICATION_ID:
        raise StateError(f"{path} is not an auditrelay database; not touched")
    version = version_of(db)
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by a newer auditrelay (schema {version}; this one supports "
            f"{SCHEMA_VERSION}); not touched: install the newer version again"
        )
    if version < SCHEMA_VERSION and not write:
        raise StateError(
            f"{path} was written by an older auditrelay; the next start of the service upgrades "
            "it: auditrelay run"
        )


def _examine(db: Connection, path: Path) -> None:
    if path.stat().st_size > _CHECK_UP_TO:
        return
    (verdict,) = db.execute("pragma quick_check(1)").fetchone()
    if verdict != "ok":
        raise StateError(_damaged(path, verdict))


def _unusable(path: Path, error: sqlite3.DatabaseError) -> str:
    if is_busy(error):
        return f"{path} is locked by another program; not touched: end that program and start again"
    # The rest of the code says which access failed.
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_ACCESS:
        return (
            f"{path} cannot be read and written ({error}); not touched: check owner and mode of "
            "the file and its folder, and that the disk is not mounted read-only"
        )
    return _damaged(path, str(error))


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged ({why}); not touched. Restore it from a backup, or move it away to "
        "start from scratch: undelivered events would be read again as far back as "
        "initial_lookback"
    )
