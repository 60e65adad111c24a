"""A bug in the code for one source or sink costs that one, loudly, and for as long as it lasts."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.bugs import FAST, SPEED, Bug, fill, instance, lines, out
from tests.support.clock import FakeClock
from tests.support.daemon import Table, eventually
from tests.support.rigs import RIGS, WITHOUT_DOUBLE

from auditrelay.collect.file_collector import FileCollector
from auditrelay.sandbox import Vendor, vendors
from auditrelay.service.app import App
from auditrelay.sinks import Item, Verdict
from auditrelay.sources import ExportFile, ExportPage

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
    return [line for line in lines(folder) if "auditrelay.alert" not in line]


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

    async def each(*arguments: Any) -> AsyncGenerator[ExportFile, None]:
        async for file in files(*arguments):
            yield replace(file, pages=pages(file))

    return each


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


@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.parametrize("crossing", ["walk", "page", "identify", "read"])
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
            case "after sending":
                sink.send = bug.after(sink.send)
            case _:
                setattr(sink, crossing, bug.before(getattr(sink, crossing)))

    return plant


@pytest.mark.parametrize("crossing", ["limits", "render", "send", "after sending", "check, render"])
@pytest.mark.parametrize("name", [*RIGS, *WITHOUT_DOUBLE])
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
