"""What is measured of the transactions in a shared store, and which server they are on."""

from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

import psycopg
import pytest
from tests.support.postgres import Server
from tests.support.replicas import connection
from tests.support.shared_state import SCHEMA, raw, rows

from auditrelay.clock import Clock
from auditrelay.store.postgres import leases
from auditrelay.store.postgres.engine import PostgresEngine
from auditrelay.store.postgres.membership import PostgresMembership
from auditrelay.store.postgres.watch import Watch
from auditrelay.telemetry.metrics import Metrics

pytestmark = pytest.mark.process


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(shared=True)


@pytest.fixture
async def engine(database: str, metrics: Metrics) -> AsyncIterator[PostgresEngine]:
    made = PostgresEngine(
        lambda: raw(database), SCHEMA, replica=uuid4(), clock=Clock(), metrics=metrics
    )
    yield made
    made.close()


@pytest.fixture
async def membership(database: str, metrics: Metrics) -> AsyncIterator[PostgresMembership]:
    def watch(what: str) -> Watch:
        return Watch(metrics, what, Clock())

    made = PostgresMembership(partial(connection, database), uuid4(), watch)
    yield made
    await made.close()


def counted(metrics: Metrics, what: str) -> int:
    return sum(metrics.store_request_seconds.labels(what).counts)


async def test_each_transaction_is_measured_by_what_it_is_for(
    engine: PostgresEngine, membership: PostgresMembership, metrics: Metrics
) -> None:
    await engine.write(lambda db: db.execute("insert into meta values ('x', 1)"))
    assert (counted(metrics, "write"), counted(metrics, "read")) == (1, 0)
    await engine.read(lambda db: db.execute("select 1").fetchone())
    assert (counted(metrics, "write"), counted(metrics, "read")) == (1, 1)
    await membership.pulse(beat=False, draining=False, info={})
    await membership.want({})
    assert (counted(metrics, "pulse"), counted(metrics, "lease")) == (1, 1)


async def test_what_is_run_again_is_counted_and_waited_for_until_then(
    database: str, engine: PostgresEngine, metrics: Metrics
) -> None:
    assert engine.away_until == float("-inf")
    await engine.read(lambda db: db.execute("select 1").fetchone())
    rows(
        database,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where pid <> pg_backend_pid() and datname = current_database()",
    )
    before = Clock().monotonic()
    await engine.read(lambda db: db.execute("select 1").fetchone())
    assert before <= engine.away_until <= Clock().monotonic()
    text = metrics.render()[0].decode()
    assert 'auditrelay_store_retried_total{reason="lost"} 1.0' in text


async def test_which_server_it_is(membership: PostgresMembership, postgres: Server) -> None:
    found = await membership.server()
    assert found is not None
    ((version, system),) = postgres.execute(
        "select current_setting('server_version'), system_identifier::text from pg_control_system()"
    )
    assert (found.version, found.system, found.timeline) == (version, system, 1)


async def test_a_database_that_does_not_say_which_it_is_is_none(
    membership: PostgresMembership, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(db: object) -> None:
        raise psycopg.errors.UndefinedFunction("there is no such function")

    monkeypatch.setattr(leases, "server", refuse)
    assert await membership.server() is None
