"""Several replicas on a database, against the sandbox."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.fleet import Fleet, prepare_state

from auditrelay.sandbox import Sandbox


@pytest.fixture
def prepare() -> Callable[[str], object]:
    return prepare_state


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def fleet(sandbox: Sandbox, tmp_path: Path, database: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(sandbox, tmp_path, database)
    try:
        yield fleet
    finally:
        await fleet.end()
