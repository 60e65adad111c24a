"""A proxy on loopback, for plain requests and for CONNECT, that passes on what breaks as well."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.peers import scripted


@asynccontextmanager
async def proxy() -> AsyncIterator[str]:
    """Run the proxy; the result is its address."""
    async with scripted(_serve) as address:
        yield address


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    method, target, _version = head.split(b" ", 2)
    tunnel = method == b"CONNECT"
    address = urlsplit(b"//" + target if tunnel else target)
    assert address.hostname is not None
    try:
        upstream, down = await asyncio.open_connection(
            address.hostname.decode(), address.port or 80
        )
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        return
    try:
        replies = asyncio.create_task(_pump(upstream, writer))
        if tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            requests = asyncio.create_task(_pump(reader, down))
        else:
            requests = asyncio.create_task(_forward(reader, down, head))
        try:
            await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
        finally:
            requests.cancel()
            replies.cancel()
            await asyncio.gather(requests, replies, return_exceptions=True)
    finally:
        down.close()


async def _forward(reader: asyncio.StreamReader, down: asyncio.StreamWriter, head: bytes) -> None:
    """Pass requests on as an origin server wants them: without the address in their first line."""
    while True:
        down.write(re.sub(rb"^(\S+ )http://[^/ ]+", rb"\1", head))
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        left = int(length[1]) if length else 0
        while left and (data := await reader.read(min(left, 65536))):
            down.write(data)
            await down.drain()
            left -= len(data)
        head = await reader.readuntil(b"\r\n\r\n")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionResetError:
        reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection instead of closing it."""
    sock: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
