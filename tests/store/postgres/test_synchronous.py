"""
Commits wait for a synchronous standby that is gone: what is not replicated is not made visible.

An administrator who ends the session that waits, or asks the server to cancel, would do that.
"""

import asyncio
import random
import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.support.extent import extent
from tests.support.postgres import Server, absent, programs
from tests.support.replicas import connection
from tests.support.shared_state import link, make_schema, rows
from tests.support.standby import require_standby, until

from auditrelay.store.postgres import leases
from auditrelay.store.postgres.connection import Connection
from auditrelay.store.postgres.leases import application_name
from auditrelay.store.postgres.writer import Work, Writer

pytestmark = pytest.mark.process

CANCELLED = ("canceling", "terminating connection")
"""What the server logs of a wait or a session that was ended."""

_WAITING = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = programs()
    if found is None:
        absent("PostgreSQL")
    made = Server(found)
    yield made
    made.close()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """A state on a server whose commits wait for a standby that there is not, from now on."""
    address = server.address(server.create(make_schema))
    require_standby(server, "gone")
    yield address
    require_standby(server, "")


@pytest.fixture
def waiting(server: Server, url: str) -> Iterator[UUID]:
    """A replica whose session waits for the standby in its COMMIT."""
    me = uuid4()
    db = connection(url, application_name(me))

    def write() -> None:
        db.begin(write=True)
        db.execute("insert into source (name, started) values ('voice', 1)")
        db.commit()

    thread = threading.Thread(target=write)
    thread.start()
    until(server, _WAITING, 1)
    yield me
    require_standby(server, "")
    thread.join()
    assert rows(url, "select name from source") == [("voice",)]
    db.close()


def test_the_session_of_a_dead_replica_that_waits_for_a_standby_is_spared(
    server: Server, url: str, waiting: UUID
) -> None:
    idle = psycopg.connect(url, autocommit=True, application_name=application_name(waiting))
    mine = connection(url)
    mine.begin(write=True, alone=False)
    leases.end_sessions(mine, {waiting})
    mine.commit()
    until(server, f"select count(*) from pg_stat_activity where pid = {idle.info.backend_pid}", 0)
    assert server.execute(_WAITING) == [(1,)]
    assert rows(url, "select name from source") == [], "it is not on the standby"
    mine.close()
    idle.close()


async def test_writes_that_are_cancelled_while_commits_wait_cancel_nothing_in_the_server(
    server: Server, url: str
) -> None:
    """Polls are cancelled all the time. Each write is done once or, before its turn, not at all."""
    logged, me, rng = len(server.log()), uuid4(), random.Random(1)
    # So short that the commits which wait are given up again and again, too.
    writer = Writer(link(url, limit=0.5), me)
    kept = 0

    def put(number: int) -> Work[None]:
        def work(db: Connection) -> None:
            db.execute("insert into source (name, started) values (?, 1)", (str(number),))

        return work

    async def one(number: int) -> None:
        nonlocal kept
        writing = asyncio.create_task(writer.write(put(number)))
        if rng.random() < 0.1:
            kept += 1
            await writing
            return
        await asyncio.sleep(rng.uniform(0, 3))
        writing.cancel()
        await asyncio.wait([writing])

    async with asyncio.TaskGroup() as tasks:
        for number in range(extent(200, 1000)):
            tasks.create_task(one(number))
        await asyncio.to_thread(until, server, f"select ({_WAITING}) > 0", value=True)
        await asyncio.sleep(3)
        assert await asyncio.to_thread(rows, url, "select 1 from source") == []
        await asyncio.to_thread(require_standby, server, "")
    await asyncio.to_thread(writer.close)
    names = [name for (name,) in rows(url, "select name from source")]
    assert kept <= len(names) == len(set(names))
    said = server.log()[logged:]
    assert not [each for each in CANCELLED if each in said], said
