"""A server that echoes requests, raw replies, and a peer's errors for them."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import respx

from auditrelay.errors import Retryable
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double
from auditrelay.settings import PeerSettings
from auditrelay.telemetry.metrics import Metrics

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
PLAIN = PeerSettings.model_validate({})
PARAMS = {"token": "query-secret", "page": "1"}
SHORT_TIMEOUT = timedelta(milliseconds=400)


class Server(Double):
    """Answers each request with its query, headers and path."""

    key = ""

    def respond(self, request: Request) -> Response:
        if self.key and request.headers.get("x-key") != self.key:
            return json_response(401, {"detail": "no"})
        answer = {"query": request.query, "headers": request.headers, "path": request.path}
        return json_response(200, answer, {"Set-Cookie": "session=1"})


Connect = Callable[..., Peer]


@asynccontextmanager
async def raw_server(
    *answers: bytes, tls: ssl.SSLContext | None = None, listen: bool = True
) -> AsyncIterator[str]:
    """Send *answers*, one a connection (after the request if *listen*), and close it."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if listen:
                await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0) if left else b"")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(
    serve: Serve, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Let *serve* answer each connection, and close it then, unless it did so in its own way."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled, in 3.11 it would be logged as an error
        finally:
            writer.close()
            tasks.discard(task)

    listener = await asyncio.start_server(accept, host, 0, ssl=tls)
    async with listener:
        address = f"[{host}]" if ":" in host else host
        port = listener.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://{address}:{port}"
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def counted(metrics: Metrics, code: str) -> int:
    """Return how many requests with this code the histogram has seen."""
    pattern = rf'request_duration_seconds_count\{{code="{code}",peer="voice"\}} (\d+)'
    pattern += rf'|request_duration_seconds_count\{{peer="voice",code="{code}"\}} (\d+)'
    found = re.search(pattern, metrics.render()[0].decode())
    return int(found[1] or found[2]) if found else 0


def reply(status: int, body: bytes = b"", **headers: Any) -> Reply:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Reply(status, httpx.Headers(named), body, "GET https://api.example/logs", NOON)


def answered_by(router: respx.MockRouter, source: Any) -> None:
    """Let *router* answer the requests of *source*."""
    source._peer._transport = httpx.MockTransport(router.async_handler)


async def failure(peer: Peer, **request: Any) -> Retryable:
    with pytest.raises(Retryable) as caught:
        await peer.request("GET", "/logs", params=PARAMS, **request)
    assert "query-secret" not in str(caught.value)
    return caught.value
