"""The checkpoint that follows what is entered is the one that the ledger has."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.clock import FakeClock
from tests.support.extent import extent
from tests.support.stores import MINUTE, NOON, opened, span

from auditrelay.collect.checkpoint import Checkpoint
from auditrelay.events.page import Page
from auditrelay.store import Added, Proof
from auditrelay.store.sql.store import SqlStore
from auditrelay.telemetry.metrics import Metrics
from auditrelay.window import Interval

REASONS = ("retention", "unreadable")
HORIZON = 3 * 24 * 60
"""Minutes: three days, so that the entries of the ledger end with their day."""


@dataclass
class Source:
    """The source "calls", which starts at noon: its *checkpoint*, and a *store* with its ledger."""

    store: SqlStore
    clock: FakeClock
    metrics: Metrics
    checkpoint: Checkpoint

    @classmethod
    def of(cls, store: SqlStore, lookback: timedelta = timedelta(0)) -> "Source":
        clock, metrics = FakeClock(NOON), Metrics(sources=["calls"])
        checkpoint = Checkpoint(
            "calls", lookback=lookback, store=store, metrics=metrics, clock=clock
        )
        return cls(store, clock, metrics, checkpoint)

    async def enter(self, proof: Proof) -> Added:
        added = await self.store.add("calls", Page.of([]), proof=proof)
        self.checkpoint.advance(proof, added.declared)
        return added

    @property
    def lag(self) -> float:
        text = self.metrics.render()[0].decode()
        (line,) = (
            line
            for line in text.splitlines()
            if line.startswith('auditrelay_source_lag_seconds{source="calls"}')
        )
        return float(line.rpartition(" ")[2])


async def after(folder: Path, *proofs: Proof) -> tuple[Source, Source]:
    """Return a source that followed *proofs*, and one that reads the ledger afterwards."""
    store = await opened(folder)
    try:
        followed = Source.of(store)
        await followed.checkpoint.refresh()
        for proof in proofs:
            await followed.enter(proof)
        fresh = Source.of(store)
        await fresh.checkpoint.refresh()
    finally:
        await store.close()
    return followed, fresh


def gaps(source: Source, *reasons: str) -> list[Interval]:
    """Return the time that is a gap for *reasons*, in parts that do not touch."""
    parts: list[Interval] = []
    for each in sorted(source.checkpoint.gaps(reasons)):
        if parts and each.start <= parts[-1].end:
            parts[-1] = Interval(parts[-1].start, max(parts[-1].end, each.end))
        else:
            parts.append(each)
    return parts


SPANS = st.builds(
    lambda start, length: span(start, start + length),
    st.integers(-60, HORIZON),
    st.one_of(st.integers(1, 90), st.integers(1, HORIZON)),
)
PROOFS = st.builds(
    lambda covers, gaps: Proof(covers=tuple(covers), gaps=tuple(gaps)),
    st.lists(SPANS, max_size=3),
    st.lists(st.tuples(SPANS, st.sampled_from(REASONS)), max_size=2),
)


@settings(max_examples=extent(30, 60), deadline=None)
@given(proofs=st.lists(PROOFS, max_size=6))
def test_whatever_is_entered_it_is_that_of_the_ledger(proofs: list[Proof]) -> None:
    with TemporaryDirectory() as folder:
        followed, fresh = asyncio.run(after(Path(folder), *proofs))
    assert followed.checkpoint.start == fresh.checkpoint.start == NOON
    assert followed.checkpoint.at == fresh.checkpoint.at
    for reason in REASONS:
        assert gaps(followed, reason) == gaps(fresh, reason)
    assert followed.lag == fresh.lag


async def test_parts_out_of_order_count_once_nothing_is_missing_before_them(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path)
    source = Source.of(store)
    await source.checkpoint.refresh()
    for part, at in ((span(20, 30), 0), (span(10, 20), 0), (span(0, 10), 30)):
        await source.enter(Proof(covers=(part,)))
        assert source.checkpoint.at == NOON + at * MINUTE
    await store.close()


async def test_what_is_read_before_the_start_does_not_move_it(tmp_path: Path) -> None:
    followed, fresh = await after(tmp_path, Proof(covers=(span(-50, -10),)))
    assert followed.checkpoint.at == fresh.checkpoint.at == NOON
    followed, fresh = await after(tmp_path, Proof(covers=(span(-10, 5),)))
    assert followed.checkpoint.at == fresh.checkpoint.at == NOON + 5 * MINUTE


async def test_a_gap_is_passed_and_is_one_until_it_is_filled(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    source = Source.of(store)
    await source.checkpoint.refresh()
    await source.enter(Proof(covers=(span(0, 10),), gaps=((span(10, 40), "retention"),)))
    assert source.checkpoint.at == NOON + 40 * MINUTE
    assert gaps(source, "retention", "unreadable") == [span(10, 40)]
    assert gaps(source, "unreadable") == []
    await source.enter(Proof(covers=(span(20, 30),)))
    assert gaps(source, "retention") == [span(10, 20), span(30, 40)]
    await source.enter(Proof(covers=(span(0, 60),)))
    assert gaps(source, "retention") == []
    assert source.checkpoint.at == NOON + 60 * MINUTE
    await store.close()


async def test_time_that_was_read_does_not_become_a_gap(tmp_path: Path) -> None:
    for source in await after(
        tmp_path,
        Proof(covers=(span(10, 20),)),
        Proof(gaps=((span(0, 30), "retention"),)),
        Proof(gaps=((span(0, 40), "unreadable"),)),
    ):
        assert gaps(source, "retention") == [span(0, 10), span(20, 30)]
        assert gaps(source, "unreadable") == [span(30, 40)]
        assert source.checkpoint.at == NOON + 40 * MINUTE


async def test_what_is_entered_before_the_ledger_was_read_is_found_in_it(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    source = Source.of(store)
    await store.start_source("calls", NOON)
    await source.enter(Proof(covers=(span(0, 10),), gaps=((span(10, 20), "retention"),)))
    assert not source.checkpoint.is_read
    await source.checkpoint.refresh()
    assert source.checkpoint.at == NOON + 20 * MINUTE
    assert gaps(source, "retention") == [span(10, 20)]
    await store.close()


@pytest.mark.parametrize("hours", [1, 48])
async def test_the_first_start_stays(tmp_path: Path, hours: int) -> None:
    store = await opened(tmp_path)
    source = Source.of(store, timedelta(hours=hours))
    await source.checkpoint.refresh()
    start = NOON - timedelta(hours=hours)
    assert source.checkpoint.start == source.checkpoint.at == start
    later = Source.of(store, timedelta(hours=3))
    later.clock.advance(timedelta(hours=5))
    await later.checkpoint.refresh()
    assert later.checkpoint.start == start
    assert later.lag == (hours + 5) * 3600
    await store.close()


async def test_the_lag_grows_with_time_and_ends_with_the_checkpoint(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    source = Source.of(store)
    await source.checkpoint.refresh()
    source.clock.advance(600)
    source.checkpoint.measure()
    assert source.lag == 600
    await source.enter(Proof(covers=(span(0, 9),)))
    assert source.lag == 60
    await store.close()
