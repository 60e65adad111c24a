"""
No false alarm: whatever happens to an honest instance, nothing is found.

Histories are drawn at random: upgrades from every older schema, late, deleted and changed events,
gaps that are declared, filled, reopened and taken back, dead letters that are replayed and dropped,
backfills, resends, forgetting, pruning, a full disk, sources and sinks that are removed and come
back, a new key, a clock that is set back, restores by the recipe, restarts, and kills at any write.
At any time ``coverage --check`` and the auditor's program find nothing that is bad, and every head
that was ever made fits.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import make_event
from tests.support.extent import ALL, extent
from tests.support.histories import HOUR, SINKS, SOURCES, History, run
from tests.support.older_states import make_older
from tests.support.states import ENGINES, Engine, InFolder, State, maker
from tests.support.stores import NOON

from auditrelay.errors import StoreFull
from auditrelay.events.page import Page
from auditrelay.evidence.auditor import program
from auditrelay.evidence.heads import Head, Keys
from auditrelay.store import DeadLetter, KnownFile, Proof
from auditrelay.store.sql.branches import log_of
from auditrelay.window import Interval, micros, moment

pytestmark = pytest.mark.slow

HISTORIES: Final = {"sqlite": extent(20, 1000), "postgres": extent(4, 200)}
STEPS: Final = 40


class Honest:
    """What happens to an instance on *state*, by the numbers that *chance* deals."""

    def __init__(
        self, state: State, folder: Path, chance: random.Random, keys: Keys | None = None
    ) -> None:
        self.history = History(
            state, keys=keys, retention=timedelta(days=1), remember=timedelta(days=3)
        )
        self.folder = folder
        self.chance = chance
        self.backup: State | None = None
        self.reach = 4
        """Up to which write of what is done a kill comes."""
        self.restored = 0
        self.unexplained = False
        self.upgraded = 0
        """The schema that it was upgraded from, if it was."""
        self.public = [] if keys is None else [keys.public]
        """Of every key that it had."""
        self.key_of_backup: Keys | None = None
        self.rows: set[bytes] = set()
        """The uids of records that are no events."""
        self.did = Counter[str]()
        self.exports = 0
        self.looks: list[Path] = []

    async def live(self, steps: int, *, kills: float) -> None:
        """Let so many things happen, of which so many are ended by a kill."""
        await self.history.begin()
        # There is no older schema in PostgreSQL.
        if self.chance.random() < 0.3 and self.history.state.engine == "sqlite":
            await self._upgrade(steps // 3, kills)
        for _ in range(steps):
            name = self.chance.choice(sorted(DEEDS))
            await self._do(name, DEEDS[name], kills)
        await self.finish()

    async def _upgrade(self, steps: int, kills: float) -> None:
        """Let an older version have done so many things before the present one takes over."""
        self.upgraded = self.chance.choice([1, 2, 3])
        deeds = OF_THE_FIRST if self.upgraded == 1 else OF_OLDER
        for _ in range(steps):
            name = self.chance.choice(deeds)
            await self._do(name, DEEDS[name], kills)
        await self.history.end()
        assert isinstance(self.history.state, InFolder)
        make_older(self.history.state.folder, self.upgraded)
        await self.history.begin()

    async def _do(
        self, name: str, deed: Callable[["Honest"], Awaitable[None]], kills: float
    ) -> None:
        self.did[name] += 1
        if self.chance.random() >= kills:
            with contextlib.suppress(StoreFull):
                await deed(self)
            return
        write, before = self.chance.randint(1, self.reach), self.chance.random() < 0.5
        with self.history.killing(write, before=before):
            survived = await self.history.live(self._suppressed(deed))
        if not survived:
            await self._come_back()

    async def _suppressed(self, deed: Callable[["Honest"], Awaitable[None]]) -> None:
        with contextlib.suppress(StoreFull):
            await deed(self)

    async def _come_back(self) -> None:
        if ALL or self.history.kills % 5 == 0:  # of all entries, each time
            # A new key is in force from the start on, and who was killed has not explained himself.
            self.check(but={"key", "branch"} if self.unexplained else {"key"})
        if self.history.state.engine == "postgres":  # elsewhere it is full for that process alone
            await self.history.state.clear(self.history.store)
        await self.history.begin()
        if self.unexplained:
            await self._explain()

    def check(self, but: AbstractSet[str] = frozenset()) -> None:
        """Fail if ``coverage --check`` finds anything, *but* these codes."""
        found = self.history.check().findings
        bad = [each for each in found if each.level == "bad" and each.code not in {"nothing", *but}]
        assert bad == [], self._said([f"{each.code} {each.where}: {each.what}" for each in bad])

    def audit(self, *, compare: bool) -> None:
        """Fail if the auditor finds anything, or a head that was made does not fit."""
        history = self.history
        with history.view() as view:
            evidence = view.evidence()
            if not evidence.entries or evidence.head is None:
                return  # a restored state of which nothing was sealed
            if Head.parse(evidence.head).log != view.in_snapshot(log_of):
                return  # nor of the new log: it cannot be exported
        self.exports += 1
        files = [
            history.siems["splunk"].splunk(self.folder / "splunk.csv"),
            history.siems["elastic"].elastic(self.folder / "elastic.ndjson"),
        ]
        export = history.export(self.folder / f"export {self.exports}")
        compare = compare and not self.restored
        siems = dict(zip(("splunk", "elastic"), files, strict=True)) if compare else {}
        span = Interval(NOON, history.clock.now() + HOUR)
        lists = [
            history.list_vendor(source, span, self.folder / source) for source in SOURCES if compare
        ]
        witnesses = [file for file in files if history.siems[file.stem].words]
        report = program.check([export], witnesses, history.pins, siems, lists)
        bad = [each for each in report["findings"] if each["level"] == "bad"]
        assert bad == [], self._said([f"{each['code']}: {each['what']}" for each in bad])
        beyond = report["heads"]["given"] - report["heads"]["fit"]
        assert not beyond or self.restored, report["heads"]

    def _said(self, what: list[str]) -> str:
        return "\n".join([*what, str(dict(self.did))])

    async def finish(self) -> None:
        """Read what is late, deliver and seal everything, stop, and let the auditor look."""
        history = self.history
        await self.configure_all()
        history.clock.advance(30 * HOUR)
        for source in SOURCES:
            await history.poll(source)
            await history.resweep(source)
            # What came later than any resweep is never read, and the vendor shows it.
            end = await history.covered(source)
            await history.read(source, Interval(NOON, end), via="repair")
            await self.look_for_deleted(source, Interval(NOON, end))
        for _ in range(2):
            for sink in SINKS:
                await history.deliver(sink)
            await history.seal()
        for sink in SINKS:
            await history.deliver(sink)
        await history.end()
        self.check()
        self.audit(compare=True)

    # -- what happens

    def source(self) -> str:
        return self.chance.choice(self.history.sources)

    def sink(self) -> str:
        return self.chance.choice(self.history.sinks)

    async def time_passes(self) -> None:
        late = self.chance.choice([timedelta(), timedelta(minutes=20), 5 * HOUR, 20 * HOUR])
        self.history.happen(self.source(), self.chance.randint(1, 5), late=late)
        self.history.clock.advance(timedelta(minutes=self.chance.randint(1, 90)))

    async def poll(self) -> None:
        await self.time_passes()
        await self.history.poll(self.source())

    async def resweep(self) -> None:
        await self.history.resweep(self.source())

    async def declare(self) -> None:
        """Time that cannot be read."""
        source = self.source()
        start = await self.history.covered(source)
        if start < self.history.clock.now():
            await self.history.declare(source, Interval(start, start + HOUR), "vendor_retention")

    async def backfill(self) -> None:
        """Read an hour again, gap or not."""
        start = NOON + self.chance.randint(0, 20) * HOUR
        if start + HOUR < self.history.clock.now():
            await self.history.read(self.source(), Interval(start, start + HOUR), via="backfill")

    async def resend(self) -> None:
        """Send an hour once more to one sink, whatever it has."""
        history, source = self.history, self.source()
        start = NOON + self.chance.randint(0, 20) * HOUR
        span = Interval(start, start + HOUR)
        if span.end < history.clock.now() and (events := history.shown(source, span)):
            known = await history.store.delivery_status(source, events)
            events = [event for event, status in zip(events, known, strict=True) if status]
            await history.store.resend(source, [self.sink()], [Page.of(events)], Proof())

    async def take_back(self) -> None:
        """Reopen gaps, or take them back as if they had not been declared."""
        source = self.source()
        spans = await self.history.store.ledger(source)
        gaps = [each.interval for each in spans if each.gap is not None]
        if gaps:
            gap = self.chance.choice(gaps)
            # What is not past yet is taken back: behind it nothing was read.
            later = any(each.interval.start >= gap.end for each in spans)
            proof = Proof(reopens=(gap,)) if later else Proof(retracts=(gap,))
            await self.history.store.add(source, Page.of([]), via="reopen", proof=proof)

    async def vanish(self) -> None:
        """An event is deleted at its source, and a look at it tells."""
        history, source = self.history, self.source()
        if shown := history.shown(source, Interval(NOON, history.clock.now() + HOUR)):
            gone = self.chance.choice(shown)
            history.vendors[source] = [
                each for each in history.vendors[source] if each.event is not gone
            ]
            await self.look_for_deleted(source, Interval(moment(gone.at), moment(gone.at + 1)))

    async def look_for_deleted(self, source: str, span: Interval) -> None:
        history = self.history
        seen = {bytes.fromhex(event.uid) for event in history.shown(source, span)} | self.rows
        before = await history.store.end_of_spool(source)
        await history.store.record_deleted(source, span, seen, before)

    async def read_file(self) -> None:
        name = f"{self.chance.randint(1, 5)}.csv"
        proof = Proof(file=KnownFile(sha256(name.encode()).digest(), name))
        await self.history.store.add(self.source(), Page.of([]), via=f"export {name}", proof=proof)

    async def put_aside(self) -> None:
        if "voice" not in self.history.sources:
            return
        history, now = self.history, self.history.clock.now()
        at = micros(now) - 1
        event = make_event(800_000 + self.did.total(), source="voice", at=at)
        self.rows.add(bytes.fromhex(event.uid))
        letter = DeadLetter(event, "bad_row", "no", None, 1, now, now)
        await history.store.add("voice", Page.of([]), bad=[letter])

    async def deliver(self) -> None:
        await self.history.deliver(
            self.sink(),
            self.chance.randint(1, 30),
            refuse=self.chance.choice([0, 0, 0, 1, 2]),
            reduced=self.chance.random() < 0.3,
        )

    async def operate(self) -> None:
        """Replay dead letters, or drop them."""
        with self.history.view() as view:
            letters = [each.id for each in view.dead_letters()]
        some = self.chance.sample(letters, min(2, len(letters)))
        if self.chance.random() < 0.5:
            await self.history.store.replay(some)
        else:
            await self.history.store.drop(some, self.history.clock.now())

    async def prune(self) -> None:
        self.history.clock.advance(timedelta(hours=self.chance.choice([1, 26])))
        await self.keep_uids()
        await self.history.store.prune(self.history.clock.now())

    async def keep_uids(self) -> None:
        """Export the uids, as the docs advise before they are forgotten."""
        await self.history.seal()
        self.history.export(self.folder / "kept")

    async def seal(self) -> None:
        await self.history.seal()

    async def reload(self) -> None:
        self.history.settings["sources.okta.settle"] = f"{self.chance.randint(1, 9)}m"
        await self.history.store.log.configure(self.history.configured())

    async def restart(self) -> None:
        await self.history.end()
        await self.history.begin()

    async def remove(self) -> None:
        """Take a source or a sink out of the configuration, and at times its state away."""
        history, name = self.history, self.chance.choice((*SOURCES, *SINKS))
        configured = history.sources if name in SOURCES else history.sinks
        if name in configured and len(configured) > 1:
            configured.remove(name)
            await self.restart()
            if self.chance.random() < 0.5:
                await self.keep_uids()
                await history.store.forget(name)

    async def configure_all(self) -> None:
        """Put back what was taken out of the configuration."""
        history = self.history
        history.sources, history.sinks = list(SOURCES), list(SINKS)
        await self.restart()

    async def change_the_key(self) -> None:
        """Start with another key, which the one before has signed."""
        history = self.history
        if history.keys is not None:
            await history.end()
            history.keep_pins(history.pins)
            history.key_before = history.keys
            history.keys = Keys(bytes([len(self.public)]) * 32)
            self.public.append(history.keys.public)
            await history.begin()

    async def set_the_clock_back(self) -> None:
        clock = self.history.clock
        clock.set(clock.now() - timedelta(seconds=self.chance.randint(1, 600)))

    async def disk_is_full(self) -> None:
        """Fill the disk while something is done."""
        await self.history.state.fill_up(self.history.store)
        for name in self.chance.choices(["poll", "deliver", "seal", "operate", "backfill"], k=4):
            with contextlib.suppress(StoreFull):
                await DEEDS[name](self)
        await self.history.state.clear(self.history.store)
        await self.keep_uids()
        while await self.history.store.make_room():
            pass

    async def back_up(self) -> None:
        self.backup = self.history.state.back_up()
        self.key_of_backup = self.history.keys

    async def restore(self) -> None:
        """Lose the disk, and go on from the backup as the docs say."""
        if self.backup is None:
            return
        history = self.history
        await history.end()
        history.state.put_back(self.backup)
        self.backup = None  # the next restore is from a younger one
        history.key_before = self.key_of_backup
        # The facts of keys that came since are gone: the auditor has been given these keys.
        history.keep_pins(list(self.public))
        self.restored += 1
        history.uids.clear()
        self.unexplained = True
        await history.begin()
        await self._explain()

    async def _explain(self) -> None:
        await self.history.store.log.restored("the disk died", 0)
        self.unexplained = False

    async def look(self) -> None:
        self.check()
        self.audit(compare=False)


DEEDS: Final[dict[str, Callable[[Honest], Awaitable[None]]]] = {
    each.__name__: each
    for each in (
        Honest.backfill,
        Honest.back_up,
        Honest.change_the_key,
        Honest.configure_all,
        Honest.declare,
        Honest.deliver,
        Honest.disk_is_full,
        Honest.look,
        Honest.operate,
        Honest.poll,
        Honest.prune,
        Honest.put_aside,
        Honest.read_file,
        Honest.reload,
        Honest.remove,
        Honest.resend,
        Honest.restart,
        Honest.restore,
        Honest.resweep,
        Honest.seal,
        Honest.set_the_clock_back,
        Honest.take_back,
        Honest.time_passes,
        Honest.vanish,
    )
}
OF_THE_FIRST: Final = ("declare", "deliver", "poll", "resweep", "time_passes")
OF_OLDER: Final = (*OF_THE_FIRST, "backfill", "operate", "put_aside", "resend", "vanish")
"""What a state of the first schema, and of later ones without evidence, could have done."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", range(5))
def test_an_honest_instance_is_never_suspected(
    part: int, engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    make = maker(engine, request)
    for seed in range(part, HISTORIES[engine], 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        keys = Keys(bytes(32)) if seed % 2 else None
        state = make(folder / "state")
        honest = Honest(state, folder, random.Random(seed), keys)
        try:
            run(honest.live(STEPS, kills=0.2))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            state.drop()


def test_every_head_of_five_days_fits_every_later_journal_at_200_kills(tmp_path: Path) -> None:
    honest = Honest(InFolder(tmp_path / "state"), tmp_path, random.Random(17))
    history, honest.reach = honest.history, 2

    async def days() -> None:
        await history.begin()
        while history.clock.now() < NOON + timedelta(days=5) or history.kills < 200:
            for name in ("poll", "poll", "deliver", "deliver", "seal"):
                await honest._do(name, DEEDS[name], 0.8)
            if history.kills >= 40 * (1 + honest.exports):
                honest.audit(compare=False)
        await honest.finish()

    run(days())
    assert len(history.heads) > 60
