"""The servers that tests start for themselves (``support/postgres.py``) do what is said of them."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.support.guarded import living
from tests.support.pgbouncer import Pooler
from tests.support.postgres import VARIABLE, Server, programs

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def server(postgres: Server) -> Iterator[Server]:
    """A server that a test may stop and kill."""
    own = Server(postgres.programs)
    yield own
    own.close()


def gone(pids: list[int]) -> bool:
    """Whether the processes have ended, within a minute."""
    deadline = time.monotonic() + 60
    while living(pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def table(address: str) -> None:
    with psycopg.connect(address) as connection:
        connection.execute("create table kept (number integer)")
        connection.execute("insert into kept values (1)")


@pytest.fixture
def prepare() -> Callable[[str], object]:
    return table


@pytest.mark.parametrize("number", [2, 3])
def test_a_database_is_a_copy_of_what_was_prepared_and_no_other_test_writes_to_it(
    database: str, number: int
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("insert into kept values (%s)", (number,))
        rows = connection.execute("select number from kept order by number").fetchall()
    assert rows == [(1,), (number,)]


def test_a_database_is_utf_8_and_sorts_by_bytes(postgres: Server, database: str) -> None:
    name = database.rpartition("/")[2]
    assert postgres.execute(
        "select pg_encoding_to_char(encoding), datcollate, datctype from pg_database"
        " where datname = %s",
        (name,),
    ) == [("UTF8", "C", "C")]


def test_a_database_that_is_prepared_is_prepared_once(postgres: Server) -> None:
    calls: list[str] = []
    names = [postgres.create(calls.append) for _ in range(3)]
    assert len(calls) == 1
    assert len(set(names)) == 3
    for name in names:
        postgres.drop(name)


def test_a_copy_has_what_was_there_and_nothing_of_what_comes_later(postgres: Server) -> None:
    before = postgres.create(table)
    after = postgres.copy(before)
    postgres.execute("insert into kept values (2)", database=before)
    assert postgres.execute("select count(*) from kept", database=before) == [(2,)]
    assert postgres.execute("select count(*) from kept", database=after) == [(1,)]
    postgres.drop(before)
    postgres.drop(after)


def test_a_database_is_dropped_with_its_connections(postgres: Server) -> None:
    name = postgres.create()
    with psycopg.connect(postgres.address(name)) as connection:
        postgres.drop(name)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_what_was_committed_outlives_a_stop_and_a_kill_and_the_port_stays(server: Server) -> None:
    name = server.create()
    port = server.port
    server.execute("create table kept (number integer)", database=name)
    for number, end in enumerate([server.stop, lambda: server.stop("immediate"), server.kill]):
        server.execute("insert into kept values (%s)", (number,), database=name)
        end()
        with pytest.raises(psycopg.OperationalError):
            server.execute("select 1")
        server.start()
    server.restart()
    assert server.port == port
    assert server.execute("select number from kept", database=name) == [(0,), (1,), (2,)]


def test_a_kill_leaves_no_process_and_breaks_the_connections(server: Server) -> None:
    with psycopg.connect(server.address()) as connection:
        mine = connection.execute("select pg_backend_pid()").fetchone()
        pids = server.pids()
        assert mine is not None
        assert mine[0] in pids
        server.kill()
        assert not living(pids)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_a_kill_leaves_no_shared_memory(server: Server) -> None:
    lines = (server.folder / "data" / "postmaster.pid").read_text().splitlines()
    segment = lines[6].split()[-1]
    asked = ["ipcs", "-m", "-i", segment]
    assert "shmid" in subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    server.kill()
    assert "shmid" not in subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def test_a_port_that_is_taken_is_not_insisted_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Server(server.programs)
    try:
        other.stop()
        taken, free = server.port, other.port
        other._guarded.port = 0
        monkeypatch.setattr("tests.support.guarded.free_ports", lambda: iter([taken, free]))
        other.start()
        assert other.port == free
        assert other.execute("select 1") == [(1,)]
    finally:
        other.close()


def test_a_password_is_asked_for_and_the_settings_are_those_given(postgres: Server) -> None:
    server = Server(postgres.programs, password="p/ä ss@", fsync=True, settings={"work_mem": "5MB"})
    try:
        asked = "select current_setting('work_mem'), current_setting('fsync')"
        assert server.execute(asked) == [("5MB", "on")]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.address().replace("p%2F", "q%2F"))
    finally:
        server.close()


def test_the_server_and_its_folder_go_when_it_is_closed(postgres: Server) -> None:
    for last in ("close", "stop", "kill"):
        server = Server(postgres.programs)
        pids = server.pids()
        getattr(server, last)()
        server.close()
        assert gone(pids)
        assert not server.folder.exists()


PROGRAM = """
from pathlib import Path
from tests.support.pgbouncer import Pooler
from tests.support.postgres import Server
server = Server(Path({programs!r}))
print(server.folder, *server.pids(), flush=True)
input()
"""


def test_the_server_and_its_folder_go_when_the_tests_are_killed(postgres: Server) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(programs=str(postgres.programs))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        folder, *pids = child.stdout.readline().split()
        assert Path(folder).exists()
        child.kill()
    assert gone([int(pid) for pid in pids])
    deadline = time.monotonic() + 60
    while Path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_control_c_is_for_the_tests_alone(server: Server) -> None:
    for pid in (*server.pids()[:1], server._guarded.guard.pid):
        assert os.getsid(pid) != os.getsid(0)


# --- pgbouncer ------------------------------------------------------------------------------------


def test_clients_share_two_connections_of_which_each_has_one_for_a_transaction(
    database: str, pgbouncer: Pooler
) -> None:
    address = pgbouncer.through(database)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(address, autocommit=True)) for _ in range(8)]
        pids = {client.execute("select pg_backend_pid()").fetchone() for client in clients}
        assert 1 <= len(pids) <= 2
        with clients[0].transaction(), clients[1].transaction():
            first = {each.execute("select pg_backend_pid()").fetchone() for each in clients[:2]}
            again = {each.execute("select pg_backend_pid()").fetchone() for each in clients[:2]}
            assert len(first) == 2
            assert first == again
            clients[2].pgconn.send_query(b"select 1")
            assert not select.select([clients[2]], [], [], 0.1)[0]
        assert select.select([clients[2]], [], [], 20)[0]
        clients[2].close()


def test_what_a_session_sets_is_not_its_own(database: str, pgbouncer: Pooler) -> None:
    address = pgbouncer.through(database)
    with (
        psycopg.connect(address, autocommit=True) as one,
        psycopg.connect(address, autocommit=True) as other,
    ):
        one.execute("set work_mem = '5MB'")
        assert other.execute("show work_mem").fetchone() == ("5MB",)
        other.execute("set work_mem = '4MB'")


def test_a_pooler_breaks_its_connections_when_it_is_restarted_and_serves_again(
    database: str, pgbouncer: Pooler
) -> None:
    address = pgbouncer.through(database)
    with psycopg.connect(address, autocommit=True) as connection:
        pgbouncer.restart()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with psycopg.connect(address) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


# --- where there is none --------------------------------------------------------------------------


def test_the_folder_that_is_named_is_looked_in(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert programs() == tmp_path
    (tmp_path / "postgres").unlink()
    with pytest.raises(AssertionError, match=VARIABLE):
        programs()


TEST = """
import pytest

@pytest.mark.process
def test(database):
    pass

@pytest.mark.process
def test_of_a_pooler(pgbouncer):
    pass

def test_without_its_mark(database):
    pass
"""


@pytest.mark.parametrize(
    ("missing", "value", "ended"),
    [
        ("postgres.programs = lambda: None", "", "2 skipped, 1 error"),
        ("pgbouncer.PROGRAM = None", "required", "1 passed, 2 errors"),
    ],
)
def test_what_is_not_installed_skips_its_tests_unless_it_is_required(
    missing: str, value: str, ended: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "conftest.py").write_text(
        f"from tests.support import pgbouncer, postgres\n{missing}\n"
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-qra", "-p", "tests.support.postgres"),
            *("-p", "tests.support.pgbouncer"),
            *("-p", "no:cacheprovider", "-o", "markers=process", "--confcutdir", str(tmp_path)),
            str(tmp_path),
        ],
        cwd=ROOT,
        env={**os.environ, VARIABLE: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended in ran.stdout, ran.stdout
    assert "tests/README.md" in ran.stdout
    assert "is marked `process`" in ran.stdout
