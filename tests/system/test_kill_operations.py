"""
A command is killed with SIGKILL before and after every durable write, and run again.

Backfill, a backfill into one sink, resweeps, ``verify --repair``, a replay and a drop. Each time:
no event is lost at any sink; Elasticsearch, which recognises an event by its uid, stores each
once; Splunk and Datadog get again at most what was in flight; the ledger is whole; and ``verify``
finds nothing missing.
"""

import asyncio
import contextlib
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import (
    Daemon,
    command,
    configure,
    eventually,
    intakes,
    missing,
    sinks,
    sources,
)
from tests.support.extent import extent
from tests.support.stores import explained
from tests.system.kill_at_write import KillAtWrite

from auditrelay.events import reduced
from auditrelay.sandbox import Sandbox, faults
from auditrelay.sandbox.stored import Stored
from auditrelay.store.sqlite.store import open_view

pytestmark = pytest.mark.process

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
BATCH = 5
CONCURRENCY = 2
IN_FLIGHT = BATCH * CONCURRENCY
EVENTS = 24
REFUSED = 12
SIDES = ("before", "after")


@dataclass(frozen=True)
class Case:
    """The writes of a command, by the store's method, at which it is killed."""

    writes: dict[str, tuple[int, ...]]
    others: frozenset[str] = frozenset(
        {"start_sink", "retire", "start_source", "save_condition", "begin", "seal", "end"}
    )
    """Its other writes, which every run makes: test_kill.py kills at these."""


CASES = {
    "backfill": Case(
        {
            "start_source": (2,),
            "begin_backfill": (1,),
            "add": (1, 2, 4, 7),
            "end_backfill": (1,),
            "settle": (1, 4, 8),
        }
    ),
    "backfill into one sink": Case(
        {
            "begin_backfill": (1,),
            "resend": (1, 2, 3),
            "end_backfill": (1,),
            "settle": (1, 2, 4),
        }
    ),
    "resweep": Case(
        {"add": (1, 2, 3, 5), "record_deleted": (1,), "resweep_done": (1,), "settle": (1, 2)},
        frozenset(
            {
                "start_sink",
                "retire",
                "start_source",
                "save_condition",
                "prune",
                "remember_time",
                "begin",
                "seal",
                "end",
            }
        ),
    ),
    "repair": Case({"add": (1,), "report_changed": (1,), "resend": (1,), "settle": (1, 3)}),
    "replay": Case({"replay": (1,), "settle": (1, 2)}),
    "drop": Case({"drop": (1,)}),
}
KILLS = [
    (case, method, number)
    for case, each in CASES.items()
    for method, numbers in each.writes.items()
    for number in numbers
]


def _is_whole() -> Callable[[int, str], bool]:
    """Return what tells the events of a vendor from the reduced copies that stand for them."""
    copies = set[str]()

    def is_whole(_position: int, uid: str) -> bool:
        if uid in copies:
            return False
        copies.add(reduced._uid_of_copy("bland", uid))
        return True

    return is_whole


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


