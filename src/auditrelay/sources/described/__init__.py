"""
Sources that a description describes: one walk for every vendor, made of what its feed says.

The description says where things are. What keeps the promises is here: bounds that are widened,
ends of pages that are proved, cursors that may not repeat, next addresses that may not lead away.
``source`` walks a window, ``questions`` asks for a page, ``page_reader`` reads it, ``turning``
decides what follows from it, ``refusals`` judges what is no page, and ``auth`` identifies us.
"""

from hashlib import sha256
from urllib.parse import urlsplit

from auditrelay.clock import Clock
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.http.peer import Heard, Peer
from auditrelay.http.quota import shared_quota
from auditrelay.http.rate import RateLimiter
from auditrelay.sources.described.auth import credentials
from auditrelay.sources.described.source import Source
from auditrelay.telemetry.metrics import Metrics


def build(
    name: str,
    settings: DescribedSettings,
    metrics: Metrics,
    clock: Clock,
    *,
    heard: Heard | None = None,
) -> Source:
    """
    Return the source that the configuration calls *name*.

    *heard* is called with all its requests and replies, those for tokens too.
    """
    address = urlsplit(settings.base_url)
    # One account at one host has one quota, however many sources read it.
    keys = "\n".join(settings.secret(secret).reveal() for secret in sorted(settings.FEED.secrets))
    quota = shared_quota(clock, (address.netloc, sha256(keys.encode()).hexdigest()))
    limiter = RateLimiter.of(settings.requests_per_minute, clock)
    peer = Peer(
        name,
        settings,
        base_url=settings.base_url,
        credentials=credentials(
            name, settings, metrics, clock, heard, quota=quota, limiter=limiter
        ),
        metrics=metrics,
        clock=clock,
        limiter=limiter,
        settle=settings.settle,
        quota=quota,
        heard=heard,
    )
    return Source(settings, peer, quota, clock)
