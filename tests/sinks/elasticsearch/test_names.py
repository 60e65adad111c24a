"""The index or data stream that an event goes to."""

from collections.abc import Callable, Sequence

import pytest

from auditrelay.events import AuditEvent
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Item, Sink
from auditrelay.sinks.elasticsearch.names import Target

MakeEvent = Callable[..., AuditEvent]
Batch = Callable[[Sink, Sequence[AuditEvent]], list[Item]]
Make = Callable[..., Sink]


@pytest.mark.parametrize(
    ("index", "name", "stream"),
    [
        ("logs-{source}-prod", "logs-my_voice__2_-prod", ("logs", "my_voice__2_", "prod")),
        ("audit-{vendor}-%Y.%m", "audit-bland-2026.01", None),
        ("audit-{source}", "audit-my-voice__2_", None),
        ("logs-{vendor}-{source}-x", "logs-bland-my-voice__2_-x", None),
        ("%Y-%m-%d-%H", "2026-01-01-12", None),
        ("{source}", "my-voice__2_", None),
    ],
)
async def test_an_index_is_filled_in_and_the_stream_fields_are_those_of_its_name(
    elastic: Elastic,
    make: Make,
    batch: Batch,
    event: MakeEvent,
    *,
    index: str,
    name: str,
    stream: tuple[str, str, str] | None,
) -> None:
    sink = make(index=index)
    await sink.send(batch(sink, [event(1, source="My-Voice #2|")]))
    assert list(elastic.indices) == [name]
    (document,) = elastic.stored.documents
    if stream is None:
        assert "data_stream" not in document
    else:
        assert tuple(document["data_stream"].values()) == stream


async def test_a_date_in_the_index_is_that_of_the_event(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(index="audit-%Y.%m.%d", format="raw")
    last = 1_767_225_599_999_999  # the last microsecond of 2025
    await sink.send(batch(sink, [event(1, at=last), event(2, at=last + 1)]))
    assert {name: len(each.ids) for name, each in elastic.indices.items()} == {
        "audit-2025.12.31": 1,
        "audit-2026.01.01": 1,
    }


# --- times that no event can have ------------------------------------------

NOON = 1_767_268_800 * 10**6
DAY = 86_400 * 10**6
YEAR_1 = -62_135_596_800 * 10**6
YEAR_9999 = 253_402_300_799 * 10**6


@pytest.mark.parametrize(
    "at", [YEAR_1, YEAR_9999, 0, NOON - 401 * DAY, NOON + 2 * DAY, NOON - 3650 * DAY]
)
async def test_an_event_of_an_implausible_time_goes_to_the_index_of_the_day_it_was_read(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch, at: int
) -> None:
    sink = make(index="audit-%Y.%m.%d")
    await sink.send(batch(sink, [event(1, at=at, fetched=NOON)]))
    assert list(elastic.indices) == ["audit-2026.01.01"]
    assert elastic.stored.documents[0]["@timestamp"][:4] in (
        "0001",
        "9999",
        "1970",
        "2024",
        "2026",
        "2016",
    )


async def test_a_vendor_cannot_make_an_index_for_every_day_there_is(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    sink = make(index="audit-%Y.%m")
    times = range(YEAR_1, YEAR_9999, (YEAR_9999 - YEAR_1) // 500)
    await sink.send(batch(sink, [event(n, at=at, fetched=NOON) for n, at in enumerate(times)]))
    assert elastic.stored.total == len(times)
    assert len(elastic.indices) <= 15


@pytest.mark.parametrize("at", [NOON - 399 * DAY, NOON + DAY - 1])
async def test_a_plausible_time_dates_its_event(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch, at: int
) -> None:
    sink = make(index="audit-%Y.%m.%d")
    await sink.send(batch(sink, [event(1, at=at, fetched=NOON)]))
    assert list(elastic.indices) != ["audit-2026.01.01"]


async def test_an_event_of_an_implausible_time_is_stored_once_though_it_is_read_in_other_months(
    elastic: Elastic, make: Make, event: MakeEvent, batch: Batch
) -> None:
    for months in range(3):
        sink = make(index="audit-%Y.%m")
        read = NOON + months * 31 * DAY
        other = event(90 + months, at=read, fetched=read)
        again = event(1, at=YEAR_9999, fetched=read)
        await sink.send(batch(sink, [other, again]))
        assert await sink.find_stored([other, again]) == {other.uid, again.uid}  # type: ignore[attr-defined]  # of this sink
    assert len(elastic.indices) == 3
    assert elastic.stored.by_uid[event(1).uid] == 1


def test_a_year_has_four_digits() -> None:
    target = Target.of("audit-%Y.%m-%G", "bland", "voice", YEAR_1)
    assert target.name == "audit-0001.01-0001"
