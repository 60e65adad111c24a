"""Alerts survive a change of the keeper: neither raised again, nor left raised for good."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from tests.service.test_alerts import NOW, Problems, finding
from tests.support.shared_state import SCHEMA, make_schema, raw, rows, take

from auditrelay.clock import Clock
from auditrelay.errors import Fenced
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.leases import KEEPER
from auditrelay.store.postgres.engine import PostgresEngine
from auditrelay.store.sql.store import SqlStore, open_on

pytestmark = pytest.mark.process

Keeper = Callable[[], Problems]


@pytest.fixture
def prepare() -> Callable[[str], object]:
    return make_schema


@pytest.fixture
async def store(database: str) -> AsyncIterator[SqlStore]:
    engine = PostgresEngine(lambda: raw(database), SCHEMA, replica=uuid4(), clock=Clock())
    made = await open_on(
        engine,
        clock=Clock(),
        max_bytes=1 << 30,
        retention=timedelta(days=7),
        remember=timedelta(days=400),
    )
    await made.start_source(ALERTS, NOW)
    await made.start_sink("out", [ALERTS])
    yield made
    await made.close()


@pytest.fixture
def keeper(database: str, store: SqlStore) -> Keeper:
    """Return the next keeper: it knows what the store has, and nothing else."""
    return lambda: Problems(store.under(take(database, KEEPER)))


async def test_a_new_keeper_does_not_raise_again_what_the_last_one_has_raised(
    keeper: Keeper,
) -> None:
    assert await keeper().update(finding()) == [("alert_raised", "held", "voice")]
    second = keeper()
    assert await second.update(finding(), finding("silent")) == [
        ("alert_raised", "silent", "voice")
    ]
    assert await second.sent() == ["auditrelay.alert_raised"] * 2
    assert await keeper().update(finding(), finding("silent")) == []


async def test_a_new_keeper_clears_what_the_last_one_has_raised(
    keeper: Keeper, database: str
) -> None:
    await keeper().update(finding(), finding(kind="sink"))
    second = keeper()
    assert await second.update(finding(kind="sink")) == [("alert_cleared", "held", "voice")]
    assert rows(database, "select about from raised") == [("sink voice",)]
    assert (await second.sent())[-1] == "auditrelay.alert_cleared"
    assert await keeper().update(finding(kind="sink")) == []


async def test_what_a_keeper_cannot_tell_yet_stays_raised(keeper: Keeper) -> None:
    down = finding("down")
    await keeper().update(down)
    second = keeper()
    for code in ("starting", "unheld"):
        assert await second.update(finding(code, level="recovering")) == []
    assert await second.update(down) == []
    assert await second.update() == [("alert_cleared", "down", "voice")]


async def test_the_alert_and_its_event_are_there_together_or_not_at_all(
    keeper: Keeper, database: str
) -> None:
    first, second = keeper(), keeper()
    with pytest.raises(Fenced):
        await first.update(finding())
    assert rows(database, "select count(*) from raised") == [(0,)]
    assert await second.sent() == []
    assert await second.update(finding()) == [("alert_raised", "held", "voice")]


async def test_alerts_that_are_not_forwarded_are_kept_all_the_same(keeper: Keeper) -> None:
    first = keeper()
    first.forward = False
    await first.update(finding())
    assert await keeper().update(finding()) == []
    assert await first.sent() == []
