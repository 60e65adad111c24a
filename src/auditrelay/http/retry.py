"""The one retry policy: how often a request is repeated, and how long is waited before that."""

import asyncio
from collections.abc import Awaitable, Callable

import tenacity

from auditrelay.errors import (
    Retryable,
)
from auditrelay.telemetry.logs import log
from auditrelay.telemetry.metrics import Metrics

SOURCE_ATTEMPTS = 5
"""How often a source's request is made before the poll is given up; the next poll goes on."""


SOURCE_PATIENCE = 900.0
"""A source that asks for more seconds than this is left alone until a later poll."""


async def pause(seconds: float) -> None:
    """Wait. Everything here waits by this function, so that tests need not."""
    await asyncio.sleep(seconds)


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=60)


def _failure(state: tenacity.RetryCallState) -> Retryable:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable)  # noqa: S101  # nothing else is retried
    return error


def _wait(state: tenacity.RetryCallState) -> float:
    """Back off with full jitter, and never come back sooner than the peer has asked for."""
    return max(_backoff(state), _failure(state).retry_after or 0.0)


def retrying(
    peer: str,
    metrics: Metrics,
    *,
    attempts: int | None = None,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> tenacity.AsyncRetrying:
    """
    Return the policy by which a request to *peer* is repeated while it raises Retryable.

    To be used as ``async for attempt in retrying(...): with attempt: ...``. The last failure is
    raised as it is. With *attempts* it gives up after so many, or at once when the peer asks for
    more than *SOURCE_PATIENCE*; without, it never gives up. *sleep* waits in the place of
    :func:`pause`.
    """

    def enough(state: tenacity.RetryCallState) -> bool:
        return attempts is not None and (
            state.attempt_number >= attempts
            or (_failure(state).retry_after or 0.0) > SOURCE_PATIENCE
        )

    def note(state: tenacity.RetryCallState) -> None:
        reason = _failure(state).reason
        metrics.requests_retried.labels(peer, reason).inc()
        log.warning(
            "request_retried",
            peer=peer,
            attempt=state.attempt_number,
            wait=round(state.upcoming_sleep, 3),
            reason=reason,
        )

    return tenacity.AsyncRetrying(
        sleep=sleep or pause,
        stop=enough,
        wait=_wait,
        retry=tenacity.retry_if_exception_type(Retryable),
        before_sleep=note,
        reraise=True,
    )
