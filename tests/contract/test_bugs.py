"""A bug in the code for one source or sink costs that one, loudly, and for as long as it lasts."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.service.serving import silent
from tests.support.bugs import FAST, SPEED, Bug, fill, instance, lines, out
from tests.support.clock import FakeClock
from tests.support.daemon import Table, configure, eventually
from tests.support.extent import some_of
from tests.support.rigs import RIGS, WITHOUT_DOUBLE

from auditrelay.cli.check import check_all
from auditrelay.clock import Clock
from auditrelay.collect.file_collector import FileCollector
from auditrelay.config import load
from auditrelay.errors import RelayError, exit_status
from auditrelay.sandbox import Vendor, vendors
from auditrelay.service.app import App
from auditrelay.service.control_socket import ControlSocket
from auditrelay.service.desk import Backfill, Request, Verify
from auditrelay.sinks import Item, Sealing, Verdict, file
from auditrelay.sources import ExportFile, ExportPage
from auditrelay.store.sql.store import SqlStore

VENDORS = vendors.available()


@pytest.fixture
def speed() -> float:
    return SPEED


@pytest.fixture
async def doubles(clock: FakeClock) -> AsyncIterator[Callable[[str], Any]]:
    """Return a function that starts the double of a vendor."""
    async with AsyncExitStack() as stack:
        started = {
            kind: await stack.enter_async_context(double(clock=clock.seconds))
            for kind, double in VENDORS.items()
        }
        yield started.__getitem__


def honest(kind: str) -> str:
    """Return another vendor than *kind*."""
    return next(other for other in VENDORS if other != kind)


def events(folder: Path) -> list[str]:
    """Return the lines of the vendors' events, not of the relay's own."""
    own = ("auditrelay.alert", "auditrelay.ledger_sealed")
    return [line for line in lines(folder) if not any(each in line for each in own)]


# --- a source -------------------------------------------------------------------------------------


def in_source(crossing: str, bug: Bug) -> Callable[[App], None]:
    """Return what plants *bug* into the source "it"."""

    def plant(app: App) -> None:
        collector: Any = app._topology.collectors["it"]
        reads_files = isinstance(collector, FileCollector)
        source = (collector._source if reads_files else collector.source)._source
        gate = (collector._writer if reads_files else collector._reader.writer)._normalizer._gate
        match crossing:
            case "walk" if reads_files:
                source.files = bug.before(source.files)
            case "walk":
                source.walk = bug.before(source.walk)
            case "page" if reads_files:
                source.files = with_bug_in_pages(source.files, bug)
            case "page":
                source.walk = bug.among(source.walk)
            case "identify":
                gate.decode = bug.before(gate.decode)
            case "read":
                gate.read = bug.before(gate.read)

    return plant


def with_bug_in_pages(files: Callable[..., Any], bug: Bug) -> Callable[..., Any]:
    async def pages(file: ExportFile) -> AsyncGenerator[ExportPage, None]:
        bug()
        async for page in file.pages:
            yield page

    async def planted(*arguments: Any) -> AsyncGenerator[ExportFile, None]:
        async for each in files(*arguments):
            yield replace(each, pages=pages(each))

    return planted


def tables(double: Vendor, folder: Path, mode: str) -> Table:
    """Return the table of a source that reads *double* in small pages, or its exports."""
    if mode == "api":
        size = max(4, double.MIN_PAGE_SIZE)
        return {**double.settings(), **FAST, "page_size": size}
    folder.mkdir()
    return {**double.file_settings(folder), "poll_interval": "1s"}


MODES = [
    (kind, mode)
    for kind, double in VENDORS.items()
    for mode in ("api", *(("files",) if double.EXPORTS else ()))
]


@pytest.mark.parametrize(
    ("kind", "mode", "crossing"),
    # Step 3: every source, and every crossing in some of them.
    [
        (*mode, crossing)
        for mode, crossing in some_of(list(product(MODES, ["walk", "page", "identify", "read"])), 3)
    ],
)
async def test_a_bug_in_a_source_holds_it_alone_until_it_works(
    tmp_path: Path,
    clock: FakeClock,
    doubles: Callable[[str], Any],
    kind: str,
    mode: str,
    crossing: str,
) -> None:
    double, other = doubles(kind), doubles(honest(kind))
    made = fill(double, clock, 2 * max(4, double.MIN_PAGE_SIZE))
    others = fill(other, clock)
    table = tables(double, tmp_path / "exports", mode)
    if mode == "files":
        double.drop(tmp_path / "exports", double.EXPORTS[0])
    bug = Bug()
    sources = {"it": table, "other": {**other.settings(), **FAST}}
    async with instance(
        tmp_path, clock, sources, {"out": out(tmp_path)}, in_source(crossing, bug)
    ) as running:
        await running.until_held("it")
        await running.until_up("other")
        await eventually(
            lambda: all(any(each in line for line in lines(tmp_path)) for each in others)
        )
        await eventually(lambda: any("auditrelay.alert_raised" in line for line in lines(tmp_path)))
        # A record that was added meanwhile is not held up.
        late = other.add(clock.now() - timedelta(seconds=1))
        running.poll("other")
        await eventually(lambda: any(late in line for line in lines(tmp_path)))
        await eventually(lambda: bug.met > 2)
        bug.there = False
        await running.until_up("it")
        await eventually(lambda: len(events(tmp_path)) >= len(made) + len(others) + 1)
        await eventually(
            lambda: any("auditrelay.alert_cleared" in line for line in lines(tmp_path))
        )
    assert len(events(tmp_path)) == len(made) + len(others) + 1


# --- a sink ---------------------------------------------------------------------------------------


def in_sink(crossing: str, bug: Bug) -> Callable[[App], None]:
    """Return what plants *bug* into the sink "it"."""

    def plant(app: App) -> None:
        supervised: Any = app._topology.sinks["it"]
        sink = supervised._sink
        match crossing:
            case "limits":
                # A property belongs to the class, so the sink gets one of its own.
                limits = bug.before(type(sink).limits.fget)
                sink.__class__ = type("Buggy", (type(sink),), {"limits": property(limits)})
            case "check, render":
                sink.check = bug.before(sink.check)
                sink.render = bug.before(sink.render)
            case "after sending" if isinstance(sink, Sealing):
                setattr(sink, "put", bug.after(sink.put))  # noqa: B010  # a method
            case "after sending":
                sink.send = bug.after(sink.send)
            case "send" if isinstance(sink, Sealing):
                setattr(sink, "put", bug.before(sink.put))  # noqa: B010  # a method
            case _:
                setattr(sink, crossing, bug.before(getattr(sink, crossing)))

    return plant


@pytest.mark.parametrize(
    ("name", "crossing"),
    # Step 2: every sink, and every crossing in some of them.
    some_of(
        list(
            product(
                [*RIGS, *WITHOUT_DOUBLE],
                ["limits", "render", "send", "after sending", "check, render"],
            )
        ),
        2,
    ),
)
async def test_a_bug_in_a_sink_holds_it_alone_until_it_works(
    tmp_path: Path, clock: FakeClock, doubles: Callable[[str], Any], name: str, crossing: str
) -> None:
    vendor = doubles("bland")
    made = fill(vendor, clock)
    bug = Bug()
    async with AsyncExitStack() as stack:
        stored: Callable[[], list[str]]
        if name in WITHOUT_DOUBLE:
            (tmp_path / "second").mkdir()
            table = out(tmp_path / "second")
            stored = lambda: [  # noqa: E731  # short
                each for line in lines(tmp_path / "second") for each in made if each in line
            ]
        else:
            rig = RIGS[name]
            double = await stack.enter_async_context(rig.double())
            double.clock = clock.seconds
            table = {**double.settings(), **(rig.variant.settings if rig.variant else {})}
            table["linger"] = "20ms"
            if "ack" in table:
                table["ack_timeout"] = "1d"  # five minutes pass in a quarter of a second here
            stored = lambda: [  # noqa: E731  # short
                each for each in double.stored.by_native_id.elements() if each in made
            ]
        sources = {"calls": {**vendor.settings(), **FAST}}
        running = await stack.enter_async_context(
            instance(
                tmp_path,
                clock,
                sources,
                {"it": table, "out": out(tmp_path)},
                in_sink(crossing, bug),
            )
        )
        await running.until_held("it")
        await running.until_up("out")
        await eventually(lambda: len(events(tmp_path)) == len(made))
        await eventually(lambda: any("auditrelay.alert_raised" in line for line in lines(tmp_path)))
        late = vendor.add(clock.now() - timedelta(seconds=1))
        running.poll("calls")
        await eventually(lambda: len(events(tmp_path)) == len(made) + 1)
        await eventually(lambda: bug.met > 2)
        bug.there = False
        await running.until_up("it")
        made.append(late)
        await eventually(lambda: set(stored()) == set(made))
        row = await running.row("it")
        assert row.dead_letters == 0
    if crossing != "after sending":
        assert sorted(stored()) == sorted(made)


@pytest.mark.parametrize(
    "name", [name for name, rig in RIGS.items() if rig.variant and "ack" in rig.variant.settings]
)
async def test_a_bug_in_acknowledgements_holds_the_sink_and_nothing_counts_as_delivered(
    tmp_path: Path, clock: FakeClock, doubles: Callable[[str], Any], name: str
) -> None:
    vendor, rig, bug = doubles("bland"), RIGS[name], Bug()
    made = fill(vendor, clock)

    def plant(app: App) -> None:
        sink: Any = app._topology.sinks["it"]._sink  # type: ignore[attr-defined]  # supervised
        send = sink.send

        async def with_bug(batch: Sequence[Item]) -> Verdict:
            verdict: Verdict = await send(batch)
            assert verdict.ack_id is not None
            channel: Any = verdict.ack_id.channel
            if "acknowledged" not in vars(channel):
                channel.acknowledged = bug.before(channel.acknowledged)
            return verdict

        sink.send = with_bug

    async with rig.double() as double:
        double.clock = clock.seconds
        assert rig.variant is not None
        table = {**double.settings(), **rig.variant.settings, "linger": "20ms"}
        sinks = {"it": table, "out": out(tmp_path)}
        sources = {"calls": {**vendor.settings(), **FAST}}
        async with instance(tmp_path, clock, sources, sinks, plant) as running:
            await running.until_held("it")
            await eventually(lambda: len(events(tmp_path)) == len(made))
            row = await running.row("it")
            assert row.backlog_events
            bug.there = False
            await running.until_up("it")

            async def delivered() -> bool:
                row = await running.row("it")
                return not row.backlog_events

            await eventually(delivered)
        assert double.stored.lost(made) == []


# --- the store, and the commands ------------------------------------------------------------------


async def test_a_bug_in_the_store_ends_the_process(
    tmp_path: Path, clock: FakeClock, doubles: Callable[[str], Any]
) -> None:
    vendor, bug = doubles("bland"), Bug()
    fill(vendor, clock)

    def plant(app: App) -> None:
        store: Any = app._store
        # The source has a view of the store of its own.
        type(store).add, kept[0] = bug.before(type(store).add), type(store).add

    kept: list[Any] = [None]
    sources = {"calls": {**vendor.settings(), **FAST}}
    try:
        with pytest.raises(ExceptionGroup) as group:
            async with instance(tmp_path, clock, sources, {"out": out(tmp_path)}, plant) as running:
                await eventually(running.serving.done)
    finally:
        SqlStore.add = kept[0]  # type: ignore[method-assign]  # as it was
    assert group.group_contains(ZeroDivisionError, depth=1)
    assert not lines(tmp_path)


async def test_a_run_that_ends_reads_and_delivers_the_rest_and_names_the_peer_with_the_bug(
    tmp_path: Path, clock: FakeClock, doubles: Callable[[str], Any]
) -> None:
    broken, honest = doubles("bland"), doubles("jitsudo")
    fill(broken, clock)
    made = fill(honest, clock)
    sources = {
        "it": {**broken.settings(), **FAST},
        "other": {**honest.settings(), **FAST},
    }
    sinks = {"out": out(tmp_path), "second": {**out(tmp_path), "path": str(tmp_path / "second")}}
    path = configure(tmp_path, sources, sinks)
    bug = Bug()
    with mock.patch("auditrelay.service.app._tune"):
        async with App.open(load(path, {}), clock, attempts=2) as app:
            in_source("walk", bug)(app)
            sink: Any = app._topology.sinks["second"]
            sink._sink.send = bug.before(sink._sink.send)
            failures = await app.once()
    assert [failure.partition(":")[0] for failure in failures] == ["it", "second"]
    assert all("ZeroDivisionError" in failure and "\n" not in failure for failure in failures)
    assert len(events(tmp_path)) == len(made)


@pytest.mark.parametrize("command", ["backfill", "verify"])
async def test_a_command_that_meets_a_bug_fails_with_one_line_and_the_service_goes_on(
    tmp_path: Path, clock: FakeClock, doubles: Callable[[str], Any], command: str
) -> None:
    vendor, bug = doubles("bland"), Bug()
    fill(vendor, clock)
    bug.there = False
    sources = {"it": {**vendor.settings(), **FAST}}
    async with instance(
        tmp_path, clock, sources, {"out": out(tmp_path)}, in_source("walk", bug)
    ) as running:
        await running.until_up("it")
        bug.there = True
        start = clock.now() - timedelta(hours=1)
        request: Request = Verify(source="it", start=start, end=None, repair=False, at_sink=False)
        if command == "backfill":
            request = Backfill(
                source="it",
                start=start,
                end=None,
                sinks=(),
                dry_run=False,
                newest_first=True,
                concurrency=2,
            )
        with pytest.raises(RelayError) as caught:
            await ControlSocket(tmp_path / "state").ask(request, silent)
        assert exit_status(caught.value) == 1
        assert "code for it: ZeroDivisionError" in str(caught.value)
        assert "\n" not in str(caught.value)
        bug.there = False
        await running.until_up("it")


@pytest.mark.parametrize("where", ["a source", "a sink"])
async def test_check_shows_the_bug_of_one_and_that_the_others_work(
    tmp_path: Path, doubles: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    vendor, other = doubles("bland"), doubles("jitsudo")
    module = "auditrelay.sources.bland" if where == "a source" else "auditrelay.sinks.file"

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"{module}.build", broken)
    path = configure(
        tmp_path, {"calls": vendor.settings(), "access": other.settings()}, {"out": out(tmp_path)}
    )
    rows = await check_all(load(path, {}), Clock())
    failed = "calls" if where == "a source" else "out"
    assert [row.name for row in rows if row.result == "failed"] == [failed]
    assert [row.name for row in rows if row.result == "ok"] == [
        name for name in ("calls", "access", "out") if name != failed
    ]
    (message,) = [row.message for row in rows if row.name == failed]
    assert f"code for {failed}: ZeroDivisionError" in message


@pytest.mark.parametrize("where", ["a source", "a sink"])
async def test_one_that_cannot_be_made_does_not_keep_the_others_from_starting(
    tmp_path: Path,
    clock: FakeClock,
    doubles: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    vendor = doubles("jitsudo")
    made = fill(vendor, clock)
    module = "sources.bland" if where == "a source" else "sinks.file"
    works = file.build

    def broken(name: str, *arguments: Any) -> Any:
        if name != "it":
            return works(name, *arguments)
        raise ZeroDivisionError

    monkeypatch.setattr(f"auditrelay.{module}.build", broken)
    sources = {"other": {**vendor.settings(), **FAST}}
    sinks = {"out": out(tmp_path)}
    if where == "a source":
        sources["it"] = {**doubles("bland").settings(), **FAST}
    else:
        sinks["it"] = {**out(tmp_path), "path": str(tmp_path / "it")}
    async with instance(tmp_path, clock, sources, sinks, lambda _: None) as running:
        await running.until_held("it")
        await eventually(lambda: len(events(tmp_path)) == len(made))
        if where == "a sink":
            assert (await running.row("it")).backlog_events >= len(made)
