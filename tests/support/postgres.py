"""
A PostgreSQL server of the tests' own, on loopback, and a database on it for each test.

tests/README.md says how to get one. A test that uses a fixture of this module is marked
``process``.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import quote, urlencode

import psycopg
import pytest
from tests.support.guarded import HOST, OWNER, Guarded, living

VARIABLE = "TEST_POSTGRES"
"""
A folder with PostgreSQL's programs, or ``required``: without a server the tests fail.

It does not begin like the variables of auditrelay, which refuses those that it does not know.
"""

REQUIRED = "required"

_SETTINGS = {
    "listen_addresses": HOST,
    # Shared memory in files of its folder goes with the folder, even after kill -9.
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    "max_wal_size": "256MB",  # the folder may be in memory
    "autovacuum": "off",  # a database lives for a second
    "timezone": "UTC",
}
_LOCK = "data/postmaster.pid"
_SERVING = ("ready", "standby")
_NO_SYNC = {"fsync": "off", "full_page_writes": "off"}


def programs() -> Path | None:
    """Return the folder with PostgreSQL's programs, or None: there are none here."""
    named = os.environ.get(VARIABLE, "")
    if named not in ("", REQUIRED):
        assert Path(named, "postgres").exists(), f"{VARIABLE}={named}: no program postgres in there"
        return Path(named)
    versions = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    if shutil.which("pg_config"):
        asked = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=True
        )
        folder = Path(asked.stdout.strip())
        return folder if (folder / "postgres").exists() else None
    return None


def absent(what: str) -> NoReturn:
    """Skip this test for want of *what*, or fail it where PostgreSQL is required."""
    say = f"there is no {what} here (tests/README.md says how to get it)"
    if os.environ.get(VARIABLE) == REQUIRED:
        pytest.fail(f"{say}, and {VARIABLE}={REQUIRED}", pytrace=False)
    pytest.skip(say)


