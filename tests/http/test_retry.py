"""How often a request is retried, and how long the wait before each retry is."""

import asyncio

import pytest
import structlog
from tests.support.clock import FakeClock
from tests.support.peers import PARAMS, Connect, Server

from auditrelay.errors import Refused, RequestRefused, Retryable, WalkBroken
from auditrelay.http import body, retry
from auditrelay.http.replies import Reply, check
from auditrelay.http.retry import retrying
from auditrelay.sandbox import faults
from auditrelay.telemetry.metrics import Metrics


def good(reply: Reply) -> Reply:
    return check(reply)


async def test_a_source_gives_up_after_a_few_attempts_and_raises_the_last_failure(
    server: Server, connect: Connect, metrics: Metrics, clock: FakeClock
) -> None:
    server.faults.add(faults.answer(503), times=None)
    with structlog.testing.capture_logs() as logs, pytest.raises(Retryable, match=r"^503 from"):
        await connect().get("/logs", PARAMS, good)
    assert len(server.seen) == retry.SOURCE_ATTEMPTS
    assert all(0 <= wait <= 0.5 * 2**number for number, wait in enumerate(clock.waits))
    logs = [line for line in logs if line["log_level"] != "debug"]  # without each request
    assert [line["attempt"] for line in logs] == [1, 2, 3, 4]
    assert [line["wait"] for line in logs] == [round(wait, 3) for wait in clock.waits]
    assert set(logs[0]) == {"event", "log_level", "peer", "attempt", "wait", "reason"}
    assert (logs[0]["event"], logs[0]["log_level"]) == ("request_retried", "warning")
    assert (logs[0]["peer"], logs[0]["reason"]) == ("voice", "status_503")
    line = 'requests_retried_total{peer="voice",reason="status_503"} 4.0'
    assert line in metrics.render()[0].decode()


async def test_a_source_continues_when_the_peer_has_recovered(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    for action in (faults.reset(), faults.html(502), faults.too_many()):
        server.faults.add(action)
    assert (await connect().get("/logs", PARAMS, good)).json()["query"] == PARAMS
    assert len(waits) == 3


async def test_retry_after_is_never_shortened(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.too_many(retry_after=retry.MAX_SOURCE_WAIT))
    await connect().get("/", PARAMS, good)
    assert waits == [retry.MAX_SOURCE_WAIT]


async def test_a_source_does_not_wait_longer_than_its_limit(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.too_many(retry_after=retry.MAX_SOURCE_WAIT + 1), times=None)
    with pytest.raises(Retryable) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.retry_after == retry.MAX_SOURCE_WAIT + 1
    assert (len(server.seen), waits) == (1, [])


async def test_retry_after_0_is_not_a_tight_loop(metrics: Metrics, clock: FakeClock) -> None:
    async for attempt in retrying("voice", metrics, sleep=clock.sleep):
        with attempt:
            if len(clock.waits) < 40:
                raise Retryable("busy", reason="status_429", retry_after=0)
    assert sum(clock.waits) > 60


async def test_without_a_limit_it_never_gives_up_and_waits_stay_bounded(
    metrics: Metrics, clock: FakeClock
) -> None:
    async for attempt in retrying("splunk", metrics, sleep=clock.sleep):
        with attempt:
            if len(clock.waits) < 2000:
                raise Retryable("down", reason="connect")
    assert len(clock.waits) == 2000
    assert 30 < max(clock.waits) <= 60
    assert min(clock.waits[100:]) < 5  # full jitter


@pytest.mark.parametrize("error", [KeyError("bug"), Refused("no"), asyncio.CancelledError()])
async def test_only_retryable_errors_are_retried(
    metrics: Metrics, clock: FakeClock, error: BaseException
) -> None:
    async def loop() -> None:
        async for attempt in retrying("voice", metrics, sleep=clock.sleep, attempts=5):
            with attempt:
                raise error

    with pytest.raises(type(error)):
        await loop()
    assert clock.waits == []


async def test_a_wait_between_attempts_can_be_cancelled(metrics: Metrics, clock: FakeClock) -> None:
    async def loop() -> None:
        async for attempt in retrying("splunk", metrics, sleep=clock.sleep):
            with attempt:
                raise Retryable("busy", reason="status_429", retry_after=3600)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await loop()


async def test_a_request_that_the_vendor_will_never_accept_holds_the_source(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.answer(400), times=None)
    with pytest.raises(Refused) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.status == 400
    assert (len(server.seen), waits) == (1, [])


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 422])
async def test_what_one_request_may_be_refused_alone_is_sent_again_before_a_record_is_given_up(
    server: Server, connect: Connect, waits: list[float], status: int
) -> None:
    server.faults.add(faults.answer(status), nth=range(1, retry.REFUSED_ATTEMPTS))
    await connect().get("/", PARAMS, good, finely=True)
    assert len(server.seen) == retry.REFUSED_ATTEMPTS
    assert 0 < sum(waits) < 2
    server.faults.add(faults.answer(status), times=None)
    with pytest.raises(RequestRefused) as caught:
        await connect().get("/", PARAMS, good, finely=True)
    assert (caught.value.status, caught.value.reason) == (status, f"status_{status}")
    assert len(server.seen) == 2 * retry.REFUSED_ATTEMPTS


async def test_only_refusals_count_as_attempts_that_were_refused(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    for status in (500, 403, 500, 403):
        server.faults.add(faults.answer(status))
    await connect().get("/", PARAMS, good, finely=True)
    assert len(waits) == 4


@pytest.mark.parametrize("status", [301, 401])
async def test_what_all_requests_lack_is_never_sent_again(
    server: Server, connect: Connect, waits: list[float], status: int
) -> None:
    server.faults.add(faults.answer(status), times=None)
    with pytest.raises(Refused) as caught:
        await connect().get("/", PARAMS, good, finely=True)
    assert not isinstance(caught.value, RequestRefused)
    assert (len(server.seen), waits) == (1, [])


async def test_a_page_that_is_too_large_breaks_the_walk(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    server.faults.add(faults.gzip_bomb(body.MAX_BODY_BYTES + 1), times=None)
    with pytest.raises(WalkBroken) as caught:
        await connect().get("/", PARAMS, good)
    assert caught.value.reason == "reply_too_large"
    assert waits == []
