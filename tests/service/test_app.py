"""One instance from its start to its end: what it starts, in which order it stops, what is left."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.daemon import eventually
from tests.support.stores import explained, opened

from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.errors import ConfigError, Fenced, RelayError, StateError, StoreFull
from auditrelay.events.notices import SEALED
from auditrelay.sandbox.vendors.bland import Bland
from auditrelay.service.app import App
from auditrelay.service.control_socket import SOCKET
from auditrelay.service.systemd import Supervisor
from auditrelay.window import Interval

Configure = Callable[..., Config]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the interpreter of the tests as it is."""
    monkeypatch.setattr("auditrelay.service.app._tune", lambda: None)


@pytest.fixture
async def vendor() -> AsyncIterator[Bland]:
    async with Bland() as vendor:
        now = datetime.now(UTC)
        vendor.fill(5, now - timedelta(minutes=40), now - timedelta(minutes=10))
        yield vendor


@pytest.fixture
def configure(tmp_path: Path, vendor: Bland) -> Configure:
    """Load a configuration with the source "calls" and the file sink "out"."""

    def make(**source: str) -> Config:
        table: dict[str, Any] = {**vendor.settings(), "initial_lookback": "1h", **source}
        path = tmp_path / "c.toml"
        path.touch(mode=0o600)
        lines = [
            f'state_dir = "{tmp_path / "state"}"',
            '[status]\nlisten = "127.0.0.1:0"\n[sources.calls]',
            *(f"{key} = {json.dumps(value)}" for key, value in table.items()),
            f'[sinks.out]\ntype = "file"\npath = "{tmp_path / "out.jsonl"}"',
        ]
        path.write_text("\n".join(lines))
        return load(path, {"HOME": str(tmp_path)})

    return make


class Recorder(Supervisor):
    """A service manager that writes down what it is notified of."""

    def __init__(self) -> None:
        super().__init__({}, Clock())
        self.heard: list[str] = []

    def ready(self, sentence: str) -> None:
        self.heard.append("ready")

    def reloading(self) -> None:
        self.heard.append("reloading")

    def stopping(self) -> None:
        self.heard.append("stopping")


def written(tmp_path: Path) -> list[str]:
    out = tmp_path / "out.jsonl"
    return out.read_text().splitlines() if out.exists() else []


def lines(tmp_path: Path) -> list[str]:
    """Return the lines of the events, without heads of the evidence."""
    return [line for line in written(tmp_path) if SEALED not in line]


async def test_once_reads_and_delivers_everything_and_ends(
    tmp_path: Path, configure: Configure
) -> None:
    async with App.open(configure(), Clock(), attempts=1) as app:
        assert await app.once() == []
    assert len(lines(tmp_path)) == 5
    head, *others = written(tmp_path)[5:]
    assert SEALED in head, "the head comes last, and is delivered before the command ends"
    assert not others
    async with App.open(configure(), Clock(), attempts=1) as app:
        assert await app.once() == []
    assert len(lines(tmp_path)) == 5


async def test_once_names_the_source_that_failed_and_delivers_the_rest(
    tmp_path: Path, configure: Configure
) -> None:
    async with App.open(configure(), Clock(), attempts=1) as app:
        assert await app.once() == []
    async with App.open(configure(api_key="key-0001-of-another-app"), Clock(), attempts=1) as app:
        (failure,) = await app.once()
    assert failure.startswith("calls: 401 ")


async def test_the_state_is_locked_while_it_is_open(configure: Configure) -> None:
    config = configure()
    async with App.open(config, Clock()):
        with pytest.raises(StateError):
            async with App.open(config, Clock()):
                pass
    async with App.open(config, Clock()):
        pass


async def test_what_fails_while_it_opens_leaves_the_state_closed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConfigError("no such file")

    config = configure()
    with monkeypatch.context() as broken:
        broken.setattr("auditrelay.sinks.file.build", fail)
        with pytest.raises(ConfigError):
            async with App.open(config, Clock()):
                pass
    store = await opened(config.state_dir)
    await store.close()
    async with App.open(config, Clock()):
        pass


