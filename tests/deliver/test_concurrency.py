"""How many requests a sink gets concurrently, against sinks whose latency is computed."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from auditrelay.deliver.concurrency import NOISE, AdaptiveConcurrency

SIZE = 700_000


@dataclass
class SimulatedSink:
    """
    A simulated sink: *latency* is a function of the requests in flight and the time.

    It gets as many requests as the concurrency allows, as if the backlog had no end.
    """

    concurrency: AdaptiveConcurrency
    latency: Callable[[int, float], float | None]
    now: float = 0.0
    answered: int = 0
    flights: list[tuple[float, float, bool]] = field(default_factory=list)

    def run(self, seconds: float) -> list[int]:
        """Let *seconds* pass; return how many requests were in flight at each response."""
        seen = []
        until = self.now + seconds
        while self.now < until:
            while len(self.flights) < self.concurrency.limit:
                took = self.latency(len(self.flights) + 1, self.now)
                ends = self.now + (took if took is not None else 0.01)
                heapq.heappush(self.flights, (ends, self.now, took is not None))
            in_flight = len(self.flights)
            ends, begun, well = heapq.heappop(self.flights)
            self.now = max(self.now, ends)
            seen.append(in_flight)
            if well:
                self.concurrency.on_success(begun, self.now, size=SIZE, in_flight=in_flight)
                self.answered += 1
            else:
                self.concurrency.on_failure(begun, self.now)
                self.now += 1  # its backoff
        return seen


def steady(seconds: float) -> Callable[[int, float], float | None]:
    return lambda _flights, _now: seconds


@pytest.mark.parametrize("most", [1, 4, 64])
def test_a_sink_that_keeps_up_gets_the_configured_concurrency(most: int) -> None:
    seen = SimulatedSink(AdaptiveConcurrency(most), steady(0.2)).run(60)
    assert set(seen[most:]) == {most}


def test_the_limit_falls_when_a_sink_becomes_slow() -> None:
    sink = SimulatedSink(
        AdaptiveConcurrency(16), lambda flights, now: 0.2 if now < 60 else 0.2 * flights
    )
    sink.run(60)
    assert sink.concurrency.limit == 16
    sink.run(10)
    assert sink.concurrency.limit <= 3


def test_the_limit_follows_what_a_sink_can_process_concurrently() -> None:
    # Four at a time; more requests queue up.
    sink = SimulatedSink(AdaptiveConcurrency(64), lambda flights, _: 0.2 * max(1.0, flights / 4))
    sink.concurrency.on_failure(0.0, 0.0)
    while sink.concurrency.limit > 1:
        sink.now += 1
        sink.concurrency.on_failure(sink.now, sink.now)
    sink.run(30)
    seen = sink.run(3600)
    assert 4 <= sum(seen) / len(seen) <= 10
    assert max(seen) <= 16


def test_a_sink_that_stays_slow_gets_the_full_concurrency_again() -> None:
    sink = SimulatedSink(AdaptiveConcurrency(8), lambda _, now: 0.2 if now < 60 else 1.0)
    sink.run(60)
    sink.run(20)
    assert sink.concurrency.limit < 8
    sink.run(600)
    assert sink.concurrency.limit == 8


def test_failures_divide_the_limit_and_successes_add_one_by_one() -> None:
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


def test_requests_in_flight_together_count_as_one_congestion() -> None:
    concurrency = AdaptiveConcurrency(16)
    for late in range(16):
        concurrency.on_failure(100.0, 101.0 + late / 100)
    assert concurrency.limit == 6
    concurrency.on_failure(102.0, 103.0)
    assert concurrency.limit == 2


def test_the_latency_of_small_requests_is_no_measure_for_large_ones() -> None:
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


def test_responses_below_the_limit_do_not_raise_it() -> None:
    concurrency = AdaptiveConcurrency(8)
    for now in range(1, 4):
        concurrency.on_failure(now, now)
    for now in range(10, 500):
        concurrency.on_success(now, now + 0.1, size=SIZE, in_flight=0)
    assert concurrency.limit == 1


def test_a_sink_that_is_down_gets_one_request_at_a_time_and_all_again_once_it_recovers() -> None:
    sink = SimulatedSink(
        AdaptiveConcurrency(16), lambda _, now: None if 100 < now < 86_500 else 0.2
    )
    sink.run(100)
    down = sink.run(86_000)
    assert set(down[40:]) == {1}
    seen = sink.run(600)
    assert sink.concurrency.limit == 16
    assert seen[-1] == 16


@pytest.mark.parametrize("days", [3.6, 400, 40_000])
def test_a_size_that_was_not_sent_for_days_has_no_minimum_any_more(days: float) -> None:
    concurrency = AdaptiveConcurrency(4)
    concurrency.on_success(0, 0.001, size=10, in_flight=1)
    later = days * 86_400
    concurrency.on_success(later, later + 5, size=10, in_flight=1)
    assert concurrency.limit == 4
