"""
No false alarm: whatever happens to an honest instance, nothing is found.

Histories are drawn at random: late events, gaps, dead letters, backfills, forgetting, pruning, a
full disk, restores by the recipe, restarts, and kills at any write. At any time
``coverage --check`` and the auditor's program find nothing that is bad, and every head that was
ever made fits.
"""

import contextlib
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import make_event
from tests.support.histories import HOUR, SINKS, SOURCES, History, backup, copy, run
from tests.support.stores import NOON

from auditrelay.errors import StoreFull
from auditrelay.events.page import Page
from auditrelay.evidence.auditor import program
from auditrelay.evidence.heads import Head, Keys
from auditrelay.store import DeadLetter
from auditrelay.store.sqlite.branches import log_of
from auditrelay.window import Interval, micros

pytestmark = pytest.mark.slow

ALL: Final = "ALL_SHAPES" in os.environ
HISTORIES: Final = 1000 if ALL else 25
STEPS: Final = 40
OLD_STATE: Final = Path(__file__).parents[1] / "store/sqlite/fixtures/state.db.gz"


class Honest:
    """What happens to an instance in *folder*, by the numbers that *chance* deals."""

    def __init__(self, folder: Path, chance: random.Random, keys: Keys | None = None) -> None:
        self.history = History(
            folder / "state", keys=keys, retention=timedelta(days=1), remember=timedelta(days=3)
        )
        self.folder = folder
        self.chance = chance
        self.backup: Path | None = None
        self.reach = 4
        """Up to which write of what is done a kill comes."""
        self.restored = 0
        self.unexplained = False
        self.removed = 0
        self.did = Counter[str]()
        self.exports = 0
        self.looks: list[Path] = []

    async def live(self, steps: int, *, kills: float) -> None:
        """Let so many things happen, of which so many are ended by a kill."""
        await self.history.begin()
        for _ in range(steps):
            name = self.chance.choice(sorted(DEEDS))
            await self._do(name, DEEDS[name], kills)
        await self.finish()

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
            self.check()
        await self.history.begin()
        if self.unexplained:
            await self._explain()

    def check(self) -> None:
        """Fail if ``coverage --check`` finds anything."""
        found = self.history.check().findings
        bad = [each for each in found if each.level == "bad" and each.code != "nothing"]
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
            history.list_vendor(source, span, self.folder / source)
            for source in SOURCES
            if compare and not self.removed
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
        history.clock.advance(30 * HOUR)
        for source in SOURCES:
            await history.poll(source)
            await history.resweep(source)
            # What came later than any resweep is never read, and the vendor shows it.
            end = await history.covered(source)
            await history.read(source, Interval(NOON, end), via="repair")
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
        return self.chance.choice(SOURCES)

    def sink(self) -> str:
        return self.chance.choice(SINKS)

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

    async def put_aside(self) -> None:
        history, now = self.history, self.history.clock.now()
        at = micros(now) - 1
        event = make_event(800_000 + self.did.total(), source="voice", at=at)
        letter = DeadLetter(event, "bad_row", "no", None, 1, now, now)
        await history.store.add("voice", Page.of([]), bad=[letter])

    async def deliver(self) -> None:
        await self.history.deliver(
            self.sink(), self.chance.randint(1, 30), refuse=self.chance.choice([0, 0, 0, 1, 2])
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

    async def disk_is_full(self) -> None:
        """Fill the disk while something is done."""
        await self._limit("(select page_count from pragma_page_count)")
        for name in self.chance.choices(["poll", "deliver", "seal", "operate", "backfill"], k=4):
            with contextlib.suppress(StoreFull):
                await DEEDS[name](self)
        await self._limit("1 << 30")
        await self.keep_uids()
        while await self.history.store.make_room():
            pass

    async def _limit(self, pages: str) -> None:
        """Let the database have no more than so many *pages*."""

        def limit(db: sqlite3.Connection) -> None:
            (most,) = db.execute(f"select {pages}").fetchone()
            db.execute(f"pragma max_page_count = {most}")

        await self.history.store._writer.write(limit)

    async def back_up(self) -> None:
        self.backup = self.folder / "backup"
        backup(self.history.folder, self.backup)

    async def restore(self) -> None:
        """Lose the disk, and go on from the backup as the docs say."""
        if self.backup is None:
            return
        history = self.history
        await history.end()
        copy(self.backup, history.folder)
        self.backup = None  # the next restore is from a younger one
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
        Honest.declare,
        Honest.deliver,
        Honest.disk_is_full,
        Honest.look,
        Honest.operate,
        Honest.poll,
        Honest.prune,
        Honest.put_aside,
        Honest.reload,
        Honest.restart,
        Honest.restore,
        Honest.resweep,
        Honest.seal,
        Honest.time_passes,
    )
}


@pytest.mark.parametrize("part", range(5))
def test_an_honest_instance_is_never_suspected(part: int, tmp_path: Path) -> None:
    for seed in range(part, HISTORIES, 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        keys = Keys(bytes(32)) if seed % 2 else None
        honest = Honest(folder, random.Random(seed), keys)
        try:
            run(honest.live(STEPS, kills=0.2))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_every_head_of_five_days_fits_every_later_journal_at_200_kills(tmp_path: Path) -> None:
    honest = Honest(tmp_path, random.Random(17))
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
