"""
Both engines answer alike: whatever is done to a store, in any order, on SQLite and on PostgreSQL.

Each answer is compared; and now and then, and in the end, all that can be read of the two states:
places, counts, ledgers, progress, dead letters, fates, and the evidence to its last byte.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.conftest import make_event
from tests.simulation.test_evidence import SINKS, SOURCES, Machine, minutes
from tests.support.both import Both, alike
from tests.support.extent import extent
from tests.support.postgres import Server
from tests.support.states import InDatabase, InFolder, State, forge
from tests.support.stores import opened, span

from auditrelay.events.page import Page
from auditrelay.evidence import facts
from auditrelay.store import Changed, Proof
from auditrelay.store.keys import known_times
from auditrelay.store.sealing import Run
from auditrelay.store.sql import event_proof, evidence
from auditrelay.store.sql.export import export
from auditrelay.store.sql.view import StateView

pytestmark = [pytest.mark.slow, pytest.mark.process]


class Alike(Machine):
    """Two stores, and everything that is done to both."""

    def __init__(self) -> None:
        self.exports = 0
        self.named = 0
        self.backfilled = False
        super().__init__()

    async def open(self) -> Any:
        """Open both, with the same name of the log, which else is random."""
        stores = [await opened(each, clock=self.clock) for each in self.states]
        if not self.named:
            for state in self.states:
                forge(state, f"update meta set value = '{'0' * 32}' where name = 'log'")
            self.named = 1
        return Both(*stores)

    # -- more of what is done

    @rule(count=st.integers(1, 5), source=st.sampled_from(SOURCES), seed=st.integers(0, 99))
    def show_again(self, count: int, source: str, seed: int) -> None:
        """Show some known events with other times among new ones, and their neighbours."""
        old = [make_event((seed + 7 * n) % (self.made + 1), source=source) for n in range(count)]
        moved = [
            make_event(int(each.native_id or 0), source=source, at=each.at + 7) for each in old
        ]
        page = [*moved, *self.events(source, 1), *old[:1]]
        looked = self.store.look_up(
            source,
            [each.uid for each in page],
            [each.at for each in page],
            [bytes.fromhex(each.raw_sha256) for each in page],
        )
        self.run(looked)
        self.run(self.store.add(source, Page.of(page)))

    @rule(source=st.sampled_from(SOURCES), number=st.integers(1, 40), accepted=st.booleans())
    def change(self, source: str, number: int, accepted: bool) -> None:
        """Show another content of a record."""
        event = make_event(number, source=source)
        [at] = known_times([event.at], [event.time_quality])
        [report] = self.events(source, 1)
        other = Changed(event.uid, at, bytes([number]) * 32, None if accepted else report)
        self.run(self.store.contents.report_changed(source, [other]))
        self.run(self.store.contents.contents_of(source, [event.uid], [event.at]))

    @rule(source=st.sampled_from(SOURCES), start=minutes, single=st.booleans(), end=st.booleans())
    def backfill(self, source: str, start: int, single: bool, end: bool) -> None:
        """Do a part of a backfill."""
        self.backfilled = True
        part, now = span(start, start + 10), self.clock.now()
        sinks, page = [SINKS[0]] if single else [], Page.of(self.events(source, 1))
        begun = self.run(self.store.begin_backfill(source, part, sinks, now, by=1000))
        proof = Proof(covers=(part,), backfill=begun.id, part=part, read=3, new=1)
        self.run(self.store.add(source, page, via="backfill", proof=proof))
        if end:
            self.run(self.store.end_backfill(begun.id, now))

    @rule(name=st.sampled_from([*SOURCES, *SINKS]))
    def forget(self, name: str) -> None:
        """Remove a source or sink; SQLite gives the number of a removed backfill out again."""
        if not (name in SOURCES and self.backfilled):
            super().forget(name)

    @rule(run=st.integers(0, 1), days=st.integers(0, 1))
    def begin(self, run: int, days: int) -> None:
        """Begin a run, with this or that configuration."""
        self.clock.advance(timedelta(days=days))
        configured = facts.configured(digest=bytes(32), settings={"run": run})
        self.named += 1
        with mock.patch("secrets.token_hex", return_value=f"{self.named:032x}"):
            self.run(self.store.log.begin(Run(f"{run:032x}", {"auditrelay": "1"}, configured)))

    # -- what is compared

    def both(self, what: str, work: Any) -> None:
        alike(what, *[work(each) for each in self.states])

    def facts_explain_the_state(self) -> None:
        """Leave that to the machine on each engine: here the checks are compared."""

    @rule()
    def look(self) -> None:
        """Compare what can be read."""
        for method in ("sources", "sinks", "spool_bytes", "evidence", "dead_letters", "check"):
            self.both(method, lambda state, name=method: _viewed(state, name))
        for source in SOURCES:
            self.both("coverage", lambda state, name=source: _viewed(state, "coverage", name))
            self.run(self._ask(source))
        for sink in SINKS:
            pages, reached = self.run(self.store.read(sink, None, 1000))
            self.run(self.store.read(sink, reached, 10))
            if pages:
                self.run(self.store.reread(sink, (pages[0].first, pages[-1].first + 1), 5))

    async def _ask(self, source: str) -> None:
        store, all_of_it = self.store, span(-60, 120)
        events = [make_event(number, source=source) for number in range(self.made + 2)]
        await store.ledger(source)
        await store.end_of_spool(source)
        await store.delivery_status(source, events, proved=await store.proved(source))
        await store.find_deleted(source, all_of_it, {bytes.fromhex(events[0].uid)}, 1000)
        await store.count_forwarded(source, all_of_it)
        await store.spooled_events(source, all_of_it)
        await store.contents.contents_of(source, [e.uid for e in events], [e.at for e in events])
        await store.resweep_from(source, timedelta(hours=1))

    def teardown(self) -> None:
        try:
            self.look()
            self.both("entries", lambda state: _read(state, evidence.entries))
            self.both("heads", lambda state: _read(state, evidence.heads))
            self.both("uids", lambda state: _read(state, evidence.uids))
            for number in range(0, self.made, 9):
                uid = make_event(number).uid
                self.both("proof", lambda state, of=uid: _proof(state, of))
            self.both("export", self._exported)
        finally:
            super().teardown()

    def _exported(self, state: State) -> dict[str, bytes] | str:
        self.exports += 1
        folder = Path(self.folder.name, f"export {self.exports}")
        folder.mkdir()
        try:
            with state.view() as view:
                view.in_snapshot(lambda db: export(db, folder))
        except Exception as error:  # noqa: BLE001  # it is compared
            return f"{type(error)}: {error}"
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _viewed(state: State, method: str, *values: Any) -> Any:
    with state.view() as view:
        return getattr(view, method)(*values)


def _read(state: State, rows: Any) -> Any:
    with state.view() as view:
        return view.read(rows)


def _proof(state: State, uid: str) -> Any:
    def proof(view: StateView) -> Any:
        try:
            return view.in_snapshot(lambda db: event_proof.event_proof(db, uid))
        except Exception as error:  # noqa: BLE001  # it is compared
            return f"{type(error)}: {error}"

    with state.view() as view:
        return proof(view)


def test_both_engines_answer_alike(postgres: Server) -> None:
    make = InFolder, lambda _: InDatabase(postgres)
    run_state_machine_as_test(
        type("Machine", (Alike,), {"make": make}),
        settings=settings(
            max_examples=extent(6, 200),
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to shrink a failure takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
