"""
The states of an instance that the page has to show well, each in a store of its own.

All of it is in a real store, written by the store's own methods; only the time at which an event
came into the spool is set by hand.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.conftest import make_event
from tests.support.clock import FakeClock

from auditrelay.clock import Clock
from auditrelay.config import load
from auditrelay.config.model import Config
from auditrelay.deliver.throughput import Throughput
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.status.model import Report, StoreStatus
from auditrelay.status.port import Unready
from auditrelay.status.report import report
from auditrelay.store import Declared, Proof, RejectedEvent
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.leases import KEEPER
from auditrelay.store.replicas import LeaseRow, Replica, Situation
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.state_dir import DATABASE, prepare
from auditrelay.store.sqlite.store import open_store
from auditrelay.window import Interval, micros

SETTINGS = """
state_dir = "{folder}/state"
[spool]
max_bytes = "{room}"
[sources.acme-voice]
type = "cekura"
organization_id = "42"
api_key = "${{env:CEKURA_API_KEY}}"
[sources.acme-calls]
type = "bland"
api_key = "${{env:BLAND_API_KEY}}"
[sources.acme-access]
type = "jitsudo"
base_url = "https://jitsudo.example.com"
tenant_id = "2489e9ad-2ee2-4e00-8ec9-32d5f69181c0"
api_key = "${{env:JITSUDO_API_KEY}}"
[sinks.splunk]
type = "splunk_hec"
url = "https://splunk.example.com:8088"
token = "${{env:SPLUNK_HEC_TOKEN}}"
[sinks.datadog]
type = "datadog"
api_key = "${{env:DD_API_KEY}}"
[sinks.elastic]
type = "elasticsearch"
urls = ["https://es.example.com:9200"]
api_key = "${{env:ELASTIC_API_KEY}}"
"""
SECRET = "a-secret-that-must-not-be-shown"
ENVIRON = {
    name: f"{SECRET}-{name}"
    for name in (
        "CEKURA_API_KEY",
        "BLAND_API_KEY",
        "JITSUDO_API_KEY",
        "SPLUNK_HEC_TOKEN",
        "DD_API_KEY",
        "ELASTIC_API_KEY",
    )
}
SOURCES = ("acme-voice", "acme-calls", "acme-access")
SINKS = ("splunk", "datadog", "elastic")
HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
WORKLOAD = (31, 44, 38, 52, 47, 12, 9, 40)
"""Events of each day; BUSY says how many times as many each source makes."""


@dataclass
class Stage:
    """An instance without running loops, as the status port sees one."""

    config: Config
    store: SqlStore
    now: datetime
    throughput: dict[str, Throughput] = field(default_factory=dict)
    loops_stuck: list[str] = field(default_factory=list)
    situation: Situation | None = None
    shared: StoreStatus | None = None
    _numbers: int = 0

    async def status(self) -> Report:
        return report(
            self.config,
            await self.store.sources(),
            await self.store.sinks(),
            spool_bytes=self.store.spool_bytes,
            evidence=await self.store.log.state(),
            now=self.now,
            throughput=self.throughput,
            stuck=self.loops_stuck,
            restart_command="systemctl restart auditrelay",
            situation=self.situation,
            store=self.shared,
        )

    async def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return b"auditrelay_build_info 1\n", "text/plain"

    def stuck(self) -> list[str]:
        return self.loops_stuck

    def joined(self) -> bool:
        return True

    def unready(self) -> list[Unready]:
        return []

    def ago(self, ago: timedelta) -> str:
        return (self.now - ago).isoformat()

    async def source(self, name: str, **condition: Any) -> None:
        """Set the health of the source *name*: up, except for *condition*."""
        usual = {
            "up": True,
            "since": self.ago(9 * DAY),
            "last_poll_at": self.ago(2 * MINUTE),
            "last_event_at": self.ago(7 * MINUTE),
        }
        saved = SourceCondition(**{**usual, **condition})
        await self.store.save_condition("source", name, saved)

    async def sink(self, name: str, **condition: Any) -> None:
        """Set the health of the sink *name*: up, except for *condition*."""
        usual = {
            "up": True,
            "since": self.ago(9 * DAY),
            "last_delivered_at": self.ago(2 * MINUTE),
        }
        await self.store.save_condition("sink", name, SinkCondition(**{**usual, **condition}))

    def events(
        self,
        source: str,
        number: int,
        start: datetime,
        end: datetime,
        *,
        shown_after: timedelta = MINUTE,
    ) -> list[AuditEvent]:
        """Make events that have occurred evenly between *start* and *end*."""
        self._numbers += number
        first = self._numbers - number
        step = (end - start) / max(number, 1)
        return [
            make_event(
                first + each,
                source=source,
                at=micros(start + each * step),
                fetched=micros(start + each * step + shown_after),
            )
            for each in range(number)
        ]

    async def read(self, source: str, start: datetime, end: datetime, events: int) -> None:
        """Cover a span in which *events* occurred."""
        made = self.events(source, events, start, end)
        await self.store.add(source, Page.of(made), proof=Proof(covers=(Interval(start, end),)))

    async def week(self, source: str, busy: int, until: datetime) -> None:
        """Cover the time from the start of *source* up to *until*, day by day."""
        day = self.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start = self.now - 9 * DAY
        for number in range(9):
            end = min(day - (8 - number) * DAY + DAY, until)
            if end > start:
                share = (end - start) / DAY
                events = round(busy * WORKLOAD[number % 8] * share)
                await self.read(source, start, end, events)
                start = end

    async def gap(self, source: str, start: datetime, end: datetime) -> None:
        """Declare a gap, because of ``catch_up_limit``."""

        def notice(gap: Declared, filled: bool) -> AuditEvent:
            assert not filled
            return self.events(source, 1, gap.interval.start, gap.interval.end)[0]

        proof = Proof(gaps=((Interval(start, end), "catch_up_limit"),))
        await self.store.add(source, Page.of([]), proof=proof, notice=notice)

    async def delivered(self, *sinks: str) -> None:
        """Record everything in the spool as delivered to *sinks*."""
        everything = [(0, self._numbers)]
        for sink in sinks:
            await self.store.settle(sink, everything)

    async def dead(self, sink: str, number: int) -> None:
        """Write *number* events to the dead letters of *sink*."""
        made = self.events("acme-calls", number, self.now - HOUR, self.now - 30 * MINUTE)
        first = await self.store.end_of_spool("acme-calls")
        await self.store.resend("acme-calls", [sink], [Page.of(made)], Proof())
        places = range(first, first + number)
        await self.store.settle(
            sink,
            [(first, first + number)],
            [
                RejectedEvent(place, "mapping", "no", 400, 1, self.now - HOUR, self.now - HOUR)
                for place in places
            ],
        )

    async def wait_since(self, time: datetime) -> None:
        """Set the time at which all events came into the spool to *time*, unless it is earlier."""
        with (
            contextlib.closing(
                sqlite3.connect(self.config.state_dir / DATABASE, timeout=10)
            ) as database,
            database,
        ):
            database.execute("update spool set stored = min(stored, ?)", (micros(time),))


@contextlib.asynccontextmanager
async def stage(
    folder: Path, *, room: str = "2GiB", now: datetime | None = None
) -> AsyncIterator[Stage]:
    """An instance with three sources and three sinks that has done its work for nine days."""
    path = folder / "auditrelay.toml"
    path.write_text(SETTINGS.format(folder=folder, room=room))
    config = load(path, {"HOME": str(folder), **ENVIRON})
    config = replace(config, path=Path("/etc/auditrelay/config.toml"))
    prepare(config.state_dir)
    store = await open_store(
        config.state_dir,
        clock=Clock() if now is None else FakeClock(now),
        max_bytes=config.spool.max_bytes,
        retention=config.spool.retention,
        remember=config.spool.remember,
    )
    now = now or datetime.now(UTC)
    staged = Stage(config, store, now)
    try:
        for name in SOURCES:
            await store.start_source(name, now - 9 * DAY)
            await staged.source(name)
        for name in SINKS:
            await store.start_sink(name, SOURCES)
            await staged.sink(name)
            staged.throughput[name] = Throughput(now - 9 * DAY)
        yield staged
    finally:
        await store.close()


BUSY = {"acme-voice": 30, "acme-calls": 18, "acme-access": 7}
"""How many times WORKLOAD each source makes."""
SETTLED = timedelta(seconds=95)


async def _work(staged: Stage, *, but: str = "", until: timedelta = SETTLED) -> None:
    """Read all sources except *but* up to *until* ago, and deliver that to all sinks."""
    for name, busy in BUSY.items():
        if name != but:
            await staged.week(name, busy, staged.now - until)
    await staged.delivered(*SINKS)
    for sink in SINKS:
        _hum(staged, sink, range(1, 60))


def _hum(staged: Stage, sink: str, minutes: range) -> None:
    for minute in minutes:
        if minute % 5 == 2:
            staged.throughput[sink].add(staged.now - minute * MINUTE, 2 + minute * 7 % 11)


async def healthy(staged: Stage) -> None:
    """All is well."""
    await _work(staged)


async def sink_down(staged: Stage) -> None:
    """One sink cannot be reached for hours, and events wait for it."""
    down = 3 * HOUR + 14 * MINUTE
    await _work(staged, until=down)
    staged.throughput["splunk"] = Throughput(staged.now - 9 * DAY)
    for name, busy in BUSY.items():
        await staged.read(name, staged.now - down, staged.now - SETTLED, 6 * busy)
    await staged.delivered("datadog", "elastic")
    await staged.wait_since(staged.now - down + 2 * MINUTE)
    await staged.sink(
        "splunk",
        up=False,
        since=staged.ago(down),
        last_delivered_at=staged.ago(down + MINUTE),
        last_error="cannot connect to https://splunk.example.com:8088: Connection refused",
        error_code="connect",
    )


async def source_held(staged: Stage) -> None:
    """One source refuses our key since last night."""
    await _work(staged, but="acme-calls")
    begun = 9 * HOUR + 46 * MINUTE
    await staged.week("acme-calls", BUSY["acme-calls"], staged.now - begun)
    await staged.delivered(*SINKS)
    await staged.source(
        "acme-calls",
        up=False,
        held=True,
        since=staged.ago(begun - 5 * MINUTE),
        last_event_at=staged.ago(begun + 3 * MINUTE),
        last_error="401 from https://api.bland.ai: Invalid API key; check api_key",
        error_code="status_401",
    )


async def gap(staged: Stage) -> None:
    """One source was not read for a while, and a resweep has found late events."""
    await _work(staged, but="acme-voice")
    begin, end = staged.now - 3 * DAY - 5 * HOUR, staged.now - 2 * DAY - 20 * HOUR
    await staged.week("acme-voice", BUSY["acme-voice"], begin)
    await staged.gap("acme-voice", begin, end)
    middle = staged.now - 1 * DAY
    await staged.read("acme-voice", end, middle, 1900)
    await staged.read("acme-voice", middle, staged.now - SETTLED, 1300)
    await staged.delivered(*SINKS)
    for days, events in ((5.3, 2), (1.6, 1), (0.4, 4)):
        found = staged.now - days * DAY
        if (found + HOUR).date() != found.date():
            found -= HOUR  # the ledger has an entry a day (UTC), and these events are to be in one
        made = staged.events("acme-voice", events, found, found + HOUR, shown_after=DAY)
        await staged.store.add("acme-voice", Page.of(made), via="resweep 24h")
    await staged.delivered(*SINKS)


async def long_backlog(staged: Stage) -> None:
    """A sink is slower than the sources; the spool fills; some events are dead letters."""
    burst = 3 * HOUR
    await _work(staged, until=burst)
    start, step = staged.now - burst, (burst - SETTLED) / 24
    for number in range(24):
        await staged.read("acme-voice", start + number * step, start + (number + 1) * step, 500)
    for name in ("acme-calls", "acme-access"):
        await staged.read(name, start, staged.now - SETTLED, 6 * BUSY[name])
    await staged.delivered("splunk", "datadog")
    await staged.dead("elastic", 3)
    await staged.wait_since(staged.now - 2 * HOUR - 40 * MINUTE)
    for minute in range(58):
        staged.throughput["elastic"].add(staged.now - minute * MINUTE, 30 + minute * 13 % 17)


async def replicas(staged: Stage) -> None:
    """
    One of four replicas has died, and another cannot read a directory.

    What the dead one had, no other may serve.
    """
    await _work(staged)
    staged.throughput.clear()
    counts = [2 + minute * 7 % 11 for minute in range(60)]
    a, b, c, d = (
        Replica(
            UUID(int=number),
            name,
            "1.0.0",
            staged.now - (9 - number) * DAY,
            beats=7,
            draining=False,
            command=False,
            serves={},
            expires_in=-200 if name == "dc2-a" else 8,
            info={
                "throughput": {"sink datadog": counts, "sink splunk": counts[::-1]},
                "unable": {"source acme-access": "its directory /srv/exports is not there"}
                if name == "dc1-c"
                else {},
            },
        )
        for number, name in enumerate(("dc1-a", "dc1-b", "dc1-c", "dc2-a"), 1)
    )
    holds = {
        "source acme-voice": a,
        "source acme-calls": b,
        "source acme-access": b,
        "sink splunk": c,
        "sink datadog": a,
        "sink elastic": d,
        KEEPER: c,
    }
    staged.situation = Situation(
        now=staged.now,
        replicas=(a, b, c, d),
        leases=tuple(
            LeaseRow(unit, 3, UUID(int=number), of.id, staged.now - DAY)
            for number, (unit, of) in enumerate(holds.items())
        ),
        requests=(),
        end=0,
        heads=0,
        writes=0,
        key="",
    )
    staged.shared = StoreStatus(up=True, away_since=None, disagreements={})


STAGES = {
    "healthy": healthy,
    "sink-down": sink_down,
    "source-held": source_held,
    "gap": gap,
    "long-backlog": long_backlog,
}
SHARED = {"replicas": replicas}
"""With a shared store."""
ROOM = {"long-backlog": "2800KiB"}
"""``spool.max_bytes`` where that matters."""


@contextlib.asynccontextmanager
async def staged(name: str, folder: Path, now: datetime | None = None) -> AsyncIterator[Stage]:
    """Open the stage called *name* in *folder*, as it is *now*."""
    async with stage(folder, room=ROOM.get(name, "2GiB"), now=now) as opened:
        await {**STAGES, **SHARED}[name](opened)
        yield opened
