"""The keys of objects."""

from datetime import UTC, datetime

import pytest
from tests.sinks.object_storage.conftest import Make

from auditrelay.sinks import Item, digest_of
from auditrelay.window import micros

NOW = datetime(2026, 3, 4, 5, 59, 59, tzinfo=UTC)
LOG = "0123456789abcdef0123456789abcdef"


def item(place: int, source: str, at: datetime = NOW) -> Item:
    return Item(place, f"{place:040}", source, micros(at), b"{}")


def test_a_batch_has_a_part_for_each_source_under_the_hour_of_its_seal(make: Make) -> None:
    batch = [item(7, "voice"), item(8, "calls"), item(12, "voice")]
    voice, calls = make(prefix="audit/").parts(batch, LOG, NOW)
    digest = digest_of([batch[0], batch[2]])[:8]
    assert voice.indices == [0, 2]
    assert voice.name == (
        f"audit/voice/2026/03/04/05/{LOG}-00000000000000000007-2-{digest}.ndjson.gz"
    )
    assert calls.indices == [1]
    assert calls.name.startswith(f"audit/calls/2026/03/04/05/{LOG}-00000000000000000008-1-")


def test_by_the_time_of_events_it_has_one_for_each_day_as_well(make: Make) -> None:
    days = [datetime(2026, 1, day, 23, tzinfo=UTC) for day in (1, 2, 1)]
    batch = [item(place, "voice", day) for place, day in enumerate(days)]
    one, two = make(partition="event").parts(batch, LOG, NOW)
    assert (one.indices, two.indices) == ([0, 2], [1])
    assert one.name.startswith(f"voice/dt=2026-01-01/{LOG}-")
    assert two.name.startswith(f"voice/dt=2026-01-02/{LOG}-")


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_name_says_whether_it_is_compressed(make: Make, compression: str) -> None:
    [part] = make(compression=compression).parts([item(1, "voice")], LOG, NOW)
    assert part.name.endswith(".ndjson.gz" if compression == "gzip" else ".ndjson")


def test_no_two_sets_of_events_have_one_name(make: Make) -> None:
    sink = make()
    batches = [
        [item(1, "voice"), item(2, "voice")],
        [item(1, "voice"), item(3, "voice")],
        [item(1, "voice")],
        [Item(1, "another" * 6, "voice", micros(NOW), b"{}")],
    ]
    names = [part.name for batch in batches for part in sink.parts(batch, LOG, NOW)]
    assert len(set(names)) == 4
    assert names != [part.name for batch in batches for part in sink.parts(batch, "f" * 32, NOW)]
