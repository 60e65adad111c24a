"""Replicas as an operator sees them from any of them: alive, killed, and without their database."""

import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Daemon, configure, eventually, sinks, sources
from tests.support.postgres import Server

from auditrelay.sandbox import Sandbox

pytestmark = pytest.mark.process

Start = Callable[[str], Daemon]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(only=["cekura", "bland"]) as made:
        made.vendors["cekura"].fill(20, datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC))
        yield made


@pytest.fixture
def start(sandbox: Sandbox, database: str, tmp_path: Path) -> Start:
    """Return what makes the daemon of a replica of that name."""

    def make(name: str) -> Daemon:
        folder = tmp_path / name
        folder.mkdir()
        tables = sources(sandbox), sinks(sandbox)
        return Daemon(configure(folder, *tables, store=database, replica=name), speed=1)

    return make


async def report(of: Daemon) -> Any:
    return (await of.get("/api/status")).json()


async def test_each_replica_shows_the_whole_and_what_a_killed_one_held_is_taken_over(
    start: Start, sandbox: Sandbox
) -> None:
    async with start("one") as one:
        await eventually(lambda: joined(one))
        async with start("two") as two:
            await eventually(lambda: joined(two))

            async def both_are_shown() -> bool:
                shown = [await report(each) for each in (one, two)]
                return all(
                    {each["name"] for each in of["replicas"] if each["alive"]} == {"one", "two"}
                    for of in shown
                )

            await eventually(both_are_shown)
            assert (await report(two))["sources"][0]["held_by"] in ("one", "two")

            async def is_read() -> bool:
                return all(row["up"] for row in (await report(two))["sources"])

            await eventually(is_read)
            await one.end(signal.SIGKILL)

            async def two_has_all() -> bool:
                of = await report(two)
                rows = (*of["sources"], *of["sinks"])
                return all(row["held_by"] == "two" for row in rows) and not of["unheld"]

            await eventually(two_has_all)
            taken = [line for line in two.lines if line["event"] == "unit_taken"]
            assert {line["former"] for line in taken if line["reason"] == "dead"} == {"one"}
            (dead,) = (each for each in (await report(two))["replicas"] if each["name"] == "one")
            assert not dead["alive"]
            page = (await two.get("/")).text
            assert "dead" in page
            assert 'aria-label="replica two"' in page


async def joined(of: Daemon) -> bool:
    return (await of.get("/joined")).status_code == 200


async def test_without_its_database_a_replica_is_healthy_not_ready_and_shows_what_there_was(
    start: Start, postgres: Server
) -> None:
    async with start("one") as one:

        async def is_ready() -> bool:
            return (await one.get("/readyz")).status_code == 200

        await eventually(is_ready)
        before = await report(one)
        postgres.stop("immediate")
        try:
            await eventually(lambda: one.logged("store_unreachable"))

            async def says_so() -> bool:
                found = [each["code"] for each in (await report(one))["findings"]]
                return found[:1] == ["store_away"]

            await eventually(says_so)
            assert (await one.get("/healthz")).status_code == 200
            assert (await one.get("/readyz")).status_code == 503
            of = await report(one)
            assert [row["started"] for row in of["sources"]] == [
                row["started"] for row in before["sources"]
            ]
            assert "auditrelay_store_up 0.0" in (await one.get("/metrics")).text
            assert "The shared store does not answer." in (await one.get("/")).text
        finally:
            postgres.start()
        await eventually(is_ready)
        assert "auditrelay_store_up 1.0" in (await one.get("/metrics")).text
        assert (await report(one))["store"]["up"] is True
