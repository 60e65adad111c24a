"""
How a command asks the running instance: one line of JSON over a Unix socket in the state directory.

While a service runs, every command that writes to the state or reads a source is carried out by
the service. So there is one writer, one rate limit a source, one set of cookies, and what is
forwarded is delivered at once (docs/decisions/0016-control-socket.md). Only processes that may
open the state directory can reach the socket.

The command sends one object. The service answers with lines ``{"progress": ...}`` during the work,
and at the end ``{"result": ...}`` or ``{"error": "...", "status": N}``. If the command disconnects,
its work is cancelled.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from auditrelay.collect.on_progress import OnProgress
from auditrelay.errors import ConfigError, RelayError, StateError, exit_status

SOCKET: Final = "control"

_MOST_BYTES: Final = 256 << 20
"""The longest line: a report of verify lists every missing event."""

Handle = Callable[[dict[str, Any], OnProgress], Awaitable[dict[str, Any]]]


async def serve(state_dir: Path, handle: Handle) -> None:
    """
    Answer commands until cancelled; commands in progress then get an error that says so.

    A bug in *handle* is raised here, like any other bug of the service.
    """
    async with asyncio.TaskGroup() as tasks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.create_task(_answer(reader, writer, handle))

        with contextlib.ExitStack() as stack:
            # The path is valid as long as the folder is open; asyncio may stat the socket by it.
            path = stack.enter_context(_short_path(state_dir))
            stack.callback((state_dir / SOCKET).unlink, missing_ok=True)
            listening = stack.enter_context(_listen(state_dir, path))
            server = await asyncio.start_unix_server(accept, sock=listening, limit=_MOST_BYTES)
            # Not wait_closed(): later Pythons wait for open connections, and those are cancelled
            # only after this block.
            stack.callback(server.close)
            await asyncio.Event().wait()


def _listen(state_dir: Path, path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    # A socket that exists already is stale: we have the lock on the state.
    (state_dir / SOCKET).unlink(missing_ok=True)
    listening.bind(path)
    (state_dir / SOCKET).chmod(0o600)
    return listening


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle
) -> None:
    async def reply(line: dict[str, Any]) -> None:
        writer.write(json.dumps(line).encode() + b"\n")
        await writer.drain()

    async def on_progress(progress: dict[str, Any]) -> None:
        # A disconnect is noticed below, and the work is cancelled there.
        with contextlib.suppress(OSError):
            await reply({"progress": progress})

    try:
        request = await _request(reader)
        if request is None:
            return
        working = asyncio.ensure_future(handle(request, on_progress))
        disconnect = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([working, disconnect], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return
            result = working.result()
        finally:
            for task in (working, disconnect):
                task.cancel()
            await asyncio.gather(working, disconnect, return_exceptions=True)
        with contextlib.suppress(OSError):
            await reply({"result": result})
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await reply({"error": "the service is stopping; what was done is kept", "status": 1})
        raise
    except RelayError as error:
        with contextlib.suppress(OSError):
            await reply({"error": str(error), "status": exit_status(error)})
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return the request, or None if the client has gone or sent no request of ours."""
    try:
        request = json.loads(await reader.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


async def ask(state_dir: Path, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    """
    Send *request* to the running instance; return the result.

    Raises the error of the instance (ConfigError, StateError, RelayError), or StateError if it does
    not listen.
    """
    try:
        with _short_path(state_dir) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
    except OSError as error:
        raise StateError(
            f"the instance that has locked {state_dir} does not listen on its socket "
            f"{state_dir / SOCKET}: {error.strerror or error}; it may be starting, stopping, or a "
            "run --once: try again when it has ended"
        ) from error
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        async for line in reader:
            if not line.endswith(b"\n"):
                break  # the service was killed while it wrote the line
            answer = json.loads(line)
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if "error" in answer:
                kind = {2: ConfigError, 3: StateError}.get(answer["status"], RelayError)
                raise kind(answer["error"])
            await on_progress(answer["progress"])
    except OSError as error:
        raise RelayError(f"the connection to the service broke: {error}") from error
    finally:
        writer.close()
    raise RelayError("the service ended before the command was done; what was done is kept")


@contextlib.contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    """Yield a short path to the socket: one of more than 107 bytes cannot be bound."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
