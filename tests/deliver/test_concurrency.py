"""How many requests a peer gets at a time, against peers whose latency is only reckoned."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from auditrelay.deliver.concurrency import NOISE, AdaptiveConcurrency

SIZE = 700_000


@dataclass
class Peer:
    """
    A peer reckoned, not run: *latency* of how many requests are on the wire and the time.

    It gets as many requests as the concurrency allows, as if the backlog had no end.
    """

    concurrency: AdaptiveConcurrency
    latency: Callable[[int, float], float | None]
    now: float = 0.0
    answered: int = 0
    flying: list[tuple[float, float, bool]] = field(default_factory=list)

    def run(self, seconds: float) -> list[int]:
        """Let *seconds* pass; return how many were on the wire at each answer."""
        seen = []
        until = self.now + seconds
        while self.now < until:
            while len(self.flying) < self.concurrency.limit:
                took = self.latency(len(self.flying) + 1, self.now)
                lands = self.now + (took if took is not None else 0.01)
                heapq.heappush(self.flying, (lands, self.now, took is not None))
            in_flight = len(self.flying)
            lands, begun, well = heapq.heappop(self.flying)
            self.now = max(self.now, lands)
            seen.append(in_flight)
            if well:
                self.concurrency.on_success(begun, self.now, size=SIZE, in_flight=in_flight)
                self.answered += 1
            else:
                self.concurrency.on_failure(begun, self.now)
                self.now += 1  # its backoff
        return seen


def steady(seconds: float) -> Callable[[int, float], float | None]:
    return lambda _flying, _now: seconds


@pytest.mark.parametrize("most", [1, 4, 64])
def test_a_peer_that_keeps_up_gets_all_it_may_and_never_more(most: int) -> None:
    seen = Peer(AdaptiveConcurrency(most), steady(0.2)).run(60)
    assert set(seen[most:]) == {most}


def test_a_peer_that_becomes_slow_gets_less_and_not_more() -> None:
    peer = Peer(AdaptiveConcurrency(16), lambda flying, now: 0.2 if now < 60 else 0.2 * flying)
    peer.run(60)
    assert peer.concurrency.limit == 16
    peer.run(10)
    assert peer.concurrency.limit <= 3


def test_a_peer_whose_requests_queue_up_gets_about_what_it_can_do_at_a_time() -> None:
    # Four at a time; what is more waits for its turn.
    peer = Peer(AdaptiveConcurrency(64), lambda flying, _: 0.2 * max(1.0, flying / 4))
    peer.concurrency.on_failure(0.0, 0.0)
    while peer.concurrency.limit > 1:
        peer.now += 1
        peer.concurrency.on_failure(peer.now, peer.now)
    peer.run(30)
    seen = peer.run(3600)
    assert 4 <= sum(seen) / len(seen) <= 10
    assert max(seen) <= 16


def test_a_peer_that_stays_slow_is_its_new_self_and_gets_more_again() -> None:
    peer = Peer(AdaptiveConcurrency(8), lambda _, now: 0.2 if now < 60 else 1.0)
    peer.run(60)
    peer.run(20)
    assert peer.concurrency.limit < 8
    peer.run(600)
    assert peer.concurrency.limit == 8


def test_failures_divide_and_success_adds_one_by_one() -> None:
    concurrency = AdaptiveConcurrency(16)
    limits = []
    for now in range(1, 7):
        concurrency.on_failure(now, now)
        limits.append(concurrency.limit)
    assert limits == [6, 2, 1, 1, 1, 1]
    grown = []
    for now in range(10, 20):
        concurrency.on_success(now, now + 0.1, size=SIZE, in_flight=concurrency.limit)
        grown.append(concurrency.limit)
    assert grown == [2, 2, 2, 3, 3, 3, 4, 4, 4, 4]


def test_those_that_were_on_the_wire_together_tell_of_one_jam() -> None:
    concurrency = AdaptiveConcurrency(16)
    for late in range(16):
        concurrency.on_failure(100.0, 101.0 + late / 100)
    assert concurrency.limit == 6
    concurrency.on_failure(102.0, 103.0)
    assert concurrency.limit == 2


def test_small_requests_are_not_the_measure_of_large_ones() -> None:
    concurrency = AdaptiveConcurrency(8)
    for now in range(200):
        concurrency.on_success(now, now + 0.01, size=800, in_flight=8)
        concurrency.on_success(now, now + 0.9, size=SIZE, in_flight=8)
    assert concurrency.limit == 8


def test_noise_is_not_slowness() -> None:
    concurrency = AdaptiveConcurrency(8)
    for now in range(200):
        concurrency.on_success(now, now + (0.001 if now % 2 else NOISE), size=SIZE, in_flight=8)
    assert concurrency.limit == 8


def test_answers_while_there_is_little_to_do_say_nothing_about_more() -> None:
    concurrency = AdaptiveConcurrency(8)
    for now in range(1, 4):
        concurrency.on_failure(now, now)
    for now in range(10, 500):
        concurrency.on_success(now, now + 0.1, size=SIZE, in_flight=0)
    assert concurrency.limit == 1


def test_a_peer_that_is_down_gets_one_at_a_time_and_all_again_when_it_is_back() -> None:
    peer = Peer(AdaptiveConcurrency(16), lambda _, now: None if 100 < now < 86_500 else 0.2)
    peer.run(100)
    down = peer.run(86_000)
    assert set(down[40:]) == {1}
    seen = peer.run(600)
    assert peer.concurrency.limit == 16
    assert seen[-1] == 16
