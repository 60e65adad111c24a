"""When the evidence is sealed, and that nothing stops for a seal that fails."""

import asyncio
import contextlib
import json
import os
import selectors
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.daemon import eventually
from tests.support.odd_files import at_once
from tests.support.stores import MINUTE, NOON, backlog, explained, opened

from auditrelay.config.model import Alerts, Config, Evidence, Log, Spool, Status
from auditrelay.errors import EvidenceBroken, NotSealed, StoreFull
from auditrelay.events.notices import SEALED
from auditrelay.evidence.heads import Head, Keys
from auditrelay.service.seal import FIRST, Sealer
from auditrelay.settings.reserved import ALERTS
from auditrelay.store.sealing import MUCH_PAGES
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.store import open_view
from auditrelay.store.sqlite.tip import TipFile


@dataclass
class World:
    """A store with one sink, and what seals it."""

    folder: Path
    store: SqlStore
    clock: FakeClock
    config: Config
    keys: Keys | None = None
    announced: int = 0
    outcomes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sealer = Sealer(
            self.store.log,
            lambda: self.config,
            keys=self.keys,
            clock=self.clock,
            announce=self._announce,
            on_seal=self.outcomes.append,
        )

    def _announce(self) -> None:
        self.announced += 1

    def heads(self) -> list[str]:
        with open_view(self.folder) as view:
            return [word for (word,) in view.read(lambda db: db.execute("select word from head"))]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    folder = tmp_path / "state"
    folder.mkdir()
    clock = FakeClock(NOON)
    store = await opened(folder, clock=clock)
    config = Config(None, folder, Status(), Log(), Spool(), Alerts(), {}, {})
    world = World(folder, store, clock, config)
    await world.sealer.begin()
    await store.start_source(ALERTS, NOON)
    await store.start_source("okta", NOON)
    await store.start_sink("splunk", ["okta", ALERTS])
    yield world
    await store.close()


async def test_a_head_is_an_event_a_log_line_a_line_of_a_file_and_the_tip(world: World) -> None:
    file = world.folder.parent / "heads"
    world.config = replace(world.config, evidence=Evidence(heads=file))
    with capture_logs() as logged:
        assert await world.sealer.seal()
    [word] = world.heads()
    head = Head.parse(word)
    [line] = [each for each in logged if each["event"] == "ledger_sealed"]
    assert (line["log"], line["size"], line["head"]) == (head.log, head.size, word)
    [page] = await backlog(world.store)
    [event] = page.events
    assert (event.native_action, event.uid, event.source) == (SEALED, head.uid, ALERTS)
    assert word in str(event.message)
    assert file.read_text() == f"{word}\n"
    assert TipFile(world.folder).read() == Head(head.log, head.size, head.root)
    assert world.announced == 1
    assert world.outcomes == [None]
    explained(world.folder, sealed=True)


async def test_what_is_not_in_the_file_of_heads_is_there_with_the_next_one(world: World) -> None:
    file = world.folder.parent / "none" / "heads"
    world.config = replace(world.config, evidence=Evidence(heads=file))
    with capture_logs() as logged:
        assert await world.sealer.seal()
    assert "heads_not_written" in [each["event"] for each in logged]
    file.parent.mkdir()
    assert await world.sealer.seal()
    assert file.read_text().split() == world.heads()


async def test_a_pipe_instead_of_the_file_of_heads_is_reported_and_not_waited_for(
    world: World,
) -> None:
    file = world.folder.parent / "heads"
    os.mkfifo(file)
    world.config = replace(world.config, evidence=Evidence(heads=file))
    with at_once(), capture_logs() as logged:
        assert await world.sealer.seal()
    [line] = [each for each in logged if each["event"] == "heads_not_written"]
    assert "it is a pipe" in line["reason"]


@pytest.mark.parametrize(
    "error", [StoreFull("no room"), NotSealed("a line is too long"), EvidenceBroken("no")]
)
async def test_a_seal_that_fails_is_reported_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken, capture_logs() as logged:
        broken.setattr(world.store.log, "seal", fail)
        broken.setattr(world.store.log, "continue_damaged", fail)
        assert not await world.sealer.seal()
        world.clock.advance(MINUTE)
        assert not await world.sealer.seal()
    assert [each["event"] for each in logged].count("ledger_not_sealed") == 2
    assert world.outcomes == [(str(error), NOON)] * 2, "since the first one"
    assert await world.sealer.seal()
    assert world.outcomes[-1] is None


async def test_entries_that_were_changed_are_continued_at_once(world: World) -> None:
    assert await world.sealer.seal()
    await world.store._engine.write(
        lambda db: db.execute("update meta set value = zeroblob(8) where name = 'frontier'")
    )
    with capture_logs() as logged:
        assert await world.sealer.seal()
    events = [each["event"] for each in logged]
    assert events.index("evidence_broken") < events.index("evidence_continued")
    first, second = map(Head.parse, world.heads())
    assert first.log != second.log
    assert (await world.store.log.state()).broken


async def test_the_clock_of_entries_never_goes_back(world: World) -> None:
    assert await world.sealer.seal()
    world.clock.set(NOON - timedelta(days=1))
    assert await world.sealer.seal()
    with open_view(world.folder) as view:
        times = [at for (at,) in view.read(lambda db: db.execute("select at from head"))]
    assert times == sorted(times)
    explained(world.folder, sealed=True)


@contextlib.asynccontextmanager
async def sealing(world: World, has_read: Callable[[], bool]) -> AsyncIterator[None]:
    task = asyncio.create_task(world.sealer.keep_sealing(has_read))
    yield
    task.cancel()
    await asyncio.wait([task])


