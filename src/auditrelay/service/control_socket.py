"""
How a command asks the running instance: one line of JSON over a Unix socket in the state directory.

Whatever writes to the state or reads a source beside the service is done by the service itself.
So there is one writer, one rate budget a source, one set of cookies, and what is forwarded is
delivered at once (docs/decisions/0016-control-socket.md). Whoever may open the state directory may
ask; nobody else can reach the socket.

The command sends one object. The service answers with lines ``{"told": ...}`` as the work goes on,
and at last ``{"result": ...}`` or ``{"error": "...", "status": N}``. A command that goes away
breaks its work off.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from auditrelay.collect.progress import OnProgress
from auditrelay.errors import ConfigError, RelayError, StateError, exit_status

SOCKET: Final = "control"

_MOST_BYTES: Final = 256 << 20
"""The largest line: a report lists everything that is missing."""

Handle = Callable[[dict[str, Any], OnProgress], Awaitable[dict[str, Any]]]


async def serve(state_dir: Path, handle: Handle) -> None:
    """
    Answer commands until cancelled; whoever is being answered then is told so.

    A bug in *handle* is raised here, like any other bug of the service.
    """
    async with asyncio.TaskGroup() as tasks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.create_task(_answer(reader, writer, handle))

        with contextlib.ExitStack() as stack:
            # The path is good as long as the folder is open; asyncio may look the socket up by it.
            path = stack.enter_context(_reachable(state_dir))
            stack.callback((state_dir / SOCKET).unlink, missing_ok=True)
            listening = stack.enter_context(_listen(state_dir, path))
            server = await asyncio.start_unix_server(accept, sock=listening, limit=_MOST_BYTES)
            # Not waited for: later Pythons would wait for those who are still being answered, and
            # they are cancelled only when this is over.
            stack.callback(server.close)
            await asyncio.Event().wait()


def _listen(state_dir: Path, path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    # A socket that is left over belongs to nobody: the lock on the state is ours.
    (state_dir / SOCKET).unlink(missing_ok=True)
    listening.bind(path)
    (state_dir / SOCKET).chmod(0o600)
    return listening


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle
) -> None:
    async def say(line: dict[str, Any]) -> None:
        writer.write(json.dumps(line).encode() + b"\n")
        await writer.drain()

    async def on_progress(progress: dict[str, Any]) -> None:
        # Whoever has gone is noticed below, and the work ends there.
        with contextlib.suppress(OSError):
            await say({"told": progress})

    try:
        request = await _request(reader)
        if request is None:
            return
        working = asyncio.ensure_future(handle(request, on_progress))
        leaving = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return
            result = working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
        with contextlib.suppress(OSError):
            await say({"result": result})
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await say({"error": "the service is stopping; what was done is kept", "status": 1})
        raise
    except RelayError as error:
        with contextlib.suppress(OSError):
            await say({"error": str(error), "status": exit_status(error)})
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return what is asked, or None: whoever asked has gone, or is no command of ours."""
    try:
        request = json.loads(await reader.readline())
    except (OSError, ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


async def ask(state_dir: Path, request: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    """
    Have the running instance do *request*; return the result.

    Raises what it raised: ConfigError, StateError or RelayError; StateError if it does not listen.
    """
    try:
        with _reachable(state_dir) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
    except OSError as error:
        raise StateError(
            f"the instance that holds {state_dir} does not listen on its socket "
            f"{state_dir / SOCKET}: {error.strerror or error}; it may be starting, stopping, or a "
            "run --once: try again when it has ended"
        ) from error
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        async for line in reader:
            if not line.endswith(b"\n"):
                break  # it was killed in the middle of a word
            answer = json.loads(line)
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if "error" in answer:
                kind = {2: ConfigError, 3: StateError}.get(answer["status"], RelayError)
                raise kind(answer["error"])
            await on_progress(answer["told"])
    except OSError as error:
        raise RelayError(f"the connection to the service broke off: {error}") from error
    finally:
        writer.close()
    raise RelayError("the service ended before it was done; what was done is kept")


@contextlib.contextmanager
def _reachable(state_dir: Path) -> Iterator[str]:
    """Yield a short path of the socket: a longer one than 107 bytes cannot be bound."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
