"""What a described vendor refuses to serve costs that record alone, in shapes of every kind."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.contract.described.conftest import DescribedRig, reading
from tests.contract.described.shapes import Shape, some_shapes
from tests.contract.sources.test_unreadable import collecting
from tests.support.clock import FakeClock
from tests.support.stores import backlog

from auditrelay.errors import WalkBroken
from auditrelay.http import retry
from auditrelay.sandbox import faults

HOUR = timedelta(hours=1)
RECORDS = 60


SHAPES = list(some_shapes())[::4]
"""Whose windows can be made shorter, or whose pages can be passed over."""


@pytest.mark.parametrize("status", ["400", "403"])
@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
async def test_all_but_the_record_that_is_refused_is_read_at_once(
    shape: Shape,
    status: str,
    clock: FakeClock,
    file_of: Callable[[Shape], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "_backoff", lambda _: 0.0)
    async with reading(clock, file_of(shape)) as rig:
        await _read(rig, status, clock, tmp_path)


async def _read(rig: DescribedRig, status: str, clock: FakeClock, folder: Path) -> None:
    bad = 30
    start = clock.now() - 6 * HOUR + timedelta(milliseconds=1234)
    for number in range(RECORDS):
        rig.double.add(start + number * HOUR / 10, note=f"the {number:02}nd")
    text = f"the {bad:02}nd"
    rig.double.faults.add(faults.fails_at(text.encode(), status), times=None)
    async with collecting(rig, clock, folder) as (store, collector):
        with pytest.raises(WalkBroken, match="everything else was read"):
            await collector.poll()
        pages = await backlog(store, "sink")
        read = b"".join(bytes(event.raw) for page in pages for event in page.events)
        assert text.encode() not in read
        missing = [n for n in range(RECORDS) if f"the {n:02}nd".encode() not in read]
        assert missing == [bad]
        (span,) = collector.condition.unreadable
        at, second = start + bad * HOUR / 10, timedelta(seconds=1)
        assert datetime.fromisoformat(span.start) - second <= at
        assert at <= datetime.fromisoformat(span.end) + second