async def test_the_first_seal_waits_for_the_first_windows(world: World) -> None:
    read: list[bool] = []
    async with asyncio.timeout(90), sealing(world, lambda: bool(read)):
        world.sealer.looked.set()
        await asyncio.sleep(0)
        assert world.heads() == []
        read.append(True)
        world.sealer.looked.set()
        await eventually(lambda: len(world.heads()) == 1)


async def test_a_source_that_is_not_read_does_not_hold_it_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(minutes=5) == FIRST
    monkeypatch.setattr("auditrelay.service.seal.FIRST", timedelta(0))
    async with asyncio.timeout(90), sealing(world, lambda: False):
        await eventually(lambda: len(world.heads()) == 1)


async def test_much_that_waits_is_sealed_early_and_not_at_once(world: World) -> None:
    async with asyncio.timeout(90), sealing(world, lambda: True):
        await eventually(lambda: len(world.heads()) == 1)
        world.store.log.waiting.pages[1] = MUCH_PAGES
        world.store.log.waiting.check()
        await eventually(lambda: len(world.heads()) == 2)
    assert world.clock.waits == [60.0], "a minute after the seal before"
    assert not world.store.log.waiting.pages


class Jumping(selectors.DefaultSelector):
    """
    Waits for what is going on, and jumps to the next timer where nothing is: *ahead* by so much.

    The *clock* goes along. *jumps* counts the times that a timer has woken the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(NOON)
        self.ahead, self.jumps = 0.0, 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self.jumps += 1
            self.ahead += timeout
            self.clock.advance(timeout)
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on which no time passes while it waits."""

    def __init__(self, selector: Jumping) -> None:
        self.jumping = selector
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self.jumping.ahead


def test_at_rest_the_seal_wakes_the_process_once_an_hour(tmp_path: Path) -> None:
    folder, selector, hours = tmp_path / "state", Jumping(), 24
    folder.mkdir()

    class Outcomes(list[Any]):
        """Sets *enough* when so many seals have been made."""

        enough = asyncio.Event()

        def append(self, outcome: Any) -> None:
            super().append(outcome)
            if len(self) == hours:
                self.enough.set()

    async def rest() -> World:
        store = await opened(folder, clock=selector.clock)
        config = Config(None, folder, Status(), Log(), Spool(), Alerts(), {}, {})
        outcomes = Outcomes()
        world = World(folder, store, selector.clock, config, outcomes=outcomes)
        await world.sealer.begin()
        await store.start_source(ALERTS, NOON)
        async with sealing(world, lambda: True):
            # No timer of this test: it would be jumped to while a thread of the store works.
            await outcomes.enough.wait()
        await store.close()
        return world

    with asyncio.Runner(loop_factory=lambda: JumpingLoop(selector)) as runner:
        world = runner.run(rest())
    assert len(world.heads()) == hours
    slept = selector.clock.now() - NOON
    assert slept > timedelta(hours=hours - 1, seconds=-1)
    assert selector.jumps <= slept / timedelta(hours=1) + 1


async def test_a_reload_that_changes_something_is_sealed(world: World) -> None:
    await world.sealer.reload()
    assert not world.sealer.due.is_set()
    world.config = replace(world.config, spool=Spool(retention=timedelta(days=1)))
    await world.sealer.reload()
    assert world.sealer.due.is_set()


async def test_a_stop_is_a_fact_and_is_sealed(world: World) -> None:
    await world.sealer.end()
    with open_view(world.folder) as view:
        lines = view.read(lambda db: db.execute("select text from entry where unit = 'instance'"))
    assert '"fact":"stopped"' in lines[0][0]


async def test_a_process_that_could_not_begin_in_time_ends_without_a_branch(tmp_path: Path) -> None:
    """As if the state were a copy: an end would be the first thing that it tells."""
    store = await opened(tmp_path, clock=FakeClock(NOON))
    config = Config(None, tmp_path, Status(), Log(), Spool(), Alerts(), {}, {})
    world = World(tmp_path, store, FakeClock(NOON), config)
    await store.start_source(ALERTS, NOON)
    with capture_logs() as logged:
        await world.sealer.end()
    assert [each["event"] for each in logged] == ["ledger_sealed"]
    await store.close()
    explained(tmp_path, sealed=True)


async def test_a_head_that_no_sink_has_taken_is_counted(world: World) -> None:
    for number in range(2):
        assert await world.sealer.seal()
        state = await world.store.log.state()
        assert state.untold == number + 1
        assert state.taken_by == ()
    [*_, last] = await backlog(world.store)
    await world.store.settle("splunk", [(0, last.first + len(last.events))])
    state = await world.store.log.state()
    assert (state.untold, state.untold_since) == (0, None)
    assert isinstance(state.sealed, int)
    assert state.head == world.heads()[-1]
    assert state.taken_by == ("splunk",)
    assert await world.sealer.seal()
    assert (await world.store.log.state()).taken_by == (), "it is that of the newest head"


async def test_a_sink_that_began_behind_a_head_has_not_taken_it(world: World) -> None:
    assert await world.sealer.seal()
    await world.store.start_sink("late", ["okta", ALERTS])
    assert (await world.store.log.state()).taken_by == ()
    assert await world.sealer.seal()
    with open_view(world.folder) as view:
        lines = view.read(lambda db: db.execute("select text from entry where unit = 'instance'"))
    [head] = [fact for fact in json.loads(lines[-1][0])["facts"] if fact["fact"] == "head"]
    assert head["told"] == []
