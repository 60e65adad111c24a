"""
A wire between clients and a server, on loopback, that is slow, or cut, or loses what it carries.

It is a TCP proxy that knows no protocol. It runs in a thread of its own, so that tests with and
without a loop use it alike; each method returns when the change is in force.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Literal, Self
from urllib.parse import urlsplit

import pytest
from tests.support.postgres import Server
from tests.support.proxy import reset

HOST = "127.0.0.1"
_PATIENCE = 30.0
_PIECE = 1 << 16

Then = Literal["cut", "hold", "mute"]


class _Carries(IntEnum):
    """What gets through: of what two say, the greater one is in force."""

    ALL = 0
    LATER = 1
    NOTHING = 2


class _State:
    """What the whole wire does and has done."""

    def __init__(self, address: str) -> None:
        self.target = _host_and_port(address)
        self.to_server = self.to_client = _Carries.ALL
        self.delay = 0.0  # in seconds, each way
        self.trap: _Trap | None = None
        self.connections = 0
        self.resets = 0
        self.sent = 0
        self.changed = asyncio.Event()


class Wire:
    """
    The wire to the server at *address*, a URL; ``through`` says how clients use it.

    Who connects while nothing gets to the server is connected with it afterwards. Who connects
    while the server refuses is reset.
    """

    def __init__(self, address: str) -> None:
        self._state = _State(address)
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._accept, HOST, 0)
        self._listener = asyncio.run_coroutine_threadsafe(listening, self._loop).result(_PATIENCE)
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def through(self, address: str) -> str:
        """Return the URL *address* with the wire in the place of the server."""
        parts = urlsplit(address)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{HOST}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many clients have connected since the beginning."""
        return self._state.connections

    @property
    def open(self) -> int:
        """How many connections there are between a client and a server."""
        return len(self._open)

    @property
    def sent(self) -> int:
        """How many bytes the server was sent since the beginning."""
        return self._state.sent

    # --- what can happen to it ---------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Carry everything so much later that a round trip takes *seconds* more."""
        self._state.delay = seconds / 2
        self._do()

    def hold(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Carry nothing until the wire is healed, then all that waits: a partition that ends."""
        self._stop(_Carries.LATER, to_server=to_server, to_client=to_client)

    def drop(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """
        Swallow everything, the ends of connections as well, so that no side learns of it.

        A connection that has lost something is reset when the wire is healed.
        """
        self._stop(_Carries.NOTHING, to_server=to_server, to_client=to_client)

    def trip(self, then: Then, *, at: bytes = b"", after: int = 0) -> threading.Event:
        """
        Break one connection at an exact place: that of the first client that sends *at*.

        The first *after* bytes from the beginning of *at* on get to the server, and *then* it is
        ``cut``: the client is reset, and the server sees an end; or ``hold``: the rest of what the
        client sends waits; or ``mute``: the server gets the rest, and its answers are swallowed.
        Those two last until the wire is healed. The event says that it has happened.
        """
        self._state.trap = trap = _Trap(then, at, after)
        self._do()
        return trap.happened

    def reset(self) -> None:
        """Reset all connections, at both ends."""
        self._state.resets += 1
        self._do(_Connection.reset)

    def switch(self, address: str) -> None:
        """Connect new clients with the server at *address*; the others stay where they are."""
        self._state.target = _host_and_port(address)
        self._do()

    def heal(self) -> None:
        """Carry everything at once, as in the beginning."""
        self._state.to_server = self._state.to_client = _Carries.ALL
        self._state.delay, self._state.trap = 0.0, None
        self._do(_Connection.heal)

    def close(self) -> None:
        """Reset all connections, and refuse others."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _stop(self, carries: _Carries, *, to_server: bool, to_client: bool) -> None:
        if to_server:
            self._state.to_server = carries
        if to_client:
            self._state.to_client = carries
        self._do()

    def _do(self, each: "Callable[[_Connection], None] | None" = None) -> None:
        """Call *each* for the connections, and wake what waits for a change; in the loop."""

        async def done() -> None:
            if each is not None:
                for connection in tuple(self._open):
                    each(connection)
            self._state.changed.set()
            self._state.changed = asyncio.Event()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(_PATIENCE)

    # --- in the loop -------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._state.connections += 1
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resets = self._state.resets
        try:
            while self._state.to_server is not _Carries.ALL and resets == self._state.resets:
                await self._state.changed.wait()
            server = await asyncio.open_connection(*self._state.target)
        except OSError:
            reset(writer)
            return
        except asyncio.CancelledError:
            reset(writer)
            raise
        connection = _Connection(self._state, (reader, writer), server)
        self._open.add(connection)
        try:
            if resets == self._state.resets:  # or it was reset before it was whole
                await connection.carry()
        finally:
            connection.reset()
            self._open.discard(connection)

    async def _end(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports are closed in the next turn of the loop


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """A client's connection to the wire and the wire's to the server."""

    def __init__(self, state: _State, client: _Ends, server: _Ends) -> None:
        self.state = state
        self.client, self.server = client[1], server[1]
        self.to_server = self.to_client = _Carries.ALL  # beside what the whole wire does
        self.lost = False
        self._ways = (
            _Way(self, client[0], server[1], lambda: max(state.to_server, self.to_server)),
            _Way(self, server[0], client[1], lambda: max(state.to_client, self.to_client)),
        )

    async def carry(self) -> None:
        """Carry what both send until both have ended."""
        async with asyncio.TaskGroup() as group:
            for way in self._ways:
                group.create_task(way.read())
                group.create_task(way.write())
        while self.lost:  # who has not seen the end believes to be connected
            await self.state.changed.wait()

    def heal(self) -> None:
        """Carry everything, or reset what has lost something: a stream has no holes."""
        self.to_server = self.to_client = _Carries.ALL
        if self.lost:
            self.reset()
            self.lost = False

    def reset(self) -> None:
        """Reset both ends; one that is closed already stays as it is."""
        for writer in (self.client, self.server):
            if not writer.transport.is_closing():
                reset(writer)


class _Way:
    """One direction of a connection; that to the server has the traps and is counted."""

    def __init__(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        carries: Callable[[], _Carries],
    ) -> None:
        self._connection = connection
        self._state = connection.state
        self._reader = reader
        self._writer = writer
        self._to_server = writer is connection.server
        self._carries = carries
        self._waiting: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()

    async def read(self) -> None:
        """Note when each piece is due; the last one is empty, or None for a reset."""
        data: bytes | None = b"-"
        while data:
            try:
                data = await self._reader.read(_PIECE)
            except OSError:
                data = None
            due = asyncio.get_running_loop().time() + self._state.delay
            self._waiting.put_nowait((due, data))

    async def write(self) -> None:
        """Pass each piece on when it is due, and the end."""
        while True:
            due, data = await self._waiting.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            trap = self._state.trap if self._to_server else None
            room = trap.room(self._connection, data) if trap and data else None
            if trap and data and room is not None:
                if room:
                    await self._pass(data[:room])
                trap.spring(self._connection)
                data = data[room:]
                if self._writer.is_closing():
                    return
                if not data:
                    continue
            await self._pass(data)
            if not data:
                return

    async def _pass(self, data: bytes | None) -> None:
        while (carries := self._carries()) is _Carries.LATER:
            await self._state.changed.wait()
        if carries is _Carries.NOTHING:
            self._connection.lost = True
        elif data is None:
            reset(self._writer)
        elif not data:
            with contextlib.suppress(OSError):  # as below
                self._writer.write_eof()
        else:
            if self._to_server:
                self._state.sent += len(data)
            self._writer.write(data)
            with contextlib.suppress(OSError):  # it has gone, which the other direction will see
                await self._writer.drain()


class _Trap:
    """Waits for a client to send *at*; *after* so many bytes of that connection it springs."""

    def __init__(self, then: Then, at: bytes, after: int) -> None:
        self.happened = threading.Event()
        self._then = then
        self._at = at
        self._left = after
        self._caught: _Connection | None = None
        self._ends: dict[_Connection, bytes] = {}  # *at* may come in two pieces

    def room(self, connection: _Connection, data: bytes) -> int | None:
        """Return how many bytes of *data* to pass before it springs, None if it does not."""
        if self._caught is None:
            end = self._ends.get(connection, b"")
            start = (end + data).find(self._at)
            if start < 0:
                self._ends[connection] = (end + data)[1 - len(self._at) :] if self._at[1:] else b""
                return None
            self._caught = connection
            self._left += start - len(end)
        if self._caught is not connection:
            return None
        if self._left > len(data):
            self._left -= len(data)
            return None
        return max(self._left, 0)

    def spring(self, connection: _Connection) -> None:
        """Do to *connection* what is to be done."""
        if self._then == "cut":
            connection.server.close()
            reset(connection.client)
        elif self._then == "hold":
            connection.to_server = _Carries.LATER
        else:
            connection.to_client = _Carries.NOTHING
        self.happened.set()


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@pytest.fixture
def wire(postgres: Server) -> Iterator[Wire]:
    """A wire to the server of :func:`tests.support.postgres.database`."""
    with Wire(postgres.address()) as between:
        yield between
