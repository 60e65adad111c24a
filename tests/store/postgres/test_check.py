"""What is asked of a shared database: what rules it out, and what is a risk."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from tests.support.clock import FakeClock
from tests.support.pgbouncer import Pooler
from tests.support.postgres import Server, absent, programs

from auditrelay.clock import Clock
from auditrelay.errors import StateError
from auditrelay.settings.secrets import SecretAddress
from auditrelay.store.postgres import check, schema
from auditrelay.store.postgres.address import Address
from auditrelay.store.postgres.check import CONNECTIONS, Checked
from auditrelay.store.postgres.setup import grants, set_up

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server as it should be, which may also hold what keeps old rows."""
    found = programs()
    if found is None:
        absent("PostgreSQL")
    more = {"max_prepared_transactions": "2", "wal_level": "logical"}
    made = Server(found, fsync=True, settings=more)
    made.execute("create role relay login")
    yield made
    made.close()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """The URL of an empty database."""
    name = server.create()
    yield server.address(name)
    server.drop(name)


@pytest.fixture
def ready(url: str) -> str:
    """The URL of a database with the tables."""
    assert set_up(address(url))
    return url


def address(url: str) -> Address:
    return Address(SecretAddress(url))


def relay(url: str) -> str:
    """Return *url* for the role of the service."""
    return url.replace("//postgres@", "//relay@")


def found(url: str, clock: Clock | None = None) -> Checked:
    return check.check(address(url), clock or Clock())


def risk(url: str, clock: Clock | None = None) -> str:
    """Return the one risk there is."""
    (one,) = found(url, clock).risks
    return one


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_of_a_database_as_it_should_be_there_is_nothing_to_say(ready: str) -> None:
    said = found(ready)
    assert (said.refusals, said.risks) == ((), ())
    assert said.about.startswith("PostgreSQL 1")
    assert ", without TLS, on this machine, " in said.about
    assert said.about.endswith(" ms a round trip")


def test_without_a_schema_it_says_who_makes_it(url: str) -> None:
    assert risk(url).startswith("there is no schema auditrelay with the state yet: the first run")
    (refusal,) = found(relay(url)).refusals
    assert refusal.startswith("there is no schema auditrelay with the state, and the role relay")
    assert "run `auditrelay setup postgres`" in refusal
    run(url, "create schema auditrelay authorization relay")  # an empty one will do
    assert not found(relay(url)).refusals
    assert set_up(address(relay(url)))
    assert not set_up(address(relay(url)))
    said = found(relay(url))
    assert (said.refusals, said.risks) == ((), ())


def test_the_rights_that_are_missing_are_named(ready: str) -> None:
    (refusal,) = found(relay(ready)).refusals
    assert refusal.startswith("the role relay lacks usage on the schema auditrelay; select on ")
    assert " more; insert on " in refusal
    run(ready, grants("auditrelay", "relay"))
    assert found(relay(ready)).refusals == ()
    run(ready, "revoke update, delete on auditrelay.spool from relay")
    (refusal,) = found(relay(ready)).refusals
    assert refusal == (
        "the role relay lacks update on spool; delete on spool: the owner grants it "
        "(docs/postgres.md)"
    )
    run(ready, grants("auditrelay", "relay"))
    run(ready, "revoke execute on all functions in schema auditrelay from public, relay")
    (refusal,) = found(relay(ready)).refusals
    assert refusal.startswith("the role relay lacks execute on ")


