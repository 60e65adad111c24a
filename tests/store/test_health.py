"""The health of a source or sink: each change is logged once, and dated when it began."""

from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, Retryable
from auditrelay.store.conditions import SinkCondition, SourceCondition
from auditrelay.store.health import Health
from auditrelay.telemetry.metrics import Metrics

DOWN = Retryable("503 from it", reason="status_503")
NO = Refused("401 from it", status=401)


@pytest.fixture(params=["source", "sink"])
def health(request: pytest.FixtureRequest, clock: FakeClock) -> Any:
    metrics = Metrics(sources=["it"], sinks=["it"])
    if request.param == "source":
        return Health("source", "it", SourceCondition(), metrics=metrics, clock=clock)
    return Health("sink", "it", SinkCondition(), metrics=metrics, clock=clock)


def test_a_state_is_dated_when_it_begins_and_not_again(health: Any, clock: FakeClock) -> None:
    seen = []
    for mark in (
        lambda: health.failed(DOWN),
        lambda: health.failed(Retryable("late", reason="timeout")),
        lambda: health.refused(NO),
        lambda: health.refused(NO),
        health.succeeded,
        health.succeeded,
    ):
        clock.advance(60)
        changed, condition = mark(), health.condition
        assert condition.since is not None
        seen.append((changed, condition.up, condition.held, condition.error_code, condition.since))
    first, held, up = (seen[index][-1] for index in (0, 2, 4))
    assert first < held < up
    assert seen == [
        (True, False, False, "status_503", first),
        (True, False, False, "timeout", first),
        (True, False, True, "status_401", held),
        (False, False, True, "status_401", held),
        (True, True, False, None, up),
        (False, True, False, None, up),
    ]


def test_being_held_and_released_is_logged_once(health: Any) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            health.refused(NO)
        for _ in range(2):
            health.succeeded()
        health.refused(NO)
        health.failed(DOWN)
        health.succeeded()
    peer = health._peer
    assert [line["event"] for line in logs] == [
        f"{peer}_held",
        f"{peer}_released",
        f"{peer}_held",
    ], "a failure is no release"
    assert {line[peer] for line in logs} == {"it"}


@pytest.mark.parametrize("up", [False, True])
def test_only_a_failure_outlasts_a_restart(health: Any, clock: FakeClock, *, up: bool) -> None:
    health.restore(type(health.condition)(up=up, since="2025-12-31T00:00:00+00:00"))
    health.failed(DOWN)
    since = clock.now().isoformat() if up else "2025-12-31T00:00:00+00:00"
    assert health.condition.since == since
