"""A server on loopback, and a peer for it."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.peers import Connect, Server

from auditrelay.http.peer import Peer
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


@pytest.fixture
async def connect(server: Server, metrics: Metrics, clock: FakeClock) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

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
            PeerSettings.model_validate(settings),
            base_url=base_url or server.url,
            headers=identity,
            secrets=secrets,
            metrics=metrics,
            clock=clock,
            requests_per_minute=per_minute,
        )
        peers.append(peer)
        return peer

    yield make
    for peer in peers:
        await peer.aclose()