class Scene:
    """The events before a command is run, and what must be true after it."""

    def __init__(self, sandbox: Sandbox, folder: Path, case: str) -> None:
        self.sandbox = sandbox
        self.case = case
        self.now = datetime.now(UTC)
        self.arguments: tuple[str, ...] = ()
        tables = sources(
            sandbox, page_size=4, resweep=["10m"] if case == "resweep" else [], overlap="1s"
        )
        if case == "backfill into one sink":
            tables["bland"]["initial_lookback"] = "6h"  # so that it is more than one slice
        del tables["cekura"]
        self.config = configure(
            folder, tables, sinks(sandbox, batch_events=BATCH, concurrency=CONCURRENCY, linger="0s")
        )
        self.state = folder / "state" / "state.db"
        self.journal = folder / "journal"

    async def run(self, *arguments: str, **kill: Any) -> int:
        """Run a command, killed at a write or at none; return its exit status."""
        fault = KillAtWrite(self.journal, **kill)
        return (await command(self.config, *arguments, fault=fault)).status

    async def catch_up(self) -> None:
        ended = await command(self.config, "run", "--once")
        assert ended.status == 0, ended.stderr

    async def prepare(self) -> None:
        """Produce the situation that the command is for."""
        bland, now = self.sandbox.bland, self.now
        match self.case:
            case "backfill":
                bland.fill(4, now - 30 * MINUTE, now - 5 * MINUTE)
                await self.catch_up()
                bland.fill(EVENTS, now - 9 * DAY, now - 9 * DAY + 3 * timedelta(hours=1))
                start, end = now - 9 * DAY - MINUTE, now - 8 * DAY
                self.arguments = ("backfill", "bland", "--from", start.isoformat())
                self.arguments += ("--to", end.isoformat())
            case "backfill into one sink":
                bland.fill(EVENTS, now - 340 * MINUTE, now - 5 * MINUTE)
                await self.catch_up()
                # An operator has emptied the index of this sink.
                self.sandbox.splunk.stored = Stored()
                start, end = now - 358 * MINUTE, now - MINUTE
                self.arguments = (
                    "backfill",
                    "bland",
                    "--from",
                    start.isoformat(),
                    "--sink",
                    "splunk",
                )
                self.arguments += ("--to", end.isoformat())
            case "resweep":
                bland.fill(8, now - 50 * MINUTE, now - 20 * MINUTE)
                await self.catch_up()
                bland.fill(EVENTS, now - 45 * MINUTE, now - 15 * MINUTE)
                gone = next(iter(bland.records.ids()))
                bland.records.remove(gone)
                with contextlib.closing(sqlite3.connect(self.state)) as db:
                    db.execute("delete from resweep")  # as if time had passed
                    db.commit()
                self.arguments = ("run", "--once")
            case "repair":
                bland.fill(8, now - 50 * MINUTE, now - 20 * MINUTE)
                await self.catch_up()
                bland.fill(6, now - 45 * MINUTE, now - 15 * MINUTE)
                index = self.sandbox.elastic.indices["logs-auditrelay.bland-default"]
                _, gone, _ = index.documents.pop()
                index.ids.remove(gone)
                self.sandbox.elastic.stored.uids.remove(gone)
                start = now - 58 * MINUTE
                self.arguments = ("verify", "bland", "--from", start.isoformat(), "--repair")
                self.arguments += ("--at-sink",)
            case "replay" | "drop":
                bland.fill(16, now - 50 * MINUTE, now - 20 * MINUTE)
                self.sandbox.elastic.fail_items(400, where=_is_whole(), times=REFUSED)
                await self.catch_up()
                self.arguments = ("dead-letters", self.case, "--all")

    def ended(self) -> bool:
        """Return whether a backfill has ended, so that the same command begins another."""
        with contextlib.closing(sqlite3.connect(self.state)) as db:
            (count,) = db.execute(
                "select count(*) from backfill where ended is not null"
            ).fetchone()
        return bool(count)

    async def check_delivered(self, *, twice: bool) -> None:
        """Fail unless every sink has every event; *twice*: the command has done its work twice."""
        lost = missing(self.sandbox)
        if self.case == "drop":
            assert len(lost.pop("elastic")) == REFUSED
        assert lost == {}
        assert Counter(self.sandbox.elastic.stored.uids).most_common(1)[0][1] == 1
        if self.case == "repair":
            index = self.sandbox.elastic.indices["logs-auditrelay.bland-default"]
            assert len(index.ids) == 14, "the documents missing in its index are stored again"
        for intake in ("splunk", "datadog"):
            stored = intakes(self.sandbox)[intake]
            extra = sum(stored.by_native_id.values()) - len(stored.by_native_id)
            requested_again = EVENTS if intake == "splunk" and twice else 0
            assert extra <= IN_FLIGHT + requested_again, intake
        read = {"backfill": 10 * DAY, "backfill into one sink": 358 * MINUTE}
        start = self.now - read.get(self.case, 58 * MINUTE)
        explained(self.state.parent)
        assert await self.run("verify", "bland", "--from", start.isoformat(), "--at-sink") == 0
        if self.case == "resweep":
            with open_view(self.state.parent) as view:
                known = view.coverage("bland")
            assert known is not None
            gone = [each.body for each in known.facts if each.body["fact"] == "vanished"]
            reported = sum(body["events"] for body in gone)
            assert (known.deleted_at_source, reported) == (1, 1), (
                "the deleted event is recorded once"
            )


@pytest.mark.parametrize(
    ("case", "method", "number", "side"),
    [
        (*kill, side)
        for number, kill in enumerate(KILLS)
        # What is on the disk after a write is also there before the next one.
        for side in extent(SIDES[number % 2 :][:1], SIDES)
    ],
)
async def test_nothing_is_lost_wherever_a_command_is_killed(
    sandbox: Sandbox,
    tmp_path: Path,
    case: str,
    method: str,
    number: int,
    side: str,
) -> None:
    scene = Scene(sandbox, tmp_path, case)
    await scene.prepare()
    status = await scene.run(*scene.arguments, method=method, number=number, side=side)
    assert status == -signal.SIGKILL, "it was to be killed and was not"
    ended = scene.ended()
    assert await scene.run(*scene.arguments) == 0
    assert await scene.run("run", "--once") == 0
    await scene.check_delivered(twice=ended)


