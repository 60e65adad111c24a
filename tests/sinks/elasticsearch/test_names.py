"""The index or data stream that an event goes to."""

from collections.abc import Callable, Sequence

import pytest

from auditrelay.events import AuditEvent
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Item, Sink

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
