"""The retry policy: attempts and waits after a failed or throttled request of a source or sink."""

from collections.abc import Awaitable, Callable

import tenacity

from auditrelay.errors import Refused, Retryable, WalkBroken
from auditrelay.http.failures import forget
from auditrelay.telemetry.logs import log
from auditrelay.telemetry.metrics import Metrics

SOURCE_ATTEMPTS = 5
"""Attempts for one request of a source before its poll fails; the next poll continues there."""

REFUSED_ATTEMPTS = 3
"""The same for one that is refused, where a record may be passed over for that."""

MAX_SOURCE_WAIT = 900.0
"""A source that asks for a longer wait than these seconds is not asked again until a later poll."""


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)


def _is_retried(error: BaseException) -> bool:
    return isinstance(error, Retryable) or (isinstance(error, WalkBroken) and error.refused)


def _is_refused(error: Retryable | WalkBroken) -> bool:
    return isinstance(error, Refused | WalkBroken)


def _failure(state: tenacity.RetryCallState) -> Retryable | WalkBroken:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable | WalkBroken)  # noqa: S101  # no other error is retried
    return error


def _asked_wait(error: Retryable | WalkBroken) -> float:
    """Return how many seconds the peer asked to wait."""
    return (error.retry_after or 0.0) if isinstance(error, Retryable) else 0.0


def _wait(state: tenacity.RetryCallState) -> float:
    """Back off with full jitter, and for at least as long as the peer asked for."""
    return max(_backoff(state), _asked_wait(_failure(state)))


def retrying(
    peer: str,
    metrics: Metrics,
    *,
    sleep: Callable[[float], Awaitable[None]],
    attempts: int | None = None,
    refused_attempts: int = 1,
) -> tenacity.AsyncRetrying:
    """
    Return the policy that retries a request to *peer* while it raises what may pass later.

    Use it as ``async for attempt in retrying(...): with attempt: ...``. The last failure is raised
    as it is. *sleep* waits for so many seconds between two attempts. With *attempts* it gives up
    after that many, after *refused_attempts* of them that were refused, or at once when the peer
    asks for a wait of more than *MAX_SOURCE_WAIT*; without, it never gives up.
    """
    refusals = 0

    def give_up(state: tenacity.RetryCallState) -> bool:
        nonlocal refusals
        refusals += _is_refused(failure := _failure(state))
        return attempts is not None and (
            state.attempt_number >= attempts
            or (_is_refused(failure) and refusals >= refused_attempts)
            or _asked_wait(failure) > MAX_SOURCE_WAIT
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
        retry=tenacity.retry_if_exception(_is_retried),
        before_sleep=record,
        reraise=True,
    )
