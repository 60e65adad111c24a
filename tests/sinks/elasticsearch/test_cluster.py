"""The nodes of a cluster: which of them gets a request, and authentication."""

import base64
import contextlib
from collections.abc import Callable

import httpx
import pytest
from tests.support.clock import NOON

from auditrelay.errors import RelayError, Retryable
from auditrelay.http.replies import Reply
from auditrelay.sandbox.faults import Action, answer, hang, reset
from auditrelay.sandbox.siems.elasticsearch import KEY_ID, KEY_SECRET, Elastic
from auditrelay.sinks import Counts, Item, Sink, Verdict, elasticsearch
from auditrelay.sinks.elasticsearch.cluster import answer_of

Items = Callable[[Sink, int], list[Item]]
Make = Callable[..., Sink]


async def test_requests_fail_over_to_the_next_node(
    elastic: Elastic, make: Make, items: Items
) -> None:
    async with Elastic() as gone:
        dead = gone.url
    sink = make(urls=[dead, elastic.url])
    assert await sink.send(items(sink, 1)) == Verdict()
    assert await sink.send(items(sink, 2)) == Verdict(counts=Counts(duplicates=1))
    assert isinstance(sink, elasticsearch.Sink)
    assert sink._cluster.url == elastic.url  # the dead one is not tried again each time
    with pytest.raises(Retryable) as caught:
        await make(urls=[dead, dead]).send(items(sink, 1))
    assert (caught.value.reason, caught.value.sent) == ("connect", False)


async def test_a_dead_node_is_skipped_and_used_again_once_it_recovers(
    nodes: list[Elastic], make: Make, items: Items
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url])
    await sink.send(items(sink, 1))
    assert (one.stored.total, two.stored.total) == (1, 0)
    await one.stop()
    await sink.send(items(sink, 2))
    assert two.stored.total == 2
    await two.stop()
    for _ in range(3):
        with pytest.raises(Retryable) as caught:
            await sink.send(items(sink, 2))
        assert (caught.value.reason, caught.value.sent) == ("connect", False)
    await one.start()
    await sink.send(items(sink, 3))
    assert one.stored.total == 3


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_unavailable_node_is_skipped_at_once(
    nodes: list[Elastic], make: Make, items: Items, status: int
) -> None:
    one, two, three = nodes
    sink = make(urls=[each.url for each in nodes])
    for node in (one, two):
        node.faults.add(answer(status, b"<html>"), times=None)
    await sink.send(items(sink, 2))
    assert [each.stored.total for each in nodes] == [0, 0, 2]
    requests = one.requests + two.requests
    await sink.send(items(sink, 3))
    assert three.stored.total == 3
    assert one.requests + two.requests == requests  # they are not tried first each time


async def test_when_every_node_is_unavailable_each_gets_one_request_and_then_a_pause_follows(
    nodes: list[Elastic], make: Make, items: Items
) -> None:
    sink = make(urls=[each.url for each in nodes])
    await sink.send(items(sink, 1))
    for node in nodes:
        node.faults.add(answer(503, b"", {"Retry-After": "7"}), times=None)
        node.seen.clear()
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert (caught.value.reason, caught.value.retry_after) == ("status_503", 7.0)
    assert [len(each.seen) for each in nodes] == [1, 1, 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500])
async def test_an_error_that_every_node_would_return_is_not_retried_at_another(
    nodes: list[Elastic], make: Make, items: Items, status: int
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url])
    one.faults.add(answer(status, b"{}"), path="/_bulk", times=None)
    with pytest.raises(RelayError, match="/_bulk"):
        await sink.send(items(sink, 1))
    assert two.requests == 0


@pytest.mark.parametrize("fault", [hang(), reset()])
async def test_the_attempt_after_a_timeout_goes_to_another_node(
    nodes: list[Elastic], make: Make, items: Items, fault: Action
) -> None:
    one, two, _ = nodes
    sink = make(urls=[one.url, two.url], timeout="1s")
    await sink.send(items(sink, 1))
    one.faults.add(fault, path="/_bulk", times=None)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent
    await sink.send(items(sink, 2))
    assert two.stored.total == 2


async def test_each_way_to_log_in_works(elastic: Elastic, make: Make, items: Items) -> None:
    pair = f"{KEY_ID}:{KEY_SECRET}"
    for key in (pair, base64.b64encode(pair.encode()).decode()):
        sink = make(api_key=key, username=None, password=None)
        await sink.send(items(sink, 1))
    elastic.security = False
    sink = make(username=None, password=None)
    await sink.send(items(sink, 1))
    assert "authorization" not in elastic.seen[-1].headers


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 429, 500])
@pytest.mark.parametrize(
    "body", [b'{"error":{"type":"t","reason":"r"}}', b'{"error":"no handler"}', b"<html>"]
)
def test_an_answer_is_decoded_at_most_once(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes
) -> None:
    decoded, decode = 0, Reply.json

    def count(reply: Reply) -> object:
        nonlocal decoded
        decoded += 1
        return decode(reply)

    monkeypatch.setattr(Reply, "json", count)
    with contextlib.suppress(RelayError):
        answer_of(Reply(status, httpx.Headers(), body, "GET /", NOON))
    assert decoded <= 1
