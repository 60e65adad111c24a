"""A store with one source and one sink, on SQLite; ``sql`` has it on each engine."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.stores import NOON, opened

from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.state_dir import prepare


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    prepare(tmp_path)
    store = await opened(tmp_path)
    await store.start_source("voice", NOON - timedelta(days=7))
    await store.start_sink("splunk", ["voice"])
    yield store
    await store.close()
