"""
An instance with those who can tell whether its evidence is true: SIEMs, vendors, and an auditor.

The vendors and the SIEMs are lists in memory, which no fault and no forger of the state reaches.
The instance is a real store on a clock that only the test moves; it can be killed at any write.
"""

import asyncio
import base64
import contextlib
import csv
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy as copied
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from tests.conftest import make_event
from tests.support.clock import FakeClock
from tests.support.states import State, open_state
from tests.support.stores import NOON, backlog

from auditrelay.errors import StoreFull
from auditrelay.events import AuditEvent
from auditrelay.events.notices import gap_event
from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.evidence.auditor import checker
from auditrelay.evidence.heads import Head, Keys
from auditrelay.service.seal import head_event
from auditrelay.settings.reserved import ALERTS
from auditrelay.store import Declared, Proof, RejectedEvent
from auditrelay.store.sealing import Branch, Run, Sealed
from auditrelay.store.sql import evidence
from auditrelay.store.sql.check_report import Checked
from auditrelay.store.sql.view import StateView
from auditrelay.window import Interval, covered_until, micros, moment

if TYPE_CHECKING:
    from auditrelay.store.progress import Range
    from auditrelay.store.sql.store import SqlStore

HOUR: Final = timedelta(hours=1)
SOURCES: Final = ("okta", "voice")
SINKS: Final = ("elastic", "splunk")
SETTINGS: Final = {
    "sources.okta.settle": "5m",
    "sources.okta.redact": "default",
    "sources.okta.catch_up_limit": None,
    "sinks.splunk.sources": None,
}


class Killed(BaseException):
    """The instance was killed: nothing that it awaits ever comes back."""


@dataclass
class Siem:
    """What a SIEM holds: each event that was delivered, and when it was indexed."""

    rows: list[tuple[AuditEvent, datetime]] = field(default_factory=list)

    def take(self, events: Sequence[AuditEvent], now: datetime) -> None:
        """Index *events*, two seconds after they were sent."""
        self.rows += [(event, now + timedelta(seconds=2)) for event in events]

    @property
    def words(self) -> list[str]:
        """The heads that it was sent, the oldest first."""
        found = (re.search(checker.HEAD, event.message or "") for event, _ in self.rows)
        return [word[0] for word in found if word is not None]

    def splunk(self, path: Path) -> Path:
        """Write its rows as Splunk exports them."""
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["_indextime", "event_id", "auditrelay.raw_sha256", "description"])
            for event, at in self.rows:
                row = [int(at.timestamp()), event.uid, event.raw_sha256, event.message]
                table.writerow(row)
        return path

    def elastic(self, path: Path) -> Path:
        """Write its rows as a search of Elasticsearch returns them."""
        with path.open("w", encoding="utf-8") as file:
            for event, at in self.rows:
                own = {"uid": event.uid, "raw_sha256": event.raw_sha256}
                if event.native_action == "auditrelay.ledger_sealed":
                    own["metadata"] = json.loads(bytes(event.metadata))
                document = {"event": {"ingested": at.isoformat()}, "message": event.message}
                row = {"_id": event.uid, "_source": {"auditrelay": own, **document}}
                file.write(json.dumps(row) + "\n")
        return path


@dataclass(frozen=True)
class Shown:
    """An event that a vendor shows from *visible* on."""

    event: AuditEvent
    visible: datetime


