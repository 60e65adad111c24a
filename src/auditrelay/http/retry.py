"""The retry policy: attempts and waits after a failed or throttled request of a source or sink."""

from collections.abc import Awaitable, Callable

import tenacity

from auditrelay.errors import Retryable
from auditrelay.http.failures import forget
from auditrelay.telemetry.logs import log
from auditrelay.telemetry.metrics import Metrics

SOURCE_ATTEMPTS = 5
"""Attempts for one request of a source before its poll fails; the next poll continues there."""

MAX_SOURCE_WAIT = 900.0
"""A source that asks for a longer wait than these seconds is not asked again until a later poll."""


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)


def _failure(state: tenacity.RetryCallState) -> Retryable:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable)  # noqa: S101  # no other error is retried
    return error


def _wait(state: tenacity.RetryCallState) -> float:
    """Back off with full jitter, and for at least as long as the peer asked for."""
    return max(_backoff(state), _failure(state).retry_after or 0.0)


def retrying(
    peer: str,
    metrics: Metrics,
    *,
    sleep: Callable[[float], Awaitable[None]],
    attempts: int | None = None,
) -> tenacity.AsyncRetrying:
    """
    Return the policy that retries a request to *peer* while it raises Retryable.

    Use it as ``async for attempt in retrying(...): with attempt: ...``. The last failure is raised
    as it is. *sleep* waits for so many seconds between two attempts. With *attempts* it gives up
    after that many, or at once when the peer asks for a wait of more than *MAX_SOURCE_WAIT*;
    without, it never gives up.
    """

    def give_up(state: tenacity.RetryCallState) -> bool:
        return attempts is not None and (
            state.attempt_number >= attempts
            or (_failure(state).retry_after or 0.0) > MAX_SOURCE_WAIT
        )

    def record(state: tenacity.RetryCallState) -> None:
        failure = _failure(state)
        forget(failure)
        reason = failure.reason
        metrics.requests_retried.labels(peer, reason).inc()
        log.warning(
            "request_retried",
            peer=peer,
            attempt=state.attempt_number,
            wait=round(state.upcoming_sleep, 3),
            reason=reason,
        )

    return tenacity.AsyncRetrying(
        sleep=sleep,
        stop=give_up,
        wait=_wait,
        retry=tenacity.retry_if_exception_type(Retryable),
        before_sleep=record,
        reraise=True,
    )