async def test_it_serves_until_it_is_stopped_and_stops_in_order(
    tmp_path: Path, configure: Configure
) -> None:
    stop, reload, supervisor = asyncio.Event(), asyncio.Event(), Recorder()
    addresses: list[str] = []
    configs: list[Config | ConfigError] = [ConfigError("a typo"), configure()]

    def reread() -> Config:
        found = configs.pop(0)
        if isinstance(found, ConfigError):
            raise found
        return found

    with capture_logs() as logged:
        async with App.open(configure(), Clock()) as app, asyncio.timeout(90):
            serving = asyncio.create_task(
                app.serve(stop, reload, reread, addresses.append, supervisor)
            )
            await eventually(lambda: len(lines(tmp_path)) == 5)
            assert supervisor.heard == ["ready"]
            assert len(addresses) == 1
            assert (tmp_path / "state" / SOCKET).is_socket()
            # A bad configuration changes nothing, and the next one is read all the same.
            reload.set()
            await eventually(lambda: supervisor.heard == ["ready", "reloading", "ready"])
            reload.set()
            await eventually(lambda: supervisor.heard[3:] == ["reloading", "ready"])
            stop.set()
            await serving
    assert supervisor.heard[-1] == "stopping"
    assert not (tmp_path / "state" / SOCKET).exists()
    events = [each["event"] for each in logged]
    assert events.index("reload_refused") < events.index("reloaded")
    assert events.count("ledger_sealed") == 2, "once each source was read, and at the stop"
    explained(tmp_path / "state", sealed=True)
    assert len(lines(tmp_path)) == 5


async def test_a_reload_that_the_store_does_not_take_is_made_later(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be full just then, or another replica may have taken this one for dead."""
    monkeypatch.setattr("auditrelay.service.app.RELOAD_AGAIN", 0.01)
    stop, reload, supervisor = asyncio.Event(), asyncio.Event(), Recorder()
    with capture_logs() as logged:
        async with App.open(configure(), Clock()) as app, asyncio.timeout(90):
            serving = asyncio.create_task(
                app.serve(stop, reload, configure, lambda _: None, supervisor)
            )
            await eventually(lambda: len(lines(tmp_path)) == 5)
            start_sink = app._store.start_sink
            refusals: list[RelayError] = [StoreFull("no room"), Fenced("not this replica")]

            async def refused(sink: str, sources: list[str]) -> None:
                if refusals:
                    raise refusals.pop()
                await start_sink(sink, sources)

            monkeypatch.setattr(app._store, "start_sink", refused)
            reload.set()
            await eventually(lambda: any(each["event"] == "reloaded" for each in logged))
            stop.set()
            await serving
    events = [each["event"] for each in logged if each["event"].startswith("reload")]
    assert events == ["reload_postponed", "reload_postponed", "reloaded"]


# --- a clock that is wrong


class Skewed(Clock):
    """The clock of a machine that is *ahead*."""

    def __init__(self, ahead: timedelta) -> None:
        super().__init__()
        self._ahead = ahead

    def now(self) -> datetime:
        return super().now() + self._ahead


async def once(config: Config, ahead: timedelta = timedelta(0)) -> list[str]:
    async with App.open(config, Skewed(ahead)) as app:
        return await app.once()


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=730)])
async def test_a_clock_that_is_ahead_for_one_start_changes_nothing(
    configure: Configure, vendor: Bland, tmp_path: Path, ahead: timedelta
) -> None:
    vendor.date = vendor.clock
    config = configure(retention="365d", overlap="1h", settle="0s")
    assert await once(config) == []
    (failure,) = await once(config, ahead)
    assert "ahead of that of" in failure
    assert len(lines(tmp_path)) == 5
    vendor.add(datetime.now(UTC) - timedelta(minutes=1))
    assert await once(config) == []
    assert len(lines(tmp_path)) == 6, "everything is read, nothing a second time, no gap"


@pytest.mark.parametrize("behind", [timedelta(hours=3), timedelta(days=730)])
async def test_with_a_clock_that_is_behind_nothing_comes_late_or_twice(
    configure: Configure, vendor: Bland, tmp_path: Path, behind: timedelta
) -> None:
    vendor.date = vendor.clock
    config = configure(overlap="1h", settle="0s")
    assert await once(config) == []
    vendor.add(datetime.now(UTC) - timedelta(minutes=1))
    assert await once(config, -behind) == []
    assert len(lines(tmp_path)) == 6
    assert await once(config) == []
    assert len(lines(tmp_path)) == 6


async def test_nothing_is_pruned_before_a_reply_has_said_what_time_it_is(
    configure: Configure, vendor: Bland
) -> None:
    """With our own clock alone the uids of the last year would be forgotten at the start."""
    vendor.date = vendor.clock
    config = configure()
    assert await once(config) == []
    stop = asyncio.Event()
    async with App.open(config, Skewed(timedelta(days=730))) as app:
        serving = asyncio.ensure_future(
            app.serve(stop, asyncio.Event(), lambda: config, lambda _: None, Recorder())
        )
        # Whatever it does, it has begun, and the source has answered.
        await eventually(lambda: vendor.requests > 1, what="it polls")
        await asyncio.sleep(0)
        stop.set()
        await serving
    store = await opened(config.state_dir, clock=Clock())
    count, _ = await store.count_forwarded(
        "calls", Interval(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC))
    )
    await store.close()
    assert count == 5
