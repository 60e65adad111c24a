"""A connected socket to whichever address of a host answers."""

import asyncio
import socket
from typing import Any

ATTEMPT_DELAY = 0.25
"""Seconds after which the next address is tried as well (RFC 8305, 5)."""


async def dial(host: str, port: int) -> socket.socket:
    """
    Return a socket connected to *host*: to the first of its addresses that answers.

    An address that does not answer, often one of IPv6, only costs ATTEMPT_DELAY. asyncio can do so
    too (``happy_eyeballs_delay``), but loses a socket that is connected just as the caller gives
    up. Raises OSError: that of the last attempt.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    attempts: set[asyncio.Task[socket.socket]] = set()
    pending: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            if addresses:
                family, kind, protocol, _, address = addresses.pop(0)
                attempt = loop.create_task(_connected(family, kind, protocol, address))
                attempts.add(attempt)
                pending.add(attempt)
            done, pending = await asyncio.wait(
                pending,
                timeout=ATTEMPT_DELAY if addresses else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                if attempt.exception() is None:
                    attempts.discard(attempt)
                    return attempt.result()
                if not (addresses or pending):
                    attempt.result()  # raises
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_discard)


async def _connected(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003  # the library's own form
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
