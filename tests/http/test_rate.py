"""The rate limit: no minute has more requests than allowed."""

import asyncio

import pytest
from tests.support.clock import FakeClock
from tests.support.peers import (
    Connect,
    Server,
)

from auditrelay.http.rate import RateLimiter


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 600])
async def test_no_minute_has_more_requests_than_allowed(per_minute: int) -> None:
    clock = FakeClock()
    limiter = RateLimiter(per_minute, clock)
    times = []
    for number in range(per_minute * 3):
        await limiter.acquire()
        times.append(clock.monotonic())
        if number == per_minute:
            clock.advance(7.5)  # an idle time allows one burst, and no more
    for start in times:
        # (slightly less than a minute: the sums are of floats)
        assert sum(start <= at < start + 59.999999 for at in times) <= per_minute
    assert times[-1] - times[0] < 60 * 3 * 1.2 + 10


async def test_concurrent_requests_are_spaced_in_order() -> None:
    clock = FakeClock()
    limiter = RateLimiter(60, clock)
    await asyncio.gather(*(limiter.acquire() for _ in range(10)))
    assert clock.waits == pytest.approx([60 / 55 * number for number in range(1, 5)])


async def test_a_peer_keeps_to_its_rate_limit(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    peer = connect(per_minute=2)
    for _ in range(2):
        await peer.request("GET", "/")
    assert waits == pytest.approx([30], abs=1)
