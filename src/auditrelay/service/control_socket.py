"""
A desk over HTTP on a Unix socket in the state directory.

While a service runs, every command that writes to the state or reads a source is carried out by
the service. So there is one writer, one rate limit a source, one set of cookies, and what is
forwarded is delivered at once (docs/decisions/0016-control-socket.md). Only processes that may
open the state directory can reach the socket.

A command sends its request in a POST. The answers are the lines of the reply, written one by one.
If the command disconnects, its work is cancelled.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from auditrelay.errors import ConfigError, RelayError, StateError
from auditrelay.service.desk import (
    VERSIONS,
    Answer,
    Failure,
    Handle,
    OnProgress,
    Request,
    Result,
    decode_answer,
    decode_request,
    encode,
)
from auditrelay.status.idle_server import USER, IdleServer

SOCKET: Final = "control"

MAX_REQUEST: Final = 16 << 20
"""Most bytes of a request: a replay lists the numbers of all dead letters."""

REQUEST_SECONDS: Final = 30.0
"""How long a request may take to come."""

MAX_LINE: Final = 256 << 20
"""Most bytes of an answer: a report of verify lists every missing event."""


_STOPPING: Final = Failure("the service is stopping; what was done is kept", 1)


class ControlSocket:
    """The desk of the instance whose state is in *state_dir*."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / SOCKET

    async def serve(self, handle: Handle) -> None:
        """Listen on the socket; see ``Desk``."""
        with self._listening() as listening:
            serving: asyncio.Future[None] | None = None
            try:
                async with asyncio.TaskGroup() as work:
                    answering = _Answering(handle, work)
                    routes = [Route("/", answering, methods=["POST"])]
                    server = IdleServer(Starlette(routes=routes))
                    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
                    try:
                        await asyncio.shield(serving)
                    finally:
                        answering.stopping = True
            finally:
                # Only now, when all work has ended: at its stop the server cancels what still runs.
                if serving is not None:
                    server.stop()
                    await serving  # until the last answers are sent

    async def ask(self, request: Request, on_progress: OnProgress) -> Result:
        """Send *request* to the socket; see ``Desk``."""
        try:
            async with (
                self._replying(encode(request)) as reply,
                contextlib.aclosing(_lines(reply)) as lines,
            ):
                async for line in lines:
                    answer = decode_answer(line)
                    if isinstance(answer, Failure):
                        raise answer.error()
                    if isinstance(answer, Result):
                        return answer
                    await on_progress(answer)
        except httpx.TransportError:
            pass  # it was killed in the middle of a line
        raise RelayError("the service ended before the command was done; what was done is kept")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as listening:
            # A socket that exists already is stale: we have the lock on the state.
            self._path.unlink(missing_ok=True)
            with self._short_path() as path:
                listening.bind(path)
            try:
                self._path.chmod(0o600)
                yield listening
            finally:
                self._path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _replying(self, content: bytes) -> AsyncIterator[httpx.Response]:
        """Post *content*, and yield the reply as soon as it begins. Raises StateError if none."""
        with self._short_path() as path:
            # Plain HTTP: loading the certificates would take longer than the request.
            transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(
                    httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)  # noqa: S113  # commands take long
                )
                posting = client.stream("POST", "http://auditrelay/", content=content)
                try:
                    reply = await stack.enter_async_context(posting)
                except httpx.ConnectError as error:
                    raise StateError(
                        f"the instance that has locked {self._state_dir} does not listen on its "
                        f"socket {self._path}: {_without_number(error)}; it may be starting, "
                        "stopping, a run --once, or a command: try again when it has ended"
                    ) from error
                except httpx.TransportError as error:
                    raise StateError(
                        f"the instance that has locked {self._state_dir} gives no answer in HTTP: "
                        f"it has just ended, or {VERSIONS}"
                    ) from error
                yield reply

    @contextlib.contextmanager
    def _short_path(self) -> Iterator[str]:
        """Yield a short path to the socket: one of more than 107 bytes cannot be bound."""
        folder = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{SOCKET}"
        finally:
            os.close(folder)


class _Answering:
    """
    The ASGI application that answers a request by *handle*, with a line for each answer.

    The calls of *handle* are tasks of the group *work*, which fails if one of them has a bug.
    """

    def __init__(self, handle: Handle, work: asyncio.TaskGroup) -> None:
        self.stopping = False
        """Whether no work is begun any more."""
        self._handle = handle
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, until that is done or the client has disconnected."""
        request: bytes | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await _read(HttpRequest(scope, receive))
        except ClientDisconnect:
            return
        except TimeoutError:
            pass  # it is answered all the same
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def answer(answer: Answer) -> None:
            line = encode(answer) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})

        if self.stopping:
            await answer(_STOPPING)
        else:
            by = scope["state"].get(USER)
            working = self._work.create_task(self._do(request, answer, by))
            leaving = asyncio.ensure_future(_disconnect(receive))
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if not self.stopping:  # else the group has cancelled it already
                working.cancel()
            await asyncio.wait([working])
            if working.cancelled():
                await answer(_STOPPING)  # or nothing, if the client has disconnected
        await send({"type": "http.response.body", "body": b""})

    async def _do(
        self,
        request: bytes | None,
        answer: Callable[[Answer], Awaitable[None]],
        by: int | None,
    ) -> None:
        try:
            if request is None:
                raise ConfigError(f"the request has not come within {REQUEST_SECONDS:.0f} seconds")
            if len(request) > MAX_REQUEST:
                raise ConfigError(f"the request is longer than {MAX_REQUEST:,} bytes")
            result = await self._handle(decode_request(request), answer, by)
        except RelayError as error:
            await answer(Failure.of(error))
        else:
            await answer(result)


async def _read(request: HttpRequest) -> bytes:
    """Return the body of *request*, up to the first byte that is more than MAX_REQUEST."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk[: MAX_REQUEST + 1 - len(body)]
    return bytes(body)


async def _disconnect(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lines(reply: httpx.Response) -> AsyncGenerator[bytes]:
    """Yield each complete line of *reply*; raise RelayError for one longer than MAX_LINE."""
    line = bytearray()
    async for chunk in reply.aiter_raw():
        first, *others = chunk.split(b"\n")
        line += first
        for other in others:
            yield bytes(line)
            line = bytearray(other)
        if len(line) > MAX_LINE:
            raise RelayError(f"the answer of the service is longer than {MAX_LINE:,} bytes")


def _without_number(error: Exception) -> str:
    """Return what the system says, without the number of its error."""
    return re.sub(r"^\[Errno \d+\] ", "", str(error))
