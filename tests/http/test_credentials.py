"""What a peer asks of its credentials, and when."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from tests.support.clock import FakeClock
from tests.support.peers import PARAMS, PLAIN, Connect, Server

from auditrelay.errors import Refused, RelayError, Retryable, WalkBroken
from auditrelay.http.peer import Peer
from auditrelay.http.replies import check
from auditrelay.telemetry.metrics import Metrics


class Recorded:
    """Credentials that say what they were asked; *keys* are sent one after the other."""

    def __init__(self, *keys: str, error: RelayError | None = None) -> None:
        self.asked: list[str] = []
        self._keys = keys
        self._error = error
        self._number = 0

    async def prepare(self) -> int:
        self.asked.append("prepare")
        if self._error is not None:
            raise self._error
        return self._number

    def headers(self, request: httpx.Request) -> Mapping[str, str]:
        self.asked.append(f"headers for {request.url.raw_path.decode()}")
        return {"X-Key": self._keys[self._number], "Accept": "x/y"}

    async def renewed(self, number: int, status: int) -> bool:
        self.asked.append(f"renewed {number} after {status}")
        self._number = min(number + 1, len(self._keys) - 1)
        return self._number != number

    async def aclose(self) -> None:
        self.asked.append("aclose")


def peer_with(server: Server, credentials: Recorded) -> Peer:
    return Peer(
        "voice",
        PLAIN,
        base_url=server.url,
        credentials=credentials,
        metrics=Metrics(),
        clock=FakeClock(),
    )


async def test_a_request_that_is_refused_is_sent_once_more_with_new_credentials(
    server: Server,
) -> None:
    server.key = "third"
    credentials = Recorded("first", "second", "third")
    peer = peer_with(server, credentials)
    assert (await peer.request("GET", "/logs", params=PARAMS)).status == 401
    assert [seen.headers["x-key"] for seen in server.seen] == ["first", "second"]
    await peer.aclose()
    once = ["prepare", "headers for /logs?token=query-secret&page=1"]
    assert credentials.asked == [*once, "renewed 0 after 401", *once, "aclose"]


async def test_the_headers_of_a_request_itself_come_first(server: Server) -> None:
    peer = peer_with(server, Recorded("key"))
    await peer.request("GET", "/logs", headers={"ACCEPT": "text/csv"})
    await peer.request("GET", "/logs")
    assert [seen.headers["accept"] for seen in server.seen] == ["text/csv", "x/y"]
    await peer.aclose()


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "caf\u00e9", "\0"])
async def test_a_credential_that_cannot_be_sent_is_not(server: Server, value: str) -> None:
    peer = peer_with(server, Recorded(value))
    with pytest.raises(WalkBroken) as caught:
        await peer.get("/logs", PARAMS, check)
    assert str(caught.value) == (
        f"the header X-Key of GET {server.url}/logs contains a character that no header may have"
    )
    assert not server.seen
    await peer.aclose()


async def test_without_credentials_nothing_is_sent(server: Server, waits: list[float]) -> None:
    refused = peer_with(server, Recorded(error=Refused("the client is not known")))
    with pytest.raises(Refused, match="the client is not known"):
        await refused.get("/logs", PARAMS, check)
    later = Recorded(error=Retryable("no token", reason="status_503"))
    peer = peer_with(server, later)
    with pytest.raises(Retryable, match="no token"):
        await peer.get("/logs", PARAMS, check)
    assert later.asked == ["prepare"] * 5, "under the retry policy of the request"
    assert not server.seen
    await asyncio.gather(peer.aclose(), refused.aclose())


async def test_nothing_of_an_address_but_its_path_is_in_the_error(connect: Connect) -> None:
    peer = connect(identity=lambda: {"x-key": "a\nb"})
    with pytest.raises(Retryable) as caught:
        await peer.request("GET", "/logs", params=PARAMS)
    assert "query-secret" not in str(caught.value)