def test_an_old_server_and_another_encoding_are_refused(
    server: Server, ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.execute("create database latin encoding 'LATIN1' template template0")
    (refusal,) = found(server.address("latin")).refusals
    assert refusal.startswith("the database has the encoding LATIN1: create one with encoding")
    server.drop("latin")
    monkeypatch.setattr(schema, "OLDEST_SERVER", 990000)
    (refusal,) = found(ready).refusals
    assert refusal.endswith(" is too old: 99 or newer is needed")


def test_the_tables_of_a_newer_version_are_refused(ready: str) -> None:
    run(ready, "update auditrelay.meta set value = 99 where name in ('schema', 'writable_from')")
    (refusal,) = found(ready).refusals
    assert "was written by a newer auditrelay" in refusal


def test_what_cannot_be_reached_or_written_to_is_an_error_of_the_state(ready: str) -> None:
    run(ready, "alter role relay set default_transaction_read_only = on")
    with pytest.raises(StateError, match="read-only"):
        found(relay(ready))
    run(ready, "alter role relay reset all")
    with pytest.raises(StateError, match="cannot be reached"):
        found("postgresql://relay@127.0.0.1:1/audit")


def test_clocks_that_differ_are_a_risk(ready: str) -> None:
    far_off = FakeClock()
    assert "the clock of the database is " in risk(ready, far_off)
    behind = FakeClock(Clock().now() + timedelta(seconds=40))
    assert risk(ready, behind).startswith("the clock of the database is 4")
    assert " s behind this one's" in risk(ready, behind)
    assert found(ready, FakeClock(Clock().now() - timedelta(seconds=20))).risks == ()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("fsync", "fsync is off: a crash of its machine may"),
        ("full_page_writes", "full_page_writes is off: a crash of its machine may"),
    ],
)
def test_a_server_that_a_crash_may_damage_is_a_risk(
    server: Server, ready: str, setting: str, sentence: str
) -> None:
    run(server.address(), f"alter system set {setting} = off", "select pg_reload_conf()")
    try:
        until(ready, f"select current_setting('{setting}')", "off")
        assert risk(ready).startswith(sentence)
    finally:
        run(server.address(), f"alter system reset {setting}", "select pg_reload_conf()")
        until(ready, f"select current_setting('{setting}')", "on")


def until(url: str, sql: str, wanted: object) -> None:
    for _ in range(1000):
        with psycopg.connect(url) as connection:
            if connection.execute(sql.encode()).fetchone() == (wanted,):
                return
    raise AssertionError(sql)


def test_commits_that_are_not_waited_for_are_a_risk(ready: str) -> None:
    run(ready, "alter role relay set synchronous_commit = off", grants("auditrelay", "relay"))
    assert risk(relay(ready)).startswith("synchronous_commit is off: each of our transactions")
    run(ready, "alter role relay reset all")


def test_a_standby_that_commits_do_not_wait_for_is_a_risk(server: Server, ready: str) -> None:
    with psycopg.connect(f"{server.address()}?replication=true", autocommit=True):
        assert risk(ready).startswith("there is a standby, and synchronous_standby_names is empty")
    until(ready, "select count(*) from pg_stat_replication", 0)


def test_a_server_with_little_room_is_a_risk(ready: str) -> None:
    run(ready, grants("auditrelay", "relay"), f"alter role relay connection limit {CONNECTIONS}")
    assert found(relay(ready)).risks == ()
    run(ready, f"alter role relay connection limit {CONNECTIONS - 1}")
    assert risk(relay(ready)) == (
        "the role has room for 6 more connections, and 1 replica may need 7 more: raise its "
        "limit, to leave 7 for each replica"
    )
    run(
        ready,
        "alter role relay connection limit 12",
        "insert into auditrelay.replica (id, name, version, expires) select gen_random_uuid(), "
        "n::text, '1', clock_timestamp() + make_interval(hours => n) from generate_series(-1, 2) n",
    )
    assert "room for 12 more connections, and 2 replicas may need 14 more" in risk(relay(ready))
    # Those that they have already are not needed once more.
    with psycopg.connect(relay(ready), application_name="auditrelay a", autocommit=True):
        assert "room for 11 more connections, and 2 replicas may need 13" in risk(relay(ready))
    run(ready, "alter role relay connection limit -1")
    name = ready.rpartition("/")[2]
    run(ready, f"alter database {name} connection limit 3")
    assert risk(relay(ready)).startswith("the database has room for 3 more connections")


def test_what_keeps_old_rows_is_a_risk(
    server: Server, ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(ready) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select 1")
        assert found(ready).risks == ()  # it has not been there for an hour
        monkeypatch.setattr(check, "_OLD", timedelta(0))
        assert risk(ready).startswith(
            f"a transaction of postgres (process {other.info.backend_pid}) has been open for more"
        )
    run(ready, "begin", "create table t ()", "prepare transaction 'theirs'")
    assert risk(ready).startswith("the transaction theirs was prepared more than an hour ago")
    run(ready, "rollback prepared 'theirs'")
    server.execute("select pg_create_logical_replication_slot('forgotten', 'pgoutput')")
    assert risk(ready).startswith("the replication slot forgotten is not in use")
    server.execute("select pg_drop_replication_slot('forgotten')")


def test_a_pooler_is_recognised_and_serves(database: str, pgbouncer: Pooler) -> None:
    there = "there is a pooler in between"
    assert not any(each.startswith(there) for each in found(database).risks)
    pooled = found(pgbouncer.through(database))
    assert any(each.startswith(there) for each in pooled.risks)
    assert pooled.refusals == ()  # of the tables, which are asked for as the service asks
