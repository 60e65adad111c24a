"""
The outcome of each event, for every response that Datadog and Elasticsearch can send.

One row, one test: the sink, the delivery loop, the store and a double, over a socket. A response
is injected for the requests that contain event 3 of five, or for that event alone where the
product reports each.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.clock import FakeClock
from tests.support.daemon import eventually

from auditrelay.deliver.deliverer import Deliverer
from auditrelay.events import AuditEvent
from auditrelay.events.page import Page
from auditrelay.sandbox import faults
from auditrelay.sandbox.faults import Action
from auditrelay.sandbox.messages import Request
from auditrelay.sandbox.siems.datadog import Datadog, throttled
from auditrelay.sandbox.siems.elasticsearch import Elastic
from auditrelay.sinks import datadog, elasticsearch
from auditrelay.store.sql.store import SqlStore
from auditrelay.store.sqlite.store import open_store, open_view
from auditrelay.telemetry.metrics import Metrics

MakeEvent = Callable[..., AuditEvent]

NOON = 1_767_268_800
NOW = datetime.fromtimestamp(NOON, UTC)
FIVE = range(5)
CULPRIT = 3
TAKEN = dict.fromkeys(FIVE, "taken")


@dataclass
class Table:
    """Five events on their way to one double."""

    double: Any
    path: str
    deliverer: Deliverer
    folder: Path
    uids: list[str]
    metrics: Metrics
    posts: list[int] = field(default_factory=list)

    def has_culprit(self, request: Request) -> bool:
        return self.uids[CULPRIT].encode() in request.content("gzip")

    def inject(self, action: Action, *, times: int | None) -> None:
        """Apply *action* to the requests that contain the culprit."""
        self.double.faults.add(action, path=self.path, when=self.has_culprit, times=times)

    async def deliver(self) -> None:
        """Deliver until nothing waits."""
        self.deliverer.finish()
        async with asyncio.timeout(90):
            await self.deliverer.keep_delivering()

    def fates(self) -> dict[int, str]:
        """Return the outcome of each event, by its number."""
        with open_view(self.folder) as view:
            dead = {each.letter.event.uid: each.letter for each in view.dead_letters()}
        stored: Mapping[str, int] = self.double.stored.by_uid
        fates = {}
        for number, uid in enumerate(self.uids):
            if uid in dead:
                assert uid not in stored, "a dead letter was stored"
                letter = dead[uid]
                fates[number] = f"dead: {letter.reason} {letter.status}"
            else:
                fates[number] = "taken" if uid in stored else "waits"
        return fates

    async def is_held_and_nothing_is_lost(self) -> None:
        """Deliver until the sink is held; then let it recover, and accept everything."""
        async with asyncio.timeout(90):
            task = asyncio.create_task(self.deliverer.keep_delivering())
            await eventually(lambda: self.deliverer.condition.held)
            assert "dead" not in " ".join(self.fates().values())
            assert self.fates()[CULPRIT] == "waits"
            self._recover()
            await task
        assert self.fates() == TAKEN

    async def is_overtaken_and_not_lost(self) -> None:
        """Deliver until all others than the culprit are taken; then let that pass, too."""
        with capture_logs() as logs:
            async with asyncio.timeout(90):
                task = asyncio.create_task(self.deliverer.keep_delivering())
                fates = {**TAKEN, CULPRIT: "waits"}
                await eventually(lambda: self.fates() == fates)
                self._recover()
                await task
        assert self.fates() == TAKEN
        assert "sink_held" in [line["event"] for line in logs]

    def _recover(self) -> None:
        self.double.faults.clear()
        if isinstance(self.double, Elastic):
            self.double.heal_items()
        self.deliverer.finish()

    def counted(self, name: str) -> float:
        text = self.metrics.render()[0].decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"auditrelay_{name}{{")
        )


async def _table(
    folder: Path,
    event: MakeEvent,
    double: Any,
    path: str,
    sink: Any,
    settings: Any,
    metrics: Any,
    clock: FakeClock,
) -> tuple[Table, SqlStore]:
    store = await open_store(
        folder,
        clock=clock,
        max_bytes=1 << 30,
        retention=timedelta(days=7),
        remember=timedelta(days=400),
    )
    await store.start_source("voice", NOW - timedelta(days=7))
    await store.start_sink("sink", ["voice"])
    events = [event(number) for number in FIVE]
    await store.add("voice", Page.of(events))
    deliverer = Deliverer("sink", settings, sink, store=store, metrics=metrics, clock=clock)
    table = Table(double, path, deliverer, folder, [each.uid for each in events], metrics)

    def count(request: Request) -> None:
        if request.path == path:
            body = request.content("gzip")
            table.posts.append(sum(uid.encode() in body for uid in table.uids))

    double.on_request = count
    return table, store


@pytest.fixture
async def intake(tmp_path: Path, event: MakeEvent, clock: FakeClock) -> AsyncIterator[Table]:
    """Datadog and its sink."""
    async with Datadog(clock=lambda: NOON) as double:
        keys = {"type": "datadog", "url": double.url, "api_key": double.api_key}
        settings = datadog.Settings.model_validate({**keys, "linger": "0s", "timeout": "1s"})
        metrics = Metrics(sinks=["sink"])
        sink = datadog.build("sink", settings, metrics, clock)
        table, store = await _table(
            tmp_path, event, double, "/api/v2/logs", sink, settings, metrics, clock
        )
        yield table
        await sink.close()
        await store.close()


@pytest.fixture
async def bulk(tmp_path: Path, event: MakeEvent, clock: FakeClock) -> AsyncIterator[Table]:
    """Elasticsearch and its sink."""
    async with Elastic() as double:
        keys = {"type": "elasticsearch", "urls": [double.url], "api_key": double.api_key}
        settings = elasticsearch.Settings.model_validate({**keys, "linger": "0s", "timeout": "1s"})
        metrics = Metrics(sinks=["sink"])
        sink = elasticsearch.build("sink", settings, metrics, clock)
        table, store = await _table(
            tmp_path, event, double, "/_bulk", sink, settings, metrics, clock
        )
        yield table
        await sink.close()
        await store.close()


def refusal(status: int, text: str = "because") -> Action:
    """Return an error response that fits either product."""
    body = {"errors": [{"detail": text}], "error": {"type": "t", "reason": text}, "status": status}
    return faults.answer(status, json.dumps(body).encode())


# --- Datadog: a request is accepted whole or not at all ------------------------------------------


@pytest.mark.parametrize("status", [200, 202])
async def test_datadog_delivered(intake: Table, status: int) -> None:
    intake.inject(Action(answer=lambda _, reply: _with_status(reply, status)), times=1)
    await intake.deliver()
    assert intake.fates() == TAKEN
    assert intake.posts == [5]
    assert not intake.double.stored.repeated()


def _with_status(reply: Any, status: int) -> Any:
    reply.status = status
    return reply


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 509, 520, 599])
async def test_datadog_retried(intake: Table, status: int) -> None:
    intake.inject(refusal(status), times=3)
    await intake.deliver()
    assert intake.fates() == TAKEN
    # What fails in the same way three times is made smaller, unless the product itself has refused.
    assert intake.posts == ([5, 5, 5, 2, 3] if status >= 500 else [5, 5, 5, 5])
    # With a 4xx of its own Datadog says that it has not taken the batch; a 5xx leaves that open.
    assert intake.counted("events_possible_duplicate_total") == (15 if status >= 500 else 0)


@pytest.mark.parametrize(
    "status",
    [*range(300, 309), *range(401, 408), 409, 410, 411, 414, 415, 421, 426, 431, 451],
)
async def test_datadog_held(intake: Table, status: int) -> None:
    intake.inject(refusal(status), times=None)
    await intake.is_held_and_nothing_is_lost()


@pytest.mark.parametrize("status", [200, 400, 402, 403, 404, 406, 451])
async def test_datadog_behind_a_firewall_that_refuses_one_event(intake: Table, status: int) -> None:
    intake.inject(faults.html(status), times=None)
    await intake.is_overtaken_and_not_lost()
    assert not intake.double.stored.repeated()


@pytest.mark.parametrize("status", [400, 422])
async def test_datadog_rejection_is_bisected_down_to_the_bad_log(
    intake: Table, status: int
) -> None:
    intake.inject(refusal(status), times=None)
    await intake.deliver()
    assert intake.fates() == {**TAKEN, CULPRIT: f"dead: status_{status} {status}"}
    assert intake.posts[0] == 5
    assert not intake.double.stored.repeated()


async def test_datadog_too_large_is_bisected_and_a_single_log_is_a_dead_letter(
    intake: Table,
) -> None:
    intake.inject(refusal(413), times=None)
    await intake.deliver()
    assert intake.fates() == {**TAKEN, CULPRIT: "dead: too_large 413"}


async def test_datadog_too_large_together_is_accepted_in_halves(intake: Table) -> None:
    intake.double.switches.max_bytes = 2000
    await intake.deliver()
    assert intake.fates() == TAKEN
    assert intake.posts == [5, 2, 3, 1, 2]
    assert not intake.double.stored.repeated()


@pytest.mark.parametrize(
    ("fault", "twice"),
    [
        (faults.reset(), False),
        (faults.store_then_reset(), True),
        (faults.hang(), False),
        (faults.hang(process=True), True),
        (faults.html(200), False),
        (faults.html(202), False),
    ],
)
async def test_datadog_retried_with_an_unknown_outcome(
    intake: Table, fault: Action, *, twice: bool
) -> None:
    intake.inject(fault, times=1)
    await intake.deliver()
    assert intake.fates() == TAKEN
    assert intake.posts == ([5, 1, 4] if fault.answer and not twice else [5, 5])
    assert len(intake.double.stored.repeated()) == (5 if twice else 0)
    assert (
        intake.counted("events_possible_duplicate_total") == 5
    )  # it is counted, and never too low


HOWEVER_SAID = [
    faults.delay(0.05),
    faults.drip(size=200, seconds=0.001),
    faults.chunked(3),
    faults.gzipped(),
    faults.close(),
    faults.close(announced=True),
    faults.wrong_type(),
]


# That it is accepted says the status alone: nothing is lost with the body.
@pytest.mark.parametrize("action", [*HOWEVER_SAID, faults.truncated()])
async def test_datadog_delivered_in_any_spelling_of_the_response(
    intake: Table, action: Action
) -> None:
    intake.inject(action, times=1)
    await intake.deliver()
    assert intake.fates() == TAKEN
    assert intake.posts == [5]


async def test_datadog_retried_after_its_rate_limit_reset(
    intake: Table, waits: list[float]
) -> None:
    intake.inject(throttled(reset=1234), times=1)
    intake.inject(faults.too_many(retry_after="2345"), times=1)
    await intake.deliver()
    assert intake.fates() == TAKEN
    assert [seconds for seconds in waits if seconds > 1000] == [1234.0, 2345.0]


# --- Elasticsearch: each item has a status of its own ------------------------------------------


def one(uid: str) -> Callable[[int, str], bool]:
    return lambda _position, doc_id: doc_id == uid


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, ""),
        (425, ""),
        (429, "es_rejected_execution_exception"),
        (429, "rejected_execution_exception"),
        (429, "circuit_breaking_exception"),
        (429, "cluster_block_exception"),
        (500, "exception"),
        (502, ""),
        (503, "unavailable_shards_exception"),
        (504, ""),
        (507, ""),
    ],
)
async def test_item_retried(bulk: Table, status: int, kind: str) -> None:
    bulk.double.fail_items(status, where=one(bulk.uids[CULPRIT]), times=2, kind=kind)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 1, 1]  # the others are delivered


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, "mapper_parsing_exception", "mapping"),
        (400, "document_parsing_exception", "mapping"),
        (400, "strict_dynamic_mapping_exception", "mapping"),
        (400, "illegal_argument_exception", "illegal_argument"),
        (400, "max_bytes_length_exceeded_exception", "too_large"),
        (400, "whatever_comes", "status_400"),
        (405, "", "status_405"),
        (409, "not_a_version_conflict", "status_409"),
        (410, "", "status_410"),
        (412, "", "status_412"),
        (413, "", "status_413"),
        (422, "", "status_422"),
    ],
)
async def test_item_dead_lettered(bulk: Table, status: int, kind: str, reason: str) -> None:
    bulk.double.fail_items(status, where=one(bulk.uids[CULPRIT]), times=None, kind=kind or "kind")
    await bulk.deliver()
    assert bulk.fates() == {**TAKEN, CULPRIT: f"dead: {reason} {status}"}
    assert bulk.posts == [5, 1], "the reduced copy names it"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "security_exception"),
        (403, "security_exception"),
        (403, "cluster_block_exception"),
        (400, "index_closed_exception"),
        (404, "index_not_found_exception"),
        (400, "validation_exception"),
    ],
)
async def test_item_held(bulk: Table, status: int, kind: str) -> None:
    bulk.double.fail_items(status, where=one(bulk.uids[CULPRIT]), times=None, kind=kind)
    await bulk.is_held_and_nothing_is_lost()


async def test_item_404_for_every_event_is_held(bulk: Table) -> None:
    bulk.double.fail_items(404, times=None)
    await bulk.is_held_and_nothing_is_lost()


async def test_item_409_is_delivered(bulk: Table) -> None:
    bulk.inject(faults.store_then_reset(), times=1)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert not bulk.double.stored.repeated()
    assert bulk.posts == [5, 5]
    assert bulk.counted("events_possible_duplicate_total") == 0  # it deduplicates
    assert bulk.counted("events_already_stored_total") == 5


async def test_item_in_the_failure_store_is_delivered_and_counted(bulk: Table) -> None:
    items: list[dict[str, dict[str, Any]]] = [{"create": {"status": 201}} for _ in FIVE]
    items[CULPRIT]["create"]["failure_store"] = "used"
    bulk.inject(faults.answer(200, json.dumps({"items": items}).encode()), times=1)
    with capture_logs() as logs:
        await bulk.deliver()
    assert bulk.posts == [5]
    assert bulk.counted("events_diverted_total") == 1
    assert bulk.counted("events_delivered_total") == 5
    (warned,) = [line for line in logs if line["event"] == "sink_warned"]
    assert "failure store" in warned["warnings"]


async def test_items_with_every_outcome_at_once(bulk: Table) -> None:
    bulk.double.fail_items(429, where=one(bulk.uids[0]), times=1)
    bulk.double.fail_items(
        400, where=one(bulk.uids[1]), times=None, kind="mapper_parsing_exception"
    )
    bulk.double.fail_items(503, where=one(bulk.uids[4]), times=2)
    await bulk.deliver()
    assert bulk.fates() == {**TAKEN, 1: "dead: mapping 400"}
    assert bulk.posts[0] == 5
    assert sorted(bulk.posts[1:]) == [1, 1, 2], "one is the reduced copy, which waits for no retry"


# --- Elasticsearch: the request as a whole -----------------------------------------------------


@pytest.mark.parametrize("action", HOWEVER_SAID)
async def test_bulk_delivered_in_any_spelling_of_the_response(bulk: Table, action: Action) -> None:
    bulk.inject(action, times=1)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_bulk_retried(bulk: Table, status: int) -> None:
    bulk.inject(refusal(status), times=3)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == ([5, 5, 5, 5] if status in (425, 429, 503) else [5, 5, 5, 2, 3])


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 431]
)
async def test_bulk_held(bulk: Table, status: int) -> None:
    bulk.inject(refusal(status), times=None)
    await bulk.is_held_and_nothing_is_lost()


@pytest.mark.parametrize("status", [200, 400, 402, 403, 404, 406, 451])
async def test_bulk_behind_a_firewall_that_refuses_one_event(bulk: Table, status: int) -> None:
    bulk.inject(faults.html(status), times=None)
    await bulk.is_overtaken_and_not_lost()
    assert not bulk.double.stored.repeated()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"error":"no handler found for uri [/_bulk]","status":400}']
)
async def test_bulk_400_that_is_not_about_documents_makes_no_dead_letter(
    bulk: Table, body: bytes
) -> None:
    bulk.inject(faults.answer(400, body), times=None)
    await bulk.is_overtaken_and_not_lost()


async def test_bulk_400_is_bisected_down_to_the_bad_document(bulk: Table) -> None:
    bulk.inject(refusal(400), times=None)
    await bulk.deliver()
    assert bulk.fates() == {**TAKEN, CULPRIT: "dead: status_400 400"}


async def test_bulk_413_is_bisected_and_a_single_document_is_a_dead_letter(bulk: Table) -> None:
    bulk.inject(refusal(413), times=None)
    await bulk.deliver()
    assert bulk.fates() == {**TAKEN, CULPRIT: "dead: too_large 413"}


@pytest.mark.parametrize(
    "fault",
    [
        faults.reset(),
        faults.store_then_reset(),
        faults.hang(),
        faults.hang(process=True),
        faults.drip(seconds=0.2),
        faults.huge(40 * 2**20),
        faults.gzip_bomb(40 * 2**20),
        faults.truncated(),
    ],
)
async def test_bulk_retried_with_an_unknown_outcome_and_nothing_is_stored_twice(
    bulk: Table, fault: Action
) -> None:
    bulk.inject(fault, times=1)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 5]
    assert not bulk.double.stored.repeated()


@pytest.mark.parametrize(
    "fault",
    [
        faults.truncated(honest_length=True),
        faults.html(200),
        faults.html(200, process=True),
        faults.empty(200),
        faults.answer(200, b'{"took":0,"errors":false,"items":[]}'),
        faults.answer(200, b'{"took":0,"errors":false}'),
        faults.answer(200, b'{"errors":false,"items":[{"create":{"status":201}}]}'),
    ],
)
async def test_bulk_held_by_a_success_that_proves_nothing_and_asked_before_one_more(
    bulk: Table, fault: Action
) -> None:
    bulk.inject(fault, times=1)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 1, 4]
    assert not bulk.double.stored.repeated()


# --- what other clients got wrong: sinks.md has the reports --------------------------------------


async def test_a_413_is_not_retried_forever(intake: Table) -> None:
    """A client requeued the whole batch each time (github.com/BerriAI/litellm/issues/29444)."""
    intake.inject(refusal(413), times=None)
    await intake.deliver()
    assert len(intake.posts) < 12


@pytest.mark.parametrize("status", [401, 403])
async def test_a_revoked_key_drops_nothing(intake: Table, status: int) -> None:
    """The Agent drops on 401 and 403; see also github.com/vectordotdev/vector/issues/10870."""
    intake.inject(refusal(status), times=None)
    await intake.is_held_and_nothing_is_lost()


async def test_a_bulk_response_with_one_success_does_not_hide_the_failures(bulk: Table) -> None:
    """One 201 made a whole chunk count as stored (github.com/fluent/fluent-bit/pull/12321)."""
    for number in (1, 2, 3, 4):
        bulk.double.fail_items(429, where=one(bulk.uids[number]), times=1)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 4]


async def test_a_bulk_response_of_409_alone_is_not_retried_forever(bulk: Table) -> None:
    """As above: a chunk of duplicates was retried forever."""
    bulk.inject(faults.store_then_reset(), times=1)
    await bulk.deliver()
    assert bulk.posts == [5, 5]


async def test_items_answered_429_are_neither_dropped_nor_counted_as_stored(bulk: Table) -> None:
    """github.com/vectordotdev/vector/issues/25799 and 2968."""
    bulk.double.fail_items(429, times=12)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 5, 5, 2]


async def test_items_answered_503_are_retried_like_those_answered_429(bulk: Table) -> None:
    """github.com/elastic/elasticsearch-py/issues/2196."""
    bulk.double.fail_items(503, times=5)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 5]


async def test_errors_true_is_parsed_as_json_and_not_matched_as_text(bulk: Table) -> None:
    """A space in the response hid it (Vector)."""
    body = b'{ "errors" : true , "items" : [%b] }' % b" , ".join(
        [b'{"create" : {"status" : 400 , "error" : {"type" : "mapper_parsing_exception"}}}'] * 5
    )
    bulk.inject(faults.answer(200, body), times=1)
    await bulk.deliver()
    assert set(bulk.fates().values()) == {"dead: mapping 400"}


async def test_a_response_with_fewer_items_is_not_matched_with_the_wrong_events(
    bulk: Table,
) -> None:
    """Some servers do so (logstash-output-elasticsearch); other clients zip what there is."""
    bulk.double.answer_fewer_items(2)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 1, 4]
    assert not bulk.double.stored.repeated()


async def test_a_200_that_cannot_be_parsed_does_not_count_as_stored(bulk: Table) -> None:
    """libbeat once did."""
    bulk.inject(faults.html(200), times=2)
    await bulk.deliver()
    assert bulk.fates() == TAKEN
    assert bulk.posts == [5, 1, 4, 2, 2]


async def test_documents_are_not_retried_without_a_pause(bulk: Table, waits: list[float]) -> None:
    """github.com/elastic/elastic-agent/issues/12523."""
    bulk.double.fail_items(429, times=15)
    await bulk.deliver()
    assert len(waits) == 3
    assert all(seconds > 0 for seconds in waits)


async def test_a_duplicate_is_no_error_in_the_log(bulk: Table) -> None:
    """github.com/open-telemetry/opentelemetry-collector-contrib/issues/47248."""
    bulk.inject(faults.store_then_reset(), times=1)
    with capture_logs() as logs:
        await bulk.deliver()
    assert [(line["event"], line["log_level"]) for line in logs if line["event"] != "request"] == [
        ("request_retried", "warning"),
        ("batch_delivered", "debug"),
    ]
