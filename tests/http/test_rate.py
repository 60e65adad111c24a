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
        await limiter.acquire(background=False)
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
    await asyncio.gather(*(limiter.acquire(background=False) for _ in range(10)))
    assert clock.waits == pytest.approx([60 / 55 * number for number in range(1, 5)])


async def test_a_peer_keeps_to_its_rate_limit(
    server: Server, connect: Connect, waits: list[float]
) -> None:
    peer = connect(per_minute=2)
    for _ in range(2):
        await peer.request("GET", "/")
    assert waits == pytest.approx([30], abs=1)


# --- in the background


class Turns:
    """A rate limit of ten a minute."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float]] = []
        self.clock = FakeClock()
        self.limiter = RateLimiter(10, self.clock)

    async def ask(self, who: str, times: int, *, background: bool) -> None:
        for _ in range(times):
            await self.limiter.acquire(background=background)
            self.taken.append((who, self.clock.monotonic()))


async def test_what_goes_on_in_the_background_gives_way() -> None:
    turns = Turns()
    resweeps = [
        asyncio.ensure_future(turns.ask(f"resweep {number}", 10, background=True))
        for number in range(5)
    ]
    while len(turns.taken) < 5:  # noqa: ASYNC110  # it lasts a few rounds of the loop
        await asyncio.sleep(0)
    began = turns.clock.monotonic()
    poll = asyncio.ensure_future(turns.ask("poll", 3, background=False))
    await poll
    polls = [at for who, at in turns.taken if who == "poll"]
    assert polls[0] - began <= 2 * 6.0, "it waits for at most one of them, not for five"
    assert polls[-1] - began <= 6 * 6.0, "and so does each of its requests"
    between = [who for who, at in turns.taken if began < at <= polls[-1]]
    assert between.count("poll") == 3
    assert len(between) <= 7, "in turns at the worst"
    for task in resweeps:
        task.cancel()
    await asyncio.wait(resweeps)