class Server:
    """
    A cluster with its server: UTF-8, locale C, superuser ``postgres``.

    ``fsync`` is for tests of what a machine's crash leaves: a process that is killed loses nothing
    without it. With a *password* it is asked for (SCRAM), otherwise all clients are trusted.
    *settings* are those of ``postgresql.conf``.
    """

    def __init__(
        self,
        programs: Path,
        *,
        fsync: bool = False,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.programs = programs
        self.password = password
        self._guarded = Guarded("pg", lock=_LOCK, end=signal.SIGQUIT)
        self._templates: dict[Callable[[str], object], str] = {}
        self._images = itertools.count(1)
        self._names = (f"t{number}" for number in itertools.count(1))
        self._own: psycopg.Connection[Any] | None = None
        try:
            self._make({**_SETTINGS, **({} if fsync else _NO_SYNC), **(settings or {})})
            self.start()
        except BaseException:
            self.close()
            raise

    def _make(self, settings: Mapping[str, str]) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password or "")
        self._guarded.own(secret)
        self._guarded.run(
            [
                *(str(self.programs / "initdb"), "--pgdata", str(self._data), "--username", OWNER),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--wal-segsize", "4"),
                *("--auth", "trust" if self.password is None else "scram-sha-256"),
                *(() if self.password is None else ("--pwfile", str(secret))),
            ]
        )
        lines = {**settings, "unix_socket_directories": str(self.folder)}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in lines.items())

    @property
    def folder(self) -> Path:
        """The folder of its data, of its log, and of its Unix socket."""
        return self._guarded.folder

    @property
    def port(self) -> int:
        """The port on loopback; it stays the same from the first start on."""
        return self._guarded.port

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    # --- running -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it serves."""
        program = str(self.programs / "postgres")
        self._guarded.start(
            lambda port: [program, "-D", str(self._data), "-p", str(port)], self._serves
        )

    def _serves(self, pid: int) -> bool:
        """Read what ``pg_ctl --wait`` does: the server's own word, in the file of its lock."""
        try:
            lines = (self.folder / _LOCK).read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in _SERVING

    def stop(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """
        Stop the server as ``pg_ctl stop --mode`` does.

        ``smart`` waits for the clients to go, ``fast`` breaks their connections, ``immediate``
        leaves the rest to the recovery at the next start.
        """
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how]
        self._leave()
        self._guarded.stop(number)

    def restart(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again, on the same port."""
        self.stop(how)
        self.start()

    def kill(self) -> None:
        """Kill the server and all of its processes with SIGKILL; afterwards they are gone."""
        if self._guarded.process is None:
            return
        self._leave()
        # Stopped, it does not see one die, nor begin another.
        self._guarded.process.send_signal(signal.SIGSTOP)
        pids = self.pids()
        for pid in pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._guarded.stop(signal.SIGKILL)
        while living(pids):
            time.sleep(0.01)
        # What a crash leaves, and the next start would clear away: the few bytes of System V's
        # shared memory, which outlive the folder, and a process id that may soon be another's.
        lock = self.folder / _LOCK
        segment = lock.read_text().splitlines()[6].split()[-1]
        subprocess.run(["ipcrm", "-m", segment], capture_output=True, check=False)
        lock.unlink()

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        """Let no process of the server do anything for the block."""
        assert self._guarded.process is not None
        # Stopped, it does not begin another one.
        self._guarded.process.send_signal(signal.SIGSTOP)
        pids = self.pids()
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def image(self) -> Path:
        """
        Copy the cluster as it is on the disk at this moment, and return the folder.

        To its clients it is what a standby has that took over at this moment; see :meth:`restore`.
        """
        image = self.folder / f"image-{next(self._images)}"
        with self._stopped():
            subprocess.run(["cp", "-a", str(self._data), str(image)], check=True)
        (image / "postmaster.pid").unlink()
        return image

    def restore(self, image: Path) -> None:
        """Let the cluster of *image* take over from this one at once, on the same port."""
        self.kill()
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", str(image), str(self._data)], check=True)
        self.start()

    def pids(self) -> list[int]:
        """Return the process ids of the server and of its children, which serve its clients."""
        if self._guarded.process is None:
            return []
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        parent = self._guarded.process.pid
        return [parent, *(pid for pid, of in pairs if of == parent)]

    def log(self) -> str:
        """Return what the server has logged."""
        return self._guarded.log()

    def close(self) -> None:
        """End the server at once and remove its folder."""
        self._leave()
        self._guarded.close()

    # --- databases ---------------------------------------------------------------------------

    def address(self, database: str = OWNER, **options: str) -> str:
        """Return the URL of *database*, with libpq's *options* in its query."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{OWNER}{secret}@{HOST}:{self.port}/{database}{query}"

    def execute(
        self, sql: str, parameters: tuple[Any, ...] | None = None, *, database: str = OWNER
    ) -> list[tuple[Any, ...]]:
        """
        Execute *sql*, each statement by itself, and return the rows.

        Without *parameters* (``%s``) it may be several statements; the rows are those of the first.
        """
        if database != OWNER:
            with psycopg.connect(self.address(database), autocommit=True) as connection:
                return self._executed(connection, sql, parameters)
        try:
            return self._executed(self._kept(), sql, parameters)
        except psycopg.OperationalError:
            if self._own is None or not self._own.broken:
                raise
            # A test has ended all sessions.
            return self._executed(self._kept(), sql, parameters)

    @staticmethod
    def _executed(
        connection: psycopg.Connection[Any], sql: str, parameters: tuple[Any, ...] | None
    ) -> list[tuple[Any, ...]]:
        cursor = connection.execute(sql.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _kept(self) -> psycopg.Connection[Any]:
        """Return the connection that creates and drops databases: one for each would cost more."""
        if self._own is None or self._own.closed:
            self._own = psycopg.connect(self.address(), autocommit=True, prepare_threshold=None)
        return self._own

    def _leave(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def create(self, prepare: Callable[[str], object] | None = None) -> str:
        """
        Create a database and return its name.

        *prepare* gets the URL of an empty database and puts into it what all databases that are
        created with the same function shall have. It is called once and must leave no connection
        open: the others are copies.
        """
        template = "template1"
        if prepare is not None:
            if prepare not in self._templates:
                made = self.create()
                prepare(self.address(made))
                self._templates[prepare] = made
            template = self._templates[prepare]
        return self.copy(template)

    def copy(self, database: str) -> str:
        """
        Create a copy of *database*, which has no connections, and return its name.

        To its clients it is what a standby has that takes over at this moment.
        """
        name = next(self._names)
        self.execute(f'create database "{name}" template "{database}" strategy file_copy')
        return name

    def drop(self, database: str) -> None:
        """Drop *database* and break the connections to it."""
        self.execute(f'drop database if exists "{database}" with (force)')


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server of this worker. A test that stops it starts it again: others share it."""
    found = programs()
    if found is None:
        absent("PostgreSQL")
    server = Server(found)
    yield server
    server.close()


@pytest.fixture
def prepare() -> Callable[[str], object] | None:
    """What fills a database before a test gets it; nothing, unless a folder overrides it."""
    return None


@pytest.fixture
def database(
    request: pytest.FixtureRequest, prepare: Callable[[str], object] | None
) -> Iterator[str]:
    """The URL of a database that only this test has."""
    # Asked for here, as the fixture of a session may have been set up for another test.
    assert request.node.get_closest_marker("process"), "a test with a database is marked `process`"
    server: Server = request.getfixturevalue("postgres")
    name = server.create(prepare)
    yield server.address(name)
    server.drop(name)
