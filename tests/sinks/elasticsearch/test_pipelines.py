"""An ingest pipeline may drop events or move them: that is counted and warned of."""

from collections.abc import Callable

import pytest
from tests.sinks.elasticsearch.answers import bulk

from auditrelay.sandbox.faults import answer
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import Counts, Item, Sink, Verdict

Items = Callable[[Sink, int], list[Item]]
Make = Callable[..., Sink]

DROPS = "an ingest pipeline drops events"
MOVES = "an ingest pipeline moves events to another index (reroute)"


@pytest.mark.parametrize("keys", [{"pipeline": "audit"}, {}], ids=["sink", "index"])
async def test_events_that_a_pipeline_drops_are_counted_and_warned_of(
    elastic: Elastic, make: Make, items: Items, keys: dict[str, str]
) -> None:
    elastic.switches.pipelines = elastic.switches.dropping = frozenset({"audit"})
    elastic.switches.default_pipeline = "audit"
    verdict = await make(**keys).send(items(make(), 5))
    assert verdict.counts == Counts(dropped=5)
    assert verdict.warnings[0].startswith(DROPS)
    assert elastic.stored.total == 0


@pytest.mark.parametrize(
    ("result", "dropped"),
    [
        ({"status": 200, "result": "noop"}, 1),
        ({"status": 201, "result": "noop"}, 1),
        ({"status": 200, "result": "updated"}, 1),
        ({"status": 200}, 1),
        ({"status": 202, "result": "accepted"}, 1),
        ({"status": 204}, 1),
        ({"status": 201, "result": "created"}, 0),
        ({"status": 201}, 0),
    ],
)
async def test_only_created_proves_that_an_event_is_stored(
    elastic: Elastic, make: Make, items: Items, result: dict[str, object], dropped: int
) -> None:
    sink = make()
    elastic.faults.add(bulk({"create": {"status": 201}}, {"create": result}), path="/_bulk")
    assert (await sink.send(items(sink, 2))).counts == Counts(dropped=dropped)


async def test_the_cluster_is_asked_for_the_result_of_each_event(
    elastic: Elastic, make: Make, items: Items
) -> None:
    sink = make()
    await sink.send(items(sink, 1))
    assert "items.*.result" in elastic.seen[-1].query["filter_path"].split(",")


async def test_events_that_a_pipeline_moves_are_counted_and_warned_of(
    elastic: Elastic, make: Make, items: Items
) -> None:
    elastic.switches.pipelines = frozenset({"audit"})
    elastic.switches.rerouting = {"audit": "audit-elsewhere"}
    sink = make(pipeline="audit")
    sent = items(sink, 30)
    verdicts = [await sink.send(sent[first : first + 5]) for first in range(0, 30, 5)]
    assert verdicts[0] == Verdict()  # it may have rolled over
    for verdict in verdicts[2:]:
        assert verdict.counts == Counts(stored_elsewhere=5)
        [warning] = verdict.warnings
        assert warning.startswith(MOVES)
        assert "audit-elsewhere" in warning
    assert elastic.stored.total == 30
    asked = [each.path for each in elastic.seen if each.path.endswith("creation_date")]
    assert len(asked) <= 3  # not with every batch


async def test_a_rollover_is_no_move(elastic: Elastic, make: Make, items: Items) -> None:
    sink = make()
    sent = items(sink, 30)
    for first in range(0, 30, 3):
        verdict = await sink.send(sent[first : first + 3])
        assert (verdict.counts.stored_elsewhere, verdict.warnings) == (0, ())
        elastic.rollover("logs-auditrelay.bland-default")


# --- what `check` says ------------------------------------------------------


@pytest.mark.parametrize("flavour", ["elasticsearch", "opensearch"])
async def test_check_tells_that_a_pipeline_would_drop_events_and_stores_nothing(
    make: Make, flavour: str
) -> None:
    async with Elastic(flavour=flavour) as cluster:  # type: ignore[arg-type]  # one of the flavours
        cluster.switches.pipelines = frozenset({"audit", "other"})
        cluster.switches.dropping = frozenset({"audit"})
        found = await make(urls=[cluster.url], pipeline="audit").check()
        assert "an ingest pipeline drops a test event" in found
        assert "drops" not in await make(urls=[cluster.url], pipeline="other").check()
        assert cluster.stored.total == 0


async def test_check_sees_the_pipeline_of_the_index_too(elastic: Elastic, make: Make) -> None:
    elastic.switches.pipelines = frozenset({"audit", "other"})
    elastic.switches.dropping = frozenset({"audit"})
    elastic.switches.rerouting = {"other": "audit-elsewhere"}
    elastic.switches.default_pipeline = "audit"
    assert "drops a test event" in await make().check()
    elastic.switches.default_pipeline = "other"
    assert "moves events to audit-elsewhere" in await make().check()
    elastic.switches.default_pipeline = "missing"
    report = await make().check()
    assert "fails for a test event: pipeline with id [missing] does not exist" in report


async def test_an_older_cluster_is_asked_about_the_configured_pipeline(
    elastic: Elastic, make: Make
) -> None:
    elastic.switches.pipelines = elastic.switches.dropping = frozenset({"audit"})
    whole = "/_ingest/logs-auditrelay.bland-default/_simulate"
    for status in (400, 403, 404, 500):
        elastic.faults.add(answer(status, b"{}"), path=whole)
        assert "drops a test event" in await make(pipeline="audit").check()
    elastic.faults.add(answer(403, b"{}"), path=whole)
    assert "pipeline" not in await make().check()
    elastic.faults.add(answer(404, b"{}"), path=whole)
    report = await make(pipeline="gone").check()
    assert "what the pipeline gone does cannot be checked: pipeline [gone] does not exist" in report
