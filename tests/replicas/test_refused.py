"""The database has no room, no connection left, or other rights; or there is a pooler before it."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.support.daemon import command, eventually, missing
from tests.support.fleet import Fleet, add, fill
from tests.support.pgbouncer import Pooler
from tests.support.postgres import Server
from tests.support.shared_state import raw

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

_FULL = """
create function test.full() returns trigger language plpgsql as $$
begin
    raise exception using errcode = '53100', message = 'could not extend file: No space left';
end $$;
create trigger no_room before insert on auditrelay.spool for each row execute function test.full();
"""


_IN_THE_WAY = """
create sequence test.tries;
create function test.in_the_way() returns trigger language plpgsql as $$
declare
    try bigint := nextval('test.tries');  -- it goes on though the transaction is undone
begin
    if try % 12 < 4 then
        raise exception using message = 'others were in the way',
            errcode = (array['40001', '40P01', '55P03'])[1 + try % 3];
    end if;
    return null;
end $$;
"""
_TRIGGER = """
create trigger in_the_way after insert or update on auditrelay.{table}
    for each statement execute function test.in_the_way();
"""


async def test_transactions_that_fail_because_of_others_are_repeated_and_nothing_is_seen_of_it(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    """Serialization failures, deadlocks, locks that were waited for too long, in turn."""
    with raw(fleet.address) as connection:
        connection.execute(_IN_THE_WAY.encode())
        for table in ("spool", "sink"):
            connection.execute(_TRIGGER.format(table=table).encode())
    fill(sandbox)
    daemons = await fleet.start("a", "b")
    await fleet.delivered()
    add(sandbox)
    await fleet.check(bound=0)
    tried = fleet.rows("select last_value from test.tries")
    assert tried > [(30,)]
    for daemon in daemons:
        assert not daemon.logged("unit_fenced")
        assert not daemon.logged("store_unreachable")


async def test_a_full_database_stops_reading_and_nothing_is_lost(
    fleet: Fleet, sandbox: Sandbox
) -> None:
    fill(sandbox)
    (a,) = await fleet.start("a")
    await fleet.delivered()
    with raw(fleet.address) as connection:
        connection.execute(_FULL.encode())
    add(sandbox)

    async def paused() -> bool:
        return "paused" in (await a.get("/api/status")).text

    await eventually(paused, what="reading is paused")
    await asyncio.sleep(1)
    assert missing(sandbox)
    with raw(fleet.address) as connection:
        connection.execute(b"drop trigger no_room on auditrelay.spool")
    await fleet.check(bound=0)


@pytest.fixture
def stranger(postgres: Server) -> Iterator[None]:
    """A role that may log in, and nothing else."""
    postgres.execute("create role stranger login")
    yield
    postgres.execute("drop owned by stranger; drop role stranger")


async def test_the_error_for_a_role_without_rights_says_what_to_run(
    fleet: Fleet, stranger: None, postgres: Server
) -> None:
    name = fleet.address.rpartition("/")[2]
    address = f"postgresql://stranger@127.0.0.1:{postgres.port}/{name}"
    config = fleet.config("a", store=address)
    ended = await command(config, "run")
    assert ended.status == 3
    assert "auditrelay setup postgres" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_database_that_is_not_there_is_named(fleet: Fleet, postgres: Server) -> None:
    config = fleet.config("a", store=f"postgresql://postgres@127.0.0.1:{postgres.port}/nowhere")
    ended = await command(config, "run")
    assert ended.status == 3
    assert 'database "nowhere" does not exist' in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_replicas_wait_for_a_connection(
    own_fleet: Fleet, own_server: Server, sandbox: Sandbox
) -> None:
    """A role may have no connection any more, or none that is free (53300)."""
    name = own_fleet.address.rpartition("/")[2]
    own_server.execute("create role relay login")
    own_server.execute(f'grant all on database "{name}" to relay')
    own_server.execute(
        "grant all on schema auditrelay, test to relay; "
        "grant all on all tables in schema auditrelay, test to relay; "
        "grant all on all sequences in schema auditrelay to relay",
        database=name,
    )
    fill(sandbox)
    address = own_fleet.address.replace("postgres@", "relay@")
    (a,) = await own_fleet.start("a", store=address)
    await own_fleet.delivered()
    before = own_fleet.leases()
    own_server.execute("alter role relay connection limit 0")
    own_server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'relay'"
    )
    add(sandbox)
    await eventually(lambda: a.logged("store_unreachable"), what="it says so")
    await asyncio.sleep(1)
    assert missing(sandbox)
    own_server.execute("alter role relay connection limit -1")
    await own_fleet.delivered()
    assert own_fleet.leases() == before
    await own_fleet.check(bound=0)


async def test_replicas_work_through_a_pooler_that_is_restarted(
    fleet: Fleet, sandbox: Sandbox, pgbouncer: Pooler
) -> None:
    fill(sandbox)
    direct = fleet.address
    through = pgbouncer.through(direct)
    for name in ("a", "b"):
        await fleet.start(name, store=through)
    await fleet.delivered()
    for _ in range(3):
        add(sandbox)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pgbouncer.restart)
        add(sandbox)
        await asyncio.sleep(0.3)
    await fleet.check(bound=0)
