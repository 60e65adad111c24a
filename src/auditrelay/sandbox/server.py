"""
An HTTP/1.1 server on loopback that gives a double control over every byte and every failure.

The parser is our own and strict: it refuses what a real front end refuses (two lengths, no Host, a
broken chunk). A bug inside a double is not hidden behind a 500: it is raised when the double stops.
"""

import asyncio
import socket
import struct
import time
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qsl, unquote

from auditrelay.sandbox.faults import NO_FAULT, Action, Faults
from auditrelay.sandbox.messages import BadRequest, Request, Response, Seen, json_response

_READ_AHEAD = 4 * 1024 * 1024

_LOGGED_REQUESTS = 20_000

_ACCEPTING_ROUNDS = 5
"""Rounds of the loop until a connection that was just accepted is among the open ones."""

Refusing = Literal["lingers", "closes", "resets", "resets without a word"]
"""
How a proxy refuses a body that is too large for it, by its Content-Length, unread.

It answers 413 and reads the rest away (nginx), closes at once, or resets the connection; or it
resets without an answer.
"""


def _bind(port: int) -> socket.socket:
    """Return a socket on *port* of loopback, or on a free one for 0; several may share it."""
    # asyncio turns Nagle's algorithm off only for a socket that says that it is TCP.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after connections in TIME_WAIT
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


class Double:
    """
    What all doubles share: a port, faults, a log of requests, and start and stop.

    Subclasses implement :meth:`respond`. *clock* gives epoch seconds. *on_request* is called with
    every request before it is processed and may be asynchronous. After :meth:`stop`, :meth:`start`
    listens on the same port again, so an outage is a ``stop()`` and a ``start()``.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        self.clock = clock
        self.date: Callable[[], float] | None = None
        """The clock of its ``Date`` header, in epoch seconds; None: it sends none."""
        self.faults = Faults(seed)
        self.seen: deque[Seen] = deque(maxlen=_LOGGED_REQUESTS)
        self.answered: Counter[int] = Counter()
        self.requests = 0
        self.connections = 0
        self.on_request: Callable[[Request], Awaitable[None] | None] | None = None
        self.port = 0
        self.proxy_limit: tuple[int, Refusing] | None = None
        """The bytes of a body above which something before the double refuses it, and how."""
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._bugs: list[Exception] = []

    def respond(self, request: Request) -> Response:
        """Do what the real product would do with *request*, and return its answer."""
        raise NotImplementedError  # each double is one product; this class is only the server

    @property
    def url(self) -> str:
        """The address of the double, without a slash at the end; it must have been started."""
        if not self.port:
            raise RuntimeError(f"{type(self).__name__} has not been started")
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        """Listen on a free port, or again on the previous port."""
        if not self.port:
            # Bound for as long as the double exists, so that no other process gets the port during
            # an outage; without listening, it refuses connections.
            reserved = _bind(0)
            weakref.finalize(self, reserved.close)
            self.port = reserved.getsockname()[1]
        self._server = await asyncio.start_server(
            self._accept, sock=_bind(self.port), limit=_READ_AHEAD, backlog=512
        )
        return self

    async def stop(self) -> None:
        """Refuse new connections and reset the open ones. Raises the bugs of the double itself."""
        if self._server is not None:
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            # A closed server refuses to attach what it has accepted, and leaves that open.
            for _ in range(2):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
            for _ in range(_ACCEPTING_ROUNDS):
                await asyncio.sleep(0)
        tasks = dict(self._open)
        for task, writer in tasks.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the transports report their end
        if self._bugs:
            bugs, self._bugs = self._bugs, []
            raise ExceptionGroup(f"{type(self).__name__} itself failed", bugs)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and isinstance(bug := task.exception(), Exception):
            self._bugs.append(bug)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed; its requests were processed
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; return whether the connection stays open."""
        try:
            request = await self._read(reader, writer)
        except BadRequest as error:
            self.answered[error.status] += 1
            await _send(writer, Response(error.status, error.reason.encode()), NO_FAULT, "GET")
            return False
        if request is None:
            return False
        action = self.faults.pick(request)
        seen = Seen(
            request.method,
            request.path,
            request.query,
            request.headers,
            len(request.body),
            request.at,
            fault=action is not NO_FAULT,
        )
        self.seen.append(seen)
        if self.on_request is not None:
            pending = self.on_request(request)
            if pending is not None:
                await pending
        response = await self._process(request, action)
        if action.ending == "reset":
            _reset(writer)
            return False
        if action.ending == "hang":
            while await reader.read(65536):
                pass
            return False
        seen.status = response.status
        self.answered[response.status] += 1
        await _send(writer, self._dated(response), action, request.method)
        if action.close == "reset":
            await asyncio.sleep(0.01)  # so that the reply arrives before the reset
            _reset(writer)
        wants_close = request.headers.get("connection", "").lower() == "close"
        return not (action.close or wants_close)

    def _dated(self, response: Response) -> Response:
        """Return *response* with a ``Date``, unless it has one or the double sends none."""
        if self.date is None or any(name.lower() == "date" for name in response.headers):
            return response
        date = formatdate(self.date(), usegmt=True)
        return replace(response, headers={"Date": date, **response.headers})

    async def _process(self, request: Request, action: Action) -> Response:
        """Process *request* as *action* says, and return the answer."""
        if action.delay:
            await asyncio.sleep(action.delay)
        response = Response(500)
        if action.process:
            try:
                response = self.respond(request)
            except BadRequest as error:
                response = Response(
                    error.status, error.reason.encode(), {"Content-Type": "text/plain"}
                )
        return response if action.answer is None else action.answer(request, response)

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadRequest(431, "Request Header Fields Too Large") from error
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        lines = head[:-4].decode("latin-1").split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
        except ValueError as error:
            raise BadRequest(400, "malformed request line") from error
        if version != "HTTP/1.1":
            raise BadRequest(505, "HTTP Version Not Supported")
        headers = _headers(lines[1:])
        if "host" not in headers:
            raise BadRequest(400, "missing Host header")
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = headers.get("content-length", "")
        if self.proxy_limit is not None and int(length or 0) > self.proxy_limit[0]:
            await _refuse(reader, writer, self.proxy_limit[1])
            return None
        body = await _body(reader, headers)
        path, _, query = target.partition("?")
        self.requests += 1
        return Request(
            self.requests,
            method,
            target,
            unquote(path),
            dict(parse_qsl(query, keep_blank_values=True)),
            headers,
            body,
            self.clock(),
        )


