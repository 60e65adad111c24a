"""The state directory: private, locked, and its database refused rather than replaced."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.clock import NOON
from tests.support.stores import opened

from auditrelay.errors import StateError
from auditrelay.store.sqlite import state_dir
from auditrelay.store.sqlite.schema import SCHEMA_VERSION
from auditrelay.store.sqlite.state_dir import DATABASE, connect, is_there, locked, prepare


async def test_the_state_directory_is_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    prepare(folder)
    await (await opened(folder)).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_overwriting(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)


def damage_by_replacing(path: Path) -> None:
    path.write_bytes(b"this is not a database\n" * 1000)


@pytest.mark.parametrize(
    "damage",
    [damage_by_emptying, damage_by_cutting, damage_by_overwriting, damage_by_replacing],
)
async def test_a_damaged_file_is_refused_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    await (await opened(tmp_path)).close()
    path = tmp_path / DATABASE
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StateError, match="damaged"):
        await opened(tmp_path)
    assert path.read_bytes() == before


async def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StateError, match="newer"):
        await opened(tmp_path)


async def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.execute("create table theirs (a)")
    with pytest.raises(StateError, match="is not an auditrelay database; not touched"):
        await opened(tmp_path)


async def test_a_lost_file_next_to_its_log_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / f"{DATABASE}-wal").write_bytes(b"x")
    with pytest.raises(StateError, match="missing"):
        await opened(tmp_path)


async def test_a_creation_that_was_cut_off_is_started_again(tmp_path: Path) -> None:
    cut_off = tmp_path / f"{DATABASE}.new"
    journal = tmp_path / f"{DATABASE}.new-journal"
    for path in (cut_off, journal):
        path.write_bytes(b"half")
    store = await opened(tmp_path)
    await store.start_sink("splunk", ["voice"])
    await store.close()
    assert not cut_off.exists()
    assert not journal.exists()
    with contextlib.closing(connect(tmp_path, write=False)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
    store = await opened(tmp_path)
    assert [state.name for state in await store.sinks()] == ["splunk"]
    await store.close()


def test_the_lock_says_since_when_it_is_held(tmp_path: Path) -> None:
    words = "auditrelay 1.0, process .* since 2026-01-01T12:00:00"
    with (
        locked(tmp_path, "1.0", NOON),
        pytest.raises(StateError, match=words),
        locked(tmp_path, "1.0", NOON),
    ):
        pass


@pytest.mark.process
def test_a_second_instance_names_the_process_that_has_the_lock(tmp_path: Path) -> None:
    child = (
        "import sys; from pathlib import Path\n"
        "from auditrelay.store.sqlite.state_dir import locked\n"
        "from auditrelay.clock import Clock\n"
        "with locked(Path(sys.argv[1]), '9.9', Clock().now()):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        words = f"auditrelay 9.9, process {holder.pid} on .* since"
        with pytest.raises(StateError, match=words), locked(tmp_path, "1.0", NOON):
            pass
        holder.stdin.close()
    with locked(tmp_path, "1.0", NOON):
        pass


# --- folders and files of others


ROOT, ANOTHER, US = 0, 4000, 4321
"""Users, by their numbers."""


@pytest.mark.parametrize(
    ("owner", "mode", "words"),
    [
        (ANOTHER, 0o700, "belongs to the user 4000, not to 4321"),
        (ANOTHER, 0o777, "belongs to the user 4000, not to 4321"),
        (ROOT, 0o777, "chmod o-w"),
        (ROOT, 0o770, None),
    ],
)
def test_a_state_directory_that_others_can_change_is_refused_and_left_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: int,
    mode: int,
    words: str | None,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    status = os.stat_result((0o40000 | mode, 0, 0, 1, owner, owner, 0, 0, 0, 0))
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(Path, "stat", lambda *_, **__: status)
        patch.setattr(os, "geteuid", lambda: US)
        if words is not None:
            stack.enter_context(pytest.raises(StateError, match=words))
        prepare(folder)
    assert folder.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["lock", "ballast", DATABASE])
async def test_no_link_in_it_is_followed(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "state"
    victim.write_bytes(b"precious")
    prepare(folder)
    (folder / name).symlink_to(victim)
    with contextlib.suppress(StateError):
        prepare(folder)
        with locked(folder, "0.1.0", NOON):
            await (await opened(folder)).close()
    assert victim.read_bytes() == b"precious"


# --- access, and other programs


def test_a_state_that_may_not_be_seen_is_an_error_and_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_there(tmp_path)
    assert not is_there(tmp_path / "nowhere")
    (tmp_path / DATABASE).touch()
    assert is_there(tmp_path)
    assert not is_there(tmp_path / DATABASE)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(StateError, match="cannot be read: Permission denied; run this as the user"):
        is_there(tmp_path)


def test_a_database_that_is_locked_or_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    locks = sqlite3.OperationalError("database is locked")
    locks.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
    denied = sqlite3.OperationalError("attempt to write a readonly database")
    denied.sqlite_errorcode = sqlite3.SQLITE_READONLY_DBMOVED
    path = tmp_path / DATABASE
    assert "locked by another program" in state_dir._unusable(path, locks)
    assert "check owner and mode" in state_dir._unusable(path, denied)
    assert "is damaged" in state_dir._unusable(path, sqlite3.DatabaseError("malformed"))
