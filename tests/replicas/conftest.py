"""Several replicas on a database, against the sandbox."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.fleet import Fleet, prepare_state
from tests.support.postgres import Server, absent, programs

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


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A server that these tests stop, kill and replace; with ``fsync``."""
    found = programs()
    if found is None:
        absent("PostgreSQL")
    server = Server(found, fsync=True)
    yield server
    server.close()


@pytest.fixture
async def own_fleet(sandbox: Sandbox, tmp_path: Path, own_server: Server) -> AsyncIterator[Fleet]:
    """A fleet on *own_server*."""
    name = own_server.create(prepare_state)
    fleet = Fleet(sandbox, tmp_path, own_server.address(name))
    try:
        yield fleet
    finally:
        await fleet.end()