class History:
    """
    An instance on *state*, which reads SOURCES and sends to SINKS.

    With *keys* its heads are signed. *retention* and *remember* are as in the configuration.
    """

    def __init__(
        self,
        state: State,
        *,
        keys: Keys | None = None,
        retention: timedelta = timedelta(days=7),
        remember: timedelta = timedelta(days=400),
    ) -> None:
        self.state = state
        self.keys = keys
        self.clock = FakeClock(NOON)
        self.siems = {name: Siem() for name in SINKS}
        self.vendors: dict[str, list[Shown]] = {name: [] for name in SOURCES}
        self.heads: list[Head] = []
        """Heads that were made, whether or not anything outside has them yet."""
        self.uids: dict[tuple[int, int], bytes] = {}
        """By entry and first place the keys of a page, as they were exported at any time."""
        self.settings: dict[str, Any] = dict(SETTINGS)
        self.sources, self.sinks = list(SOURCES), list(SINKS)
        """Those that are configured."""
        self.key_before: Keys | None = None
        """The key that *keys* replaces, if it does."""
        self.lives = 0
        self.kills = 0
        self.store: SqlStore
        self._left: State
        self._retention, self._remember = retention, remember
        self._pins: list[bytes] | None = None
        self._made = 0

    # -- lives -----------------------------------------------------------------------------------

    async def begin(self) -> Branch | None:
        """Start on the state as it is."""
        self.clock.restart()
        self.store = await open_state(
            self.state,
            clock=self.clock,
            retention=self._retention,
            remember=self._remember,
            keys=self.keys,
        )
        self.lives += 1
        branch = await self.store.log.begin(
            Run(secrets.token_hex(16), {"auditrelay": "test"}, self.configured(), self.key_before)
        )
        fed = [*self.sources, ALERTS]
        for source in fed:
            await self.store.start_source(source, NOON)
        for sink in self.sinks:
            await self.store.start_sink(sink, fed)
        await self.store.retire(dict.fromkeys(self.sinks, fed), fed)
        return branch

    def twin(self) -> "History":
        """
        Return a history that goes on from a copy of the state, which is not begun.

        What becomes of the twin has no influence on this.
        """
        twin = copied(self)
        twin.state, twin.clock = self.state.copy(), FakeClock(self.clock.now())
        twin.siems = {name: Siem(list(siem.rows)) for name, siem in self.siems.items()}
        twin.vendors = {name: list(rows) for name, rows in self.vendors.items()}
        twin.heads, twin.uids = list(self.heads), dict(self.uids)
        twin.settings = dict(self.settings)
        twin.sources, twin.sinks = list(self.sources), list(self.sinks)
        return twin

    def configured(self) -> facts.Body:
        """Return the fact about the configuration in force."""
        text = facts.text(self.settings).encode()
        return facts.configured(digest=facts.digest([text]), settings=self.settings)

    async def end(self) -> None:
        """Stop in an orderly way, but for the seal."""
        await self.store.close()

    async def kill(self) -> None:
        """Die: what is durable now is all that is left. Start with :meth:`begin`."""
        await self._die(self.state.left())

    async def _die(self, left: State) -> None:
        await self.store.close()
        self.state.go_on_with(left)
        self.kills += 1

    @contextlib.contextmanager
    def killing(self, write: int, *, before: bool) -> Iterator[None]:
        """Kill the instance in this block at the write number *write*: *before* it or after."""
        count, real = 0, self.state.writer.write

        async def doomed(writer: object, work: Callable[..., Any], **named: Any) -> Any:
            nonlocal count
            count += 1
            if count < write:
                return await real(writer, work, **named)
            if count == write:
                if not before:
                    with contextlib.suppress(StoreFull):
                        await real(writer, work, **named)
                self._left = self.state.left()
            raise Killed

        with mock.patch.object(self.state.writer, "write", doomed):
            yield

    async def live(self, work: Awaitable[Any]) -> bool:
        """Do *work* in a block of :meth:`killing`; return whether the instance has survived it."""
        try:
            await work
        except Killed:
            await self._die(self._left)
            return False
        return True

    # -- vendors and sources ---------------------------------------------------------------------

    def happen(self, source: str, count: int = 3, *, late: timedelta = timedelta()) -> None:
        """Let *count* things happen now at the vendor of *source*, to be seen *late*."""
        now = self.clock.now()
        for number in range(count):
            self._made += 1
            at = micros(now) + number * 1_000_000
            made = make_event(self._made, source=source, at=at, fetched=at + 60_000_000)
            self.vendors[source].append(Shown(made, now + late))

    async def covered(self, source: str) -> datetime:
        """Return until when *source* was read, or may not be read."""
        spans = await self.store.ledger(source)
        return covered_until(NOON, [span.interval for span in spans])

    def shown(self, source: str, span: Interval, now: datetime | None = None) -> list[AuditEvent]:
        """Return what the vendor of *source* shows of *span* now, or at that time."""
        now = now or self.clock.now()
        return [
            each.event
            for each in self.vendors[source]
            if span.start <= moment(each.event.at) < span.end and each.visible <= now
        ]

    async def read(self, source: str, span: Interval, *, via: str = "poll", page: int = 2) -> None:
        """Read *span* of *source* to its end, in pages."""
        found = self.shown(source, span)
        pages = [found[first : first + page] for first in range(0, len(found), page)] or [[]]
        for number, events in enumerate(pages):
            last = number == len(pages) - 1
            proof = Proof(covers=(span,)) if last else None
            notice = self.notice(source)
            await self.store.add(source, Page.of(events), via=via, proof=proof, notice=notice)

    async def poll(self, source: str) -> None:
        """Read what is new of *source*."""
        start, now = await self.covered(source), self.clock.now()
        if start < now:
            await self.read(source, Interval(start, now))

    async def resweep(self, source: str, delay: timedelta = HOUR) -> None:
        """Look for late events of *source*."""
        start = max(NOON, await self.store.resweep_from(source, delay))
        end = min(await self.covered(source), self.clock.now() - delay)
        if start < end:
            await self.read(source, Interval(start, end), via="resweep 1h")
            await self.store.resweep_done(source, delay, end)

    async def declare(self, source: str, span: Interval, reason: str) -> None:
        """Declare a gap."""
        proof = Proof(gaps=((span, reason),))
        await self.store.add(source, Page.of([]), proof=proof, notice=self.notice(source))

    def notice(self, source: str) -> Callable[[Declared, bool], AuditEvent]:
        """Return what makes the event about a gap of *source*."""
        return lambda gap, filled: gap_event(
            source=source,
            vendor="bland",
            scope=source,
            start=gap.interval.start,
            end=gap.interval.end,
            reason=gap.reason,
            now=self.clock.now(),
            tags={},
            filled=filled,
        )

    # -- sinks -----------------------------------------------------------------------------------

    async def deliver(
        self, sink: str, most: int = 10_000, *, refuse: int = 0, reduced: bool = False
    ) -> None:
        """
        Send up to *most* waiting events to the SIEM of *sink*, which refuses the first ones.

        Of those it is to get *reduced* copies, if that is so.
        """
        now = self.clock.now()
        done: list[Range] = []
        dead: list[RejectedEvent] = []
        for page in await backlog(self.store, sink):
            for place, event in enumerate(page.events, page.first):
                if most == 0:
                    break
                most -= 1
                done.append((place, place + 1))
                if refuse and event.source != ALERTS:
                    refuse -= 1
                    dead.append(RejectedEvent(place, "invalid", "no", 400, 1, now, now, reduced))
                else:
                    self.siems[sink].take([event], now)
        if done:
            await self.store.settle(sink, done, dead)

    # -- the evidence ----------------------------------------------------------------------------

    async def seal(self) -> Sealed:
        """Seal what was done."""
        make_head = Head if self.keys is None else self.keys.head
        return await self.store.log.seal(self._event, make_head)

    def _event(self, sealed: Sealed) -> AuditEvent:
        self.heads.append(sealed.head)
        return head_event(sealed)

    @property
    def pins(self) -> list[bytes]:
        """The public keys that the auditor keeps."""
        if self._pins is not None:
            return self._pins
        return [] if self.keys is None else [self.keys.public]

    def keep_pins(self, pins: list[bytes]) -> None:
        """Let the auditor keep *pins*, whatever key signs."""
        self._pins = pins

    @contextlib.contextmanager
    def view(self) -> Iterator[StateView]:
        """Read the state as commands do."""
        with self.state.view() as view:
            yield view

    def check(self, given: Sequence[tuple[str, Head]] = ()) -> Checked:
        """Run ``coverage --check``."""
        with self.state.view(self.keys) as view:
            return view.check(*([given] if given else []))

    def export(self, folder: Path) -> Path:
        """Export the evidence; the uids are also those that were exported earlier."""
        export(self.state, folder, self.uids)
        return folder

    def list_vendor(self, source: str, span: Interval, path: Path) -> Path:
        """Write what ``verify --list`` writes: what the vendor of *source* shows of *span*."""
        with path.open("w", encoding="ascii") as file:
            begin = {"source": source, "from": micros(span.start), "to": micros(span.end)}
            file.write(json.dumps(begin) + "\n")
            for event in self.shown(source, span, span.end):
                row = {"time": event.at, "uid": event.uid, "raw_sha256": event.raw_sha256}
                file.write(json.dumps(row) + "\n")
        return path


