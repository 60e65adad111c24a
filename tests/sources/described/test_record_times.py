"""The times by which a walk ends: found where the description says, whatever the record is."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.scripted import feed

from auditrelay.confirmed_time import LATEST
from auditrelay.descriptions.places import find
from auditrelay.descriptions.times import reader
from auditrelay.events.timestamps import are_plausible
from auditrelay.sources.described.record_times import RecordTimes
from auditrelay.window import micros

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = micros(NOON)


@pytest.mark.parametrize(
    ("record", "time"),
    [
        (b'{"at":"2026-03-01T12:00:00Z"}', AT),
        (b'{"x":{"at":1},"at":"2026-03-01T12:00:00Z","n":NaN}', AT),
        (b'{"at":"2026-03-01T12:00:00Z","x":"\xff"}', AT),
        (b'{"at":null,"meta":{"times":[{"of":"b"},{"of":"a","t":"2026-03-01T12:00:00Z"}]}}', AT),
        (b'{"at":"","meta":{"times":[{"of":"a","t":"2026-03-01T12:00:00Z"}]}}', AT),
        (b'{"at":"yesterday","meta":{"times":[{"of":"a","t":"2026-03-01T12:00:00Z"}]}}', None),
        (b'{"at":"1970-01-01T00:00:00Z"}', None),
        (b'{"at":"9999-01-01T00:00:00Z"}', None),
        (b'{"at":1772366400}', AT),
        (b'{"at":{}}', None),
        (b'{"meta":[]}', None),
        (b"{}", None),
        (b"[]", None),
        (b"7", None),
        (b"", None),
        (b'{"at":"2026-03-01T12:00:00Z"', None),
    ],
)
def test_the_first_path_that_holds_something_tells_the_time(
    record: bytes, time: int | None
) -> None:
    times = RecordTimes(feed(records={"time": ["at", "meta.times.[of=a].t"]}).records)
    assert times([record]) == [time]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", NOON.isoformat(), "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["at", "a", "b", "0", "t.x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(["at", "a.b", "a.0.at", "b.[a=b].at", "<a>.at", "t\\.x.at", "0.a"]))
def test_decoding_a_part_finds_what_decoding_all_finds(value: object, path: str) -> None:
    records = feed(records={"time": path}).records
    found = find(records.time[0])(value)
    parsed = reader("iso")(found)
    is_believed = parsed is not None and are_plausible(parsed[:1], micros(LATEST))
    expected = parsed[0] if parsed is not None and is_believed else None
    assert RecordTimes(records)([json.dumps(value).encode()]) == [expected]
