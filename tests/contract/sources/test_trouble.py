"""Every source retries, waits or raises when its vendor or the network fails."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.sources.conftest import KINDS, Rig
from tests.support.cases import case
from tests.support.extent import extent

from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.http.retry import REFUSED_ATTEMPTS, SOURCE_ATTEMPTS
from auditrelay.sandbox import Trap, faults

TRANSIENT = {
    "html with 200": faults.html(200),
    "no body": faults.empty(),
    "half a reply": faults.truncated(),
    "half a reply, then a reset": faults.truncated(reset=True),
    "half a text": faults.truncated(honest_length=True),
    "reset before": faults.reset(),
    "reset after": faults.store_then_reset(),
    "another JSON": faults.answer(200, b'{"hello":"world"}'),
    "a list": faults.answer(200, b"[]"),
    "null": faults.answer(200, b"null"),
    "unknown encoding": faults.answer(200, b"?", {"Content-Encoding": "br"}),
    "damaged gzip": faults.answer(200, b"?", {"Content-Encoding": "gzip"}),
    "408": faults.html(408),
    "425": faults.html(425),
    "429": faults.too_many(),
    "500": faults.html(500),
    "502": faults.html(502),
    "503": faults.answer(503, b'{"error":"upstream"}'),
    "504": faults.empty(504),
    "599": faults.empty(599),
}
"""Failures that a retry overcomes."""

ENCODINGS = {
    "wrong type": faults.wrong_type(),
    "gzip": faults.gzipped(),
    "chunks": faults.chunked(7),
    "closed": faults.close(),
    "closed with notice": faults.close(announced=True),
    "in pieces": faults.drip(size=400, seconds=0),
}
"""Forms of a reply that make no difference."""


# --- transient failures


PAGES = (1, 2, 3)


async def test_no_record_is_lost_to_a_transient_failure(rig: Rig) -> None:
    """Each failure at one of the pages, at another one with every kind of source."""
    rig.fill(3 * rig.page)
    for number, (name, action) in enumerate(TRANSIENT.items(), KINDS.index(rig.name)):
        for page in extent(PAGES[number % 3 :][:1], PAGES):
            with case(name, page):
                fault = rig.double.faults.add(action, nth=page)
                assert await rig.shown() == rig.made()
                assert fault.applied == 1
                rig.double.faults.clear()


async def test_the_encoding_of_a_reply_makes_no_difference(rig: Rig, waits: list[float]) -> None:
    rig.fill(3 * rig.page)
    for name, action in ENCODINGS.items():
        with case(name):
            rig.double.faults.add(action, times=None)
            assert await rig.shown() == rig.made()
            assert not waits, "nothing had to be retried"
            rig.double.faults.clear()


async def test_retries_of_a_lasting_failure_end(rig: Rig, waits: list[float]) -> None:
    """The poll ends with an error after all its attempts; the next poll continues."""
    rig.fill(rig.page)
    for name, action in TRANSIENT.items():
        with case(name):
            waits.clear()
            fault = rig.double.faults.add(action, times=None)
            with pytest.raises(Retryable) as caught:
                await rig.pages()
            assert caught.value.reason
            assert fault.applied == SOURCE_ATTEMPTS == len(waits) + 1
            rig.double.faults.clear()
            assert await rig.shown() == rig.made()


@pytest.mark.parametrize("status", [400, 403])
async def test_no_record_is_passed_over_for_a_refusal_that_passes(
    rig: Rig, waits: list[float], status: int
) -> None:
    """One server of several refuses: asked for finely, a page is sent more than once."""
    rig.fill(3 * rig.page)
    first = 2 + rig.double.EXTRA_REQUESTS
    # A cursor may be refused as an old one: then the walk begins once more.
    restarts = status == 400 and rig.name == "slaunch"
    count = REFUSED_ATTEMPTS - 1 + restarts
    refusals = (
        [first, *range(first + 2, first + 1 + count)] if restarts else range(first, first + 2)
    )
    rig.double.faults.add(faults.html(status), nth=refusals)
    pages = [page async for page in rig.build().walk(rig.window, finely=True)]
    assert sorted(record for page in pages for record in page.records) == sorted(rig.made())
    assert [page.gaps for page in pages if page.gaps] == []
    assert len(waits) == REFUSED_ATTEMPTS - 1


@pytest.mark.parametrize("page", [1, 2])
async def test_a_hang_ends_with_the_timeout(rig: Rig, page: int) -> None:
    rig.fill(3 * rig.page)
    fault = rig.double.faults.add(faults.hang(), nth=page)
    async with asyncio.timeout(5):
        assert await rig.shown(rig.build(timeout="150ms")) == rig.made()
    assert fault.applied == 1


async def test_a_reply_that_trickles_ends_with_the_timeout(rig: Rig) -> None:
    rig.fill(rig.page)
    rig.double.faults.add(faults.drip(size=1, seconds=0.05), times=None)
    async with asyncio.timeout(5):
        with pytest.raises(Retryable) as caught:
            await rig.pages(rig.build(timeout="100ms"))
    assert caught.value.reason == "timeout"


async def test_an_unreachable_vendor_is_retried(rig: Rig) -> None:
    rig.fill(rig.page)
    source = rig.build()
    await rig.double.stop()
    with pytest.raises(Retryable) as caught:
        await rig.pages(source)
    assert caught.value.reason == "connect"
    await rig.double.start()
    assert await rig.shown(source) == rig.made()


# --- throttling


async def test_retry_after_in_seconds_is_waited_for(rig: Rig, waits: list[float]) -> None:
    rig.fill(3 * rig.page)
    rig.double.faults.add(faults.too_many(retry_after=77), nth=2)
    assert await rig.shown() == rig.made()
    assert waits == [77.0]


async def test_retry_after_as_a_date_is_waited_for(rig: Rig, waits: list[float]) -> None:
    rig.fill(3 * rig.page)
    until = rig.clock.now() + timedelta(seconds=77)
    rig.double.faults.add(faults.too_many(retry_after=until), nth=2)
    assert await rig.shown() == rig.made()
    (wait,) = waits
    assert 60 < wait < 78


async def test_without_retry_after_the_backoff_is_used(rig: Rig, waits: list[float]) -> None:
    rig.fill(3 * rig.page)
    rig.double.faults.add(faults.too_many(), nth=(2, 3, 4))
    assert await rig.shown() == rig.made()
    assert len(waits) == 3
    assert all(0 <= wait <= 60 for wait in waits)


async def test_a_retry_after_of_hours_ends_the_poll(rig: Rig, waits: list[float]) -> None:
    rig.double.faults.add(faults.too_many(retry_after=7200), times=None)
    with pytest.raises(Retryable) as caught:
        await rig.pages()
    assert caught.value.retry_after == 7200
    assert not waits


@pytest.mark.parametrize("answer", ["seconds", "date", "absent"])
async def test_the_vendors_own_throttling_is_understood(
    rig: Rig, waits: list[float], answer: str
) -> None:
    rig.fill(3 * rig.page)
    rig.double.switches.rate = 2
    rig.double.switches.retry_after = answer
    now = rig.double.clock()
    rig.double.clock = lambda: now  # the minute never ends, however long we wait
    source = rig.build(settle="1h")  # nor does our clock run too far ahead of it
    with pytest.raises(Retryable, match=f"^429 from GET {rig.double.url}[^: ]*: .") as caught:
        await rig.pages(source)
    assert caught.value.reason == "status_429"
    assert rig.double.answered[200] == 2
    assert len(waits) == SOURCE_ATTEMPTS - 1
    if answer == "seconds":
        assert all(wait >= 60 for wait in waits)


# --- replies that must never count as an answer


@pytest.mark.parametrize("page", [1, 2])
async def test_a_redirect_is_never_followed_and_no_other_host_gets_the_key(
    rig: Rig, page: int
) -> None:
    rig.fill(3 * rig.page)
    for status in (301, 302, 303, 307, 308):
        async with Trap() as trap:
            with case(status):
                rig.double.faults.add(faults.redirect(trap.url, status), nth=page)
                with pytest.raises(Refused, match=r"redirects to 127\.0\.0\.1") as caught:
                    await rig.pages()
                assert not trap.caught
                assert caught.value.status == status
                assert rig.double.secret not in str(caught.value)
                rig.double.faults.clear()


STATUSES = (
    *(204, 205, 400, 401, 402, 403, 404, 405, 406, 409, 410, 412, 413, 414, 415, 418, 422, 451),
)
BODIES = (b"", b"<html>No</html>", b'{"error":{"x":[]}}', b'["no"]')


async def test_no_window_is_skipped_for_any_reply_to_the_first_page(rig: Rig) -> None:
    """Each status with one of the bodies, with another one for every kind of source."""
    rig.fill(3 * rig.page)
    for number, status in enumerate(STATUSES, KINDS.index(rig.name)):
        for body in extent(BODIES[number % 4 :][:1], BODIES):
            with case(status, body):
                answer = faults.answer(status, b"" if status < 300 else body)
                rig.double.faults.add(answer, times=None)
                with pytest.raises(RelayError) as caught:
                    await rig.pages()
                assert isinstance(caught.value, Retryable if status < 300 else Refused)
                assert str(caught.value).startswith(f"{status} from GET {rig.double.url}")
                assert rig.double.secret not in str(caught.value)
                assert "<html>" not in str(caught.value)
                rig.double.faults.clear()


async def test_no_window_is_cut_short_for_any_reply_to_a_later_page(rig: Rig) -> None:
    rig.fill(3 * rig.page)
    for status in STATUSES:
        with case(status):
            body = b"" if status < 300 else b"<html>No</html>"
            rig.double.faults.add(faults.answer(status, body), nth=range(2, 50), times=None)
            assert await rig.whole_or_error() is not None
            rig.double.faults.clear()


async def test_a_page_too_large_for_memory_breaks_the_walk(rig: Rig) -> None:
    rig.double.faults.add(faults.gzip_bomb(40 * 2**20), times=None)
    with pytest.raises(WalkBroken) as caught:
        await rig.pages()
    assert caught.value.reason == "reply_too_large"


@pytest.mark.parametrize("page", [1, 2])
async def test_the_same_page_over_and_over_breaks_the_walk(rig: Rig, page: int) -> None:
    """A cache in between that has only one page."""
    rig.fill(5 * rig.page)
    kept: list[bytes] = []

    def change(_request: Any, response: Any) -> Any:
        kept.append(response.body)
        response.body = kept[0]
        return response

    first = page + rig.double.EXTRA_REQUESTS
    rig.double.faults.add(faults.rewrite(change), nth=range(first, 10_000), times=None)
    async with asyncio.timeout(90):
        error = await rig.whole_or_error()
    assert isinstance(error, WalkBroken)
    assert rig.double.requests < 200