def export(state: State, folder: Path, earlier: dict[tuple[int, int], bytes] | None = None) -> None:
    """
    Write the evidence of *state* to *folder* as ``evidence export --uids`` does.

    The uids are also those that were exported *earlier*, to which these are added.
    """
    folder.mkdir(exist_ok=True)
    known = {} if earlier is None else earlier
    with state.view() as view:
        lines = [line for _, line in view.read(evidence.entries)]
        words = [head.word for head in view.read(evidence.heads)]
        known |= {(n, first): keys for n, first, keys in view.read(evidence.uids)}
    order = {
        (n, first): None
        for n, line in enumerate(lines)
        for fact in json.loads(line)["facts"]
        if fact["fact"] == "accepted"
        for first, _ in fact["pages"]
    }
    pages = [
        json.dumps({"n": n, "first": first, "keys": base64.b64encode(known[n, first]).decode()})
        for n, first in order
        if (n, first) in known
    ]
    for name, rows in (("journal.ndjson", lines), ("heads.txt", words), ("uids.ndjson", pages)):
        (folder / name).write_text("".join(f"{row}\n" for row in rows))


def run(story: Awaitable[Any]) -> Any:
    """Run *story* to its end."""

    async def bounded() -> Any:
        async with asyncio.timeout(120):
            return await story

    return asyncio.run(bounded())