class Trap(Double):
    """
    A foreign server: answers 200 to everything and records every request.

    For redirects and links to a foreign host: no secret may ever arrive here.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.caught: list[Request] = []

    def respond(self, request: Request) -> Response:
        """Record *request* and answer an empty JSON object."""
        self.caught.append(request)
        return json_response(200, {})

    def received(self, secret: str) -> bool:
        """Return whether *secret* arrived in a URL, a header or a body."""
        return any(
            secret in request.target
            or any(secret in value for value in request.headers.values())
            or secret.encode() in request.content("gzip", "deflate")
            for request in self.caught
        )


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "malformed header line")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise BadRequest(400, "ambiguous or unknown message length")
        return await _chunks(reader)
    if length is None:
        return b""
    if not (length.isascii() and length.isdigit()):
        raise BadRequest(400, "malformed Content-Length")
    return await reader.readexactly(int(length))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        line = (await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError as error:
            raise BadRequest(400, "malformed chunk size") from error
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest(400, "malformed chunk")


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, how: Refusing
) -> None:
    """Refuse a request of which only the head was read."""
    if how != "resets without a word":
        await _send(writer, Response(413, b"too large"), NO_FAULT, "POST")
    if how == "lingers":
        writer.write_eof()
        while await reader.read(65536):
            pass
    if how.startswith("resets"):
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST, as a crashed or impatient peer does, instead of a FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    if sock.fileno() == -1:
        return  # the client was more impatient
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _send(
    writer: asyncio.StreamWriter, response: Response, action: Action, method: str
) -> None:
    head = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
    names = {name.lower() for name in response.headers}
    if response.chunked:
        head.append("Transfer-Encoding: chunked")
    elif "content-length" not in names and response.status != 204:
        head.append(f"Content-Length: {len(response.body)}")
    if action.close == "announced":
        head.append("Connection: close")
    head.extend(f"{name}: {value}" for name, value in response.headers.items())
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    if method == "HEAD":
        await writer.drain()
        return
    pieces: Iterable[bytes] = response.chunks if response.chunks is not None else (response.body,)
    if action.drip:
        size, pause = action.drip
        for start in range(0, len(response.body), size):
            writer.write(response.body[start : start + size])
            await writer.drain()
            await asyncio.sleep(pause)
        return
    for piece in pieces:
        if response.chunked:
            writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n" if piece else b"")
        else:
            writer.write(piece)
        await writer.drain()
    if response.chunked:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
