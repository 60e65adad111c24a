"""A store with one source and one sink, on each engine."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.support.states import State
from tests.support.stores import NOON, opened

from auditrelay.store.sql.store import SqlStore


@pytest.fixture
async def store(state: State) -> AsyncIterator[SqlStore]:
    store = await opened(state)
    await store.start_source("voice", NOON - timedelta(days=7))
    await store.start_sink("splunk", ["voice"])
    yield store
    await store.close()
