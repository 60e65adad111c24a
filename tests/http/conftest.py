"""A server on loopback, and peers for it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.peers import Connect, Server
from tests.support.proxy import proxy

from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.rate import RateLimiter
from auditrelay.settings import PeerSettings
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.metrics import Metrics


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as server:
        yield server


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(params=["direct", "proxied"])
async def connect(
    request: pytest.FixtureRequest, server: Server, metrics: Metrics, clock: FakeClock
) -> AsyncIterator[Connect]:
    """Peers with a transport of our own, and peers behind a proxy, which have httpx's."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(proxy()) if request.param == "proxied" else None
        yield await stack.enter_async_context(peers(server, metrics, clock, proxy=address))


@pytest.fixture
async def direct(server: Server, metrics: Metrics, clock: FakeClock) -> AsyncIterator[Connect]:
    """Peers with a transport of our own."""
    async with peers(server, metrics, clock) as connect:
        yield connect


@asynccontextmanager
async def peers(
    server: Server, metrics: Metrics, clock: FakeClock, **common: Any
) -> AsyncIterator[Connect]:
    made: list[Peer] = []

    def make(
        base_url: str | None = None,
        *,
        secrets: tuple[Secret, ...] = (),
        identity: Callable[[], Mapping[str, str]] = dict,
        per_minute: int | None = None,
        **settings: Any,
    ) -> Peer:
        peer = Peer(
            "voice",
            PeerSettings.model_validate(common | settings),
            base_url=base_url or server.url,
            credentials=KeyCredentials(identity, secrets),
            metrics=metrics,
            clock=clock,
            limiter=RateLimiter.of(per_minute, clock),
        )
        made.append(peer)
        return peer

    yield make
    for peer in made:
        await peer.aclose()
