"""
What identifies us to a described vendor, made of the table ``auth`` of its description.

Secrets go into headers only: nothing else of a request has one.
"""

from typing import assert_never
from urllib.parse import urlsplit

import httpx

from auditrelay.clock import Clock
from auditrelay.descriptions.credentials import key_credentials
from auditrelay.descriptions.credentials.grants import TokenRequest
from auditrelay.descriptions.model import (
    BasicAuth,
    DuoAuth,
    HeaderAuth,
    HeadersAuth,
    Limits,
    OAuth2Auth,
)
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.http.credentials import Credentials, KeyCredentials
from auditrelay.http.grants import MAX_REPLY_BYTES
from auditrelay.http.peer import Heard, Peer
from auditrelay.http.quota import Quota, asked_wait
from auditrelay.http.rate import RateLimiter
from auditrelay.http.replies import Reply
from auditrelay.http.tokens import TokenCredentials, shared
from auditrelay.sources.described.duo import DuoSignature
from auditrelay.sources.described.refusals import is_throttled, quota_headers
from auditrelay.telemetry.metrics import Metrics


def credentials(
    name: str,
    settings: DescribedSettings,
    metrics: Metrics,
    clock: Clock,
    heard: Heard | None = None,
    *,
    quota: Quota | None = None,
    limiter: RateLimiter | None = None,
) -> Credentials:
    """
    Return what identifies the source called *name* to its vendor.

    *heard* is called with requests for tokens, and their replies. Where tokens are taken at the
    API's own host, these requests count in the *quota* and the *limiter* of the API's.

    Raises ConfigError for a key that is none.
    """
    auth = settings.FEED.auth
    match auth:
        case HeaderAuth() | HeadersAuth() | BasicAuth():
            return key_credentials(auth, settings)
        case OAuth2Auth():
            request = TokenRequest(name, settings, auth, clock)
            own = urlsplit(settings.base_url).netloc == urlsplit(settings.token_address).netloc
            endpoint = _endpoint(
                name,
                settings,
                metrics,
                clock,
                heard=heard,
                quota=quota if own else None,
                limiter=limiter if own else None,
            )
            token = shared(clock, request.client)
            return TokenCredentials(name, request, endpoint, token, auth.prefix)
        case DuoAuth():
            keys = settings.secret(auth.integration_key), settings.secret(auth.secret_key)
            return DuoSignature(*keys, clock)
    assert_never(auth)


def _endpoint(
    name: str,
    settings: DescribedSettings,
    metrics: Metrics,
    clock: Clock,
    *,
    heard: Heard | None,
    quota: Quota | None,
    limiter: RateLimiter | None,
) -> Peer:
    """Return the authorisation server."""
    return Peer(
        name,
        settings,
        base_url=settings.token_address,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
        quota=quota,
        limiter=limiter,
        max_body_bytes=MAX_REPLY_BYTES,
        tells_time=False,  # what it says is not the vendor's time
        heard=heard if quota is None else _counted(quota, settings.FEED.limits, heard),
    )


def _counted(quota: Quota, limits: Limits, heard: Heard | None) -> Heard:
    """Return *heard* with an ear for what a reply says about the *quota*."""
    headers = quota_headers(limits)

    def hear(request: httpx.Request, reply: Reply) -> None:
        quota.hear(reply, headers)
        if is_throttled(reply, limits) and (wait := asked_wait(reply, headers)) is not None:
            quota.pause(wait)
        if heard is not None:
            heard(request, reply)

    return hear