@pytest.mark.parametrize("case", CASES)
async def test_the_kills_fall_on_every_kind_of_write_that_a_command_makes(
    sandbox: Sandbox, tmp_path: Path, case: str
) -> None:
    scene = Scene(sandbox, tmp_path, case)
    await scene.prepare()
    assert await scene.run(*scene.arguments) == 0
    written = set(scene.journal.read_text().split())
    assert written - CASES[case].others - CASES[case].writes.keys() == set()
    assert CASES[case].writes.keys() <= written
    await scene.check_delivered(twice=False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_service_survives_the_end_of_a_command_that_it_runs(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    async with _backfilling(sandbox, tmp_path) as (daemon, client, arguments):
        client.send_signal(number)
        _, err = await client.communicate()
        assert client.returncode == (-9 if number == signal.SIGKILL else 1)
        assert b"Traceback" not in err
        # Its backfill is cancelled, and everything else continues.
        sandbox.bland.faults.clear()
        fresh = sandbox.bland.add(datetime.now(UTC))
        await eventually(lambda: fresh in sandbox.elastic.stored.by_native_id, what="still polls")
        done = len(daemon.logged("slice_backfilled"))
        assert done < 60
        ended = await command(daemon.config, *arguments)
        assert ended.status == 0, ended.stderr
        assert "resumed where an earlier run stopped" in ended.stdout
        assert len(daemon.logged("slice_backfilled")) <= 66, "finished slices are not read again"
        await eventually(lambda: not missing(sandbox), what="everything is delivered")
        assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
    assert {stored.total for stored in intakes(sandbox).values()} == {401}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_command_whose_service_dies_says_so_and_continues_when_it_is_run_again(
    sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    async with _backfilling(sandbox, tmp_path) as (daemon, client, arguments):
        assert await daemon.end(number) == (-9 if number == signal.SIGKILL else 0)
        _, err = await client.communicate()
        assert client.returncode == 1
        assert b"Traceback" not in err
        assert b"what was done is kept" in err.splitlines()[-1]
        assert "Traceback" not in daemon.log
        sandbox.bland.faults.clear()
        await daemon.start()
        ended = await command(daemon.config, *arguments)
        assert ended.status == 0, ended.stderr
        assert "resumed where an earlier run stopped" in ended.stdout
        await eventually(lambda: not missing(sandbox), what="everything is delivered")
        explained(daemon.config.with_name("state"))
        verified = await command(daemon.config, "verify", *arguments[1:])
        assert verified.status == 0, verified.stdout
        assert await daemon.end() == 0
    assert sandbox.elastic.stored.total == 400


@contextlib.asynccontextmanager
async def _backfilling(
    sandbox: Sandbox, folder: Path
) -> AsyncIterator[tuple[Daemon, asyncio.subprocess.Process, tuple[str, ...]]]:
    """Yield a service in the middle of a backfill, its client command, and that one's arguments."""
    now = datetime.now(UTC)
    sandbox.bland.fill(400, now - 9 * DAY, now - 5 * DAY)
    tables = sources(sandbox)
    del tables["cekura"]
    config = configure(folder, tables, sinks(sandbox))
    arguments: tuple[str, ...] = ("backfill", "bland", "--from", (now - 9 * DAY).isoformat())
    arguments += ("--to", (now - 5 * DAY).isoformat())
    async with Daemon(config) as daemon:
        sandbox.bland.faults.add(faults.delay(0.05), times=None)
        client = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "auditrelay",
                "-c",
                str(config),
                *arguments,
                "--concurrency",
                "1",
            ),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await eventually(lambda: len(daemon.logged("slice_backfilled")) >= 5, what="under way")
            yield daemon, client, arguments
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()


async def test_a_backfill_continues_when_its_source_is_replaced(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with _backfilling(sandbox, tmp_path) as (daemon, client, arguments):
        tables = sources(sandbox)
        del tables["cekura"]
        tables["bland"]["timeout"] = "29s"
        configure(tmp_path, tables, sinks(sandbox))
        daemon.process.send_signal(signal.SIGHUP)
        await eventually(lambda: daemon.logged("reloaded", changed=["bland"]), what="replaced")
        sandbox.bland.faults.clear()
        _, err = await client.communicate()
        assert client.returncode == 0, err
        assert b"Traceback" not in err
        verified = await command(daemon.config, "verify", *arguments[1:])
        assert verified.status == 0, verified.stdout
        await eventually(lambda: not missing(sandbox), what="everything is delivered")
        assert await daemon.end() == 0
        assert "Traceback" not in daemon.log
    assert {stored.total for stored in intakes(sandbox).values()} == {400}
