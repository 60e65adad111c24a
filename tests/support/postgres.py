"""
A PostgreSQL server of the tests' own, and a database on it for each test.

It runs on loopback, in a temporary folder, as the user ``postgres`` where the tests run as root,
whom PostgreSQL refuses. It ends with the tests and takes its folder along, however they end.
tests/README.md says how to get one. A test that uses a fixture of this module is marked
``process``.
"""

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import quote, urlencode

import psycopg
import pytest

VARIABLE = "TEST_POSTGRES"
"""
A folder with PostgreSQL's programs, or ``required``: without a server the tests fail.

It does not begin like the variables of auditrelay, which refuses those that it does not know.
"""

REQUIRED = "required"

HOST, OWNER = "127.0.0.1", "postgres"

PATIENCE = 60.0  # seconds; a start takes 0.1 and an initdb 1, on a machine with nothing else to do
_PAUSE = 0.01
_PORTS = range(20_000, 32_000)  # below those of outgoing connections, which could take it meanwhile

_SETTINGS = {
    "listen_addresses": HOST,
    # Shared memory in files of its folder goes with the folder, even after kill -9.
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    "timezone": "UTC",
}
_NO_SYNC = {"fsync": "off", "full_page_writes": "off"}

_GUARD = """
cat >/dev/null
if pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && [ -n "$pid" ]; then
  kill -QUIT "$pid"
  left=100
  while kill -0 "$pid" && [ $left -gt 0 ]; do sleep 0.05; left=$((left - 1)); done
  kill -KILL "$pid"
fi 2>/dev/null
rm -rf "$1"
"""
"""It waits for the end of its input: the tests have closed it, or ended, be it by kill -9."""


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


def as_owner() -> dict[str, Any]:
    """Return how :mod:`subprocess` starts a program that refuses root."""
    if os.geteuid() != 0:
        return {}
    return {"user": OWNER, "group": pwd.getpwnam(OWNER).pw_gid, "extra_groups": []}


def free_ports() -> Iterator[int]:
    """Yield ports at random: a server that finds one taken goes on with the next."""
    while True:
        yield random.choice(_PORTS)


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
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._templates: dict[Callable[[str], object], str] = {}
        self._names = (f"t{number}" for number in itertools.count(1))
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self.folder)],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # Control-C is for the tests
        )
        try:
            self._make({**_SETTINGS, **({} if fsync else _NO_SYNC), **(settings or {})})
            self.start()
        except BaseException:
            self.close()
            raise

    def _make(self, settings: Mapping[str, str]) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password or "")
        if os.geteuid() == 0:
            shutil.chown(self.folder, OWNER)
            shutil.chown(secret, OWNER)
        made = subprocess.run(
            [
                *(str(self.programs / "initdb"), "--pgdata", str(self._data), "--username", OWNER),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--wal-segsize", "4"),
                *("--auth", "trust" if self.password is None else "scram-sha-256"),
                *(() if self.password is None else ("--pwfile", str(secret))),
            ],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
            **as_owner(),
        )
        assert made.returncode == 0, made.stderr
        lines = {**settings, "unix_socket_directories": str(self.folder)}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in lines.items())

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

    # --- running -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it serves; its port stays what it was."""
        deadline = time.monotonic() + PATIENCE
        for port in [self.port] * 50 if self.port else free_ports():
            if self._started(port, deadline):
                self.port = port
                return
            if self.port:
                time.sleep(0.1)  # another process may give it back
        raise AssertionError(f"port {self.port} is taken: {self.log()}")

    def _started(self, port: int, deadline: float) -> bool:
        """Start the server on *port*, and return False if that is taken."""
        end = len(self.log())
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self._data), "-p", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environ,
                start_new_session=True,
                **as_owner(),
            )
        self._process = process
        while not self._serves(process.pid):
            if process.poll() is not None:
                self._process = None
                said = self.log()[end:]
                assert "Address already in use" in said, said
                return False
            assert time.monotonic() < deadline, f"it does not serve: {self.log()[end:]}"
            time.sleep(_PAUSE)
        return True

    def _serves(self, pid: int) -> bool:
        """Read what ``pg_ctl --wait`` does: the server's own word, in the file of its lock."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def stop(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """
        Stop the server as ``pg_ctl stop --mode`` does.

        ``smart`` waits for the clients to go, ``fast`` breaks their connections, ``immediate``
        leaves the rest to the recovery at the next start.
        """
        if self._process is None:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how]
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        self._process = None

    def restart(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again, on the same port."""
        self.stop(how)
        self.start()

    def kill(self) -> None:
        """Kill the server and all of its processes with SIGKILL, at one moment."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it shall not see one die, nor begin another
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None
        # What a crash leaves, and the next start would clear away: the few bytes of System V's
        # shared memory, which outlive the folder, and a process id that may soon be another's.
        lock = self._data / "postmaster.pid"
        segment = lock.read_text().splitlines()[6].split()[-1]
        subprocess.run(["ipcrm", "-m", segment], capture_output=True, check=False)
        lock.unlink()

    def pids(self) -> list[int]:
        """Return the process ids of the server and of its children, which serve its clients."""
        if self._process is None:
            return []
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        parent = self._process.pid
        return [parent, *(pid for pid, of in pairs if of == parent)]

    def log(self) -> str:
        """Return what the server has logged."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_text("utf-8", "replace")
        return ""

    def close(self) -> None:
        """End the server at once and remove its folder."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        if self._process is not None:
            self._process.wait(PATIENCE)
            self._process = None
        self._guard.wait(PATIENCE)

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
        Execute *sql* on a connection of its own, each statement by itself, and return the rows.

        Without *parameters* (``%s``) it may be several statements; the rows are those of the first.
        """
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

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
        self.execute(f'create database "{name}" template "{database}"')
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
